// @ts-check
// Names of groups and faders in words. The codes are those of the weights text; a word beside each says what it stands for.
import { t } from '../lib/i18n.js'

/** @typedef {Parameters<typeof t>[0]} Key */

/** @type {Record<string, Key>} */
const WORDS = {
  IN: 'groupIn',
  M: 'groupMiddle',
  OUT: 'groupOut',
  DOWN: 'groupDown',
  UP: 'groupUp',
  D: 'groupDouble',
  S: 'groupSingle',
  J: 'groupJoint',
  T: 'groupBlocks',
  L: 'groupLayers',
  B: 'groupBlocks',
  P: 'groupPatch',
  PX: 'groupPixel',
  CR: 'groupContext',
  NR: 'groupNoise',
  TE: 'groupEncoders',
  OTHER: 'groupOther',
}

/**
 * Of a group: the code that its weights are written with, and what that is. A group that is a word already has no code.
 *
 * @param {string} name
 */
export function groupName(name) {
  const word = name in WORDS ? t(WORDS[name]) : ''
  return name === 'OTHER' ? { code: '', word } : { code: name, word }
}

/**
 * What stands under a fader: a number, or the end of an encoder's name with, where there is room, what comes before it.
 *
 * @param {string} name
 */
export function shortName(name) {
  if (name.startsWith('TE:')) {
    const encoder = name.slice(3)
    const clip = /^clip_(\w{1,2})$/.exec(encoder)
    if (clip) return { before: 'CLIP-', label: clip[1].toUpperCase() }
    const t5 = /^(u?m?t5)/.exec(encoder)
    return { before: '', label: t5 ? t5[1].toUpperCase() : encoder.slice(0, 5) }
  }
  const number = /\d+$/.exec(name)?.[0]
  return { before: '', label: number ? String(Number(number)) : '' }
}
