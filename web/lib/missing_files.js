// @ts-check
// LoRA files that a node's text names and that are not here, for ComfyUI's own list of missing models with its download button. ComfyUI looks
// through lists on nodes when a workflow is loaded, before any server could be asked: so each such file gets a list that nobody sees, and the
// names are found in the text here, roughly. What a text really means is the server's to say.

/** @typedef {import('./comfy.js').GraphNode} GraphNode */
/** @typedef {import('./comfy.js').Widget} Widget */

const KIND = 'strata_file_'
/** The most lists on one node. */
const MOST = 50
const TAG = /<(?:lora|lyco):([^:<>\\{}[\]|()]{1,400})[:>]/gi
const ENDING = /\.(safetensors|sft|pt|pth|ckpt|bin)$/i

/** The LoRA files that ComfyUI lists. @type {string[]} */
let listed = []
/** @type {Set<string>} */
let known = new Set()

/** @param {unknown} definition of a loader, as the server sends it */
export function learnFiles(definition) {
  const spec = /** @type {{input?: {required?: {lora_name?: unknown[]}}}} */ (definition)?.input?.required?.lora_name
  const options = /** @type {{options?: unknown}} */ (spec?.[1])?.options
  const names = Array.isArray(spec?.[0]) ? spec[0] : options
  if (!Array.isArray(names)) return
  listed = names.filter((name) => typeof name === 'string' && ENDING.test(name))
  known = new Set()
  knowFiles(listed)
}

/**
 * Files that the server has told of: one that came after the page was loaded is in no list yet.
 *
 * @param {(string | null | undefined)[]} names
 */
export function knowFiles(names) {
  for (const name of names) {
    if (!name) continue
    known.add(plain(name))
    known.add(baseOf(plain(name)))
  }
}

/** A name by whichever slash, with an ending. @param {string} name */
function plain(name) {
  const found = name.trim().replaceAll('\\', '/')
  return ENDING.test(found) ? found : `${found}.safetensors`
}

/** @param {string} name */
const baseOf = (name) => name.slice(name.lastIndexOf('/') + 1)

/** Whether a file is here, maybe in another folder. @param {string} name */
const isHere = (name) => known.has(name) || known.has(baseOf(name))

/** Words in front of a row, and whether it is a heading. */
const LEAD = /^\s*((?:(?:off|lock|pick)(?![^\s<#])\s*)*)(#?)/i

/** The rows that act: neither off nor picked by the seed, nor under a heading that is off. @param {string} text */
function actingRows(text) {
  let on = true
  return text.split('\n').filter((line) => {
    const [, words, heading] = line.match(LEAD) ?? ['', '', '']
    const isOff = /off/i.test(words)
    if (heading) on = !isOff
    return on && !isOff && !/pick/i.test(words)
  }).join('\n')
}

/** The files that a text's tags name. @param {string} text */
export const namesIn = (text) => [
  ...new Set([...text.matchAll(TAG)].map((match) => plain(match[1])).filter((name) => !name.includes('*'))),
]

/** The files that a stack's rows name, of the rows that act. @param {string} text */
export const namesInRows = (text) => namesIn(actingRows(text))

/** @param {string} name */
const withoutSide = (name) => name.replace(/high|low/gi, '*')

/** The other files of pairs of which a text names one: those that the workflow itself lists for the node. @param {GraphNode} node @param {string[]} names */
function halvesOf(node, names) {
  const models = node.properties?.models
  /** @type {unknown[]} */
  const files = Array.isArray(models) ? models.map((model) => model?.name) : []
  const sides = new Set(names.map((name) => withoutSide(baseOf(name))))
  return files.filter((name) => typeof name === 'string').map(plain)
    .filter((name) => !names.includes(name) && sides.has(withoutSide(baseOf(name))))
}

/**
 * Brings a node's lists of missing files to what its text names now.
 *
 * @param {GraphNode} node
 * @param {string[]} names
 * @param {(name: string, instead: string) => void} replace another file was chosen in ComfyUI's list
 */
export function showMissing(node, names, replace) {
  const wanted = [...names, ...halvesOf(node, names)]
  const missing = listed.length ? wanted.filter((name) => !isHere(name)).slice(0, MOST) : []
  const lists = (node.widgets ?? []).filter((widget) => widget.name.startsWith(KIND))
  if (JSON.stringify(missing) === JSON.stringify(lists.map(({ value }) => value))) return
  for (const list of lists) {
    if (!missing.includes(String(list.value))) node.onWidgetChanged?.(list.name, listed[0], list.value, list)
  }
  const others = (node.widgets ?? []).filter((widget) => !lists.includes(widget))
  node.widgets = others
  missing.forEach((name, at) => {
    const choose = (/** @type {unknown} */ value) => value !== name && replace(name, String(value))
    const list = node.addWidget?.('combo', `${KIND}${at}`, name, choose, {
      values: listed,
      serialize: false,
      hidden: true,
      hideInPanel: true,
    })
    if (!list) return
    list.serialize = false
    list.hidden = true
    list.computeSize = () => [0, -4]
  })
}
