// @ts-check
// The words of the desk and the loader's line. English is here; other languages come from locales/<language>/main.json under "strata".
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'
// @ts-ignore served by ComfyUI
import { api } from '../../../scripts/api.js'

const ENGLISH = {
  desk: 'Block weights',
  presets: 'Presets',
  search: 'Search presets',
  noPresets: 'No preset fits.',
  saveAs: 'Save these weights as',
  save: 'Save',
  deletePreset: 'Delete the preset {name}',
  yours: 'yours',
  reset: 'Reset',
  resetHint: 'Every block back to 1',
  invert: 'Invert',
  invertHint: '1 minus each weight',
  copy: 'Copy',
  copyHint: 'Copy the weights as text',
  paste: 'Paste',
  pasteHint: 'Paste weights: names, or a vector of numbers from another program',
  pasteHere: 'Paste the weights here',
  mute: 'Mute',
  solo: 'Solo',
  muteHint: 'Mute {name}: weight 0, and back (M)',
  soloHint: 'Solo {name}: all others 0, and back (S or Alt+click)',
  all: '{name}, all',
  weight: 'Weight of {name}',
  hint: 'Drag, or paint across. Double-click: 1. Alt+click: solo. Type a number.',
  nothing: 'not in this LoRA',
  share: '{share} % of the LoRA',
  relative: 'changes these weights by {relative} %',
  barsShare: 'share',
  barsShareHint: 'The bars show how much of the LoRA lies in each block.',
  barsRelative: 'change',
  barsRelativeHint: 'The bars show how far the LoRA, at strength 1, changes the weights that each block of the loaded model has.',
  linked: 'The weights come from a wire. Edit them at its other end.',
  seeInput: 'The node has "invert" on: each weight w acts as 1 - w.',
  noLora: 'No LoRA: connect to a loader',
  reading: 'Reading ...',
  finer: 'with finer rules: {rules}',
  otherFamily: '{lora} is {family}',
  details: 'Details: exact strengths, trigger words, what is in the file',
  link: 'Move both strengths together',
  triggers: 'Trigger words',
  copied: 'Copied',
  copyWord: 'Click to copy',
  copyAll: 'Copy all',
  exact: 'Exact strengths',
  beyond: 'Beyond {reach} ...',
  beyondHint: '{name} is at the end of its slider. Type any value from -100 to 100.',
  metadata: 'In the file',
  leftovers: 'Not understood ({count})',
  report: 'Last run',
  none: 'none',
  offline: 'The server does not answer.'
}

/** @type {Record<string, string>} */
let words = ENGLISH

/** Fetches the words of the chosen language. Without them the desk speaks English. */
export async function loadWords() {
  const locale = app.extensionManager?.setting?.get('Comfy.Locale') ?? 'en'
  if (locale === 'en') return
  try {
    const answer = await api.fetchApi('/i18n')
    words = { ...ENGLISH, ...((await answer.json())[locale]?.strata ?? {}) }
  } catch {
    words = ENGLISH
  }
}

/**
 * @param {keyof typeof ENGLISH} key
 * @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole))
}
