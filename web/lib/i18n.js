// @ts-check
// The words of the desk and the loader's line. English is here; other languages come from locales/<language>/main.json, the words under
// "strata" and what the pack's presets are for under "strataPresets".
import { api, app } from './comfy.js'

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
  hint: 'Drag, or paint across. Double-click: 1. Right click: more. Type a number.',
  nothing: 'not in this LoRA',
  share: '{share} % of the LoRA',
  relative: 'changes these weights by {relative} %',
  barsShare: 'share',
  barsShareHint: 'The bars show how much of the LoRA lies in each block.',
  barsRelative: 'change',
  barsRelativeHint:
    'The bars show how far the LoRA, at strength 1, changes the weights that each block of the loaded model has.',
  linked: 'The weights come from a wire. Edit them at its other end.',
  noLora: 'No LoRA: connect to a loader',
  reading: 'Reading ...',
  finer: 'with finer rules: {rules}',
  otherFamily: '{lora} is {family}',
  details: 'Details: trigger words, what is in the file',
  triggers: 'Trigger words',
  copied: 'Copied',
  copyWord: 'Click to copy',
  copyAll: 'Copy all',
  metadata: 'In the file',
  leftovers: 'Not understood ({count})',
  report: 'Last run',
  none: 'none',
  offline: 'The server does not answer.',
  inverted: 'Inverted: what acts is {text}',
  unmute: 'Unmute',
  unsolo: 'End solo',
  toOne: 'Set to 1',
  typeWeight: 'Type a weight ...',
  every: 'all',
  notANumber: '"{text}" is not taken: type a number from -{limit} to {limit}.',
  replace: 'Replace',
  replaceOwn: 'You have a preset "{name}" already. Press Replace to overwrite it.',
  replaceBuiltin:
    '"{name}" is a preset of this pack. Press Replace to use yours in its place; deleting yours brings it back.',
  barsTop: 'The highest bar is {top} %.',
  groupIn: 'input',
  groupMiddle: 'mid',
  groupOut: 'output',
  groupDown: 'down',
  groupUp: 'up',
  groupDouble: 'double',
  groupSingle: 'single',
  groupJoint: 'joint',
  groupBlocks: 'blocks',
  groupLayers: 'layers',
  groupPatch: 'patch',
  groupPixel: 'pixel',
  groupContext: 'context',
  groupNoise: 'noise',
  groupEncoders: 'text',
  groupOther: 'other',
  strengths: 'Strengths',
  strengthHint: 'Drag; Shift for fine steps. Double-click or type for any value from -100 to 100. Right click: 1.',
  linkNone: 'The strengths move each on their own. Click: keep their ratio',
  linkEqual: 'Both strengths have the same value. Click: each on its own',
  linkRatio: 'The strengths keep their ratio. Click: the same value for both',
  file: 'LoRA file',
  problem: 'What is wrong',
  fileKind: '{family} {kinds}',
  fileKindUnknown: '{kinds} of an unknown family',
  fileRank: 'rank {rank}',
  fileAlpha: 'alpha {alpha}',
  fileNoAlpha: 'no alpha (scale 1)',
  fits: 'fits {family}',
  fitsPartly: '{used} of {total} tensors fit {family}',
  loadedModel: 'the loaded model',
  comma: ', ',
  exampleFor: '{label}, such as {example}',
}

/** @type {Record<string, string>} */
let words = ENGLISH
/** What a preset is for, in English -> in the page's language. @type {Record<string, string>} */
let presets = {}

/** Fetches the words of the chosen language. Without them the desk speaks English. */
export async function loadWords() {
  const locale = String(app.extensionManager?.setting?.get('Comfy.Locale') ?? 'en')
  if (locale === 'en') return
  try {
    const found = (await (await api.fetchApi('/i18n')).json())[locale]
    words = { ...ENGLISH, ...found?.strata }
    presets = found?.strataPresets ?? {}
  } catch {
    words = ENGLISH
  }
}

/**
 * @param {keyof typeof ENGLISH} key
 * @param {Record<string, string | number>} [values] for its placeholders
 */
export function t(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole))
}

/** What one of the pack's presets is for. @param {{about: string}} preset */
export const presetAbout = ({ about }) => presets[about] ?? about
