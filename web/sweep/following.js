// @ts-check
// What draws the picture behind a LoRA: the sampler, its prompts, latent and VAE, found by following wires. Nothing is guessed: what no wire
// tells is not found, and what stands between is named.
import { isLinked, nodesBehind, sourceOf, valueOf, widgetOf } from '../lib/graph.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {{from: GraphNode, name: string} | {value: unknown}} Found a wire into an input of a node, or a value */
/** @typedef {{found: Map<string, Found>, leftOut: string[], sampler: GraphNode | null}} Way found: by the input of a sweep */

const FARTHEST = 32
/** A node's modes in which it does not run. */
const IDLE = [2, 4]
const ENCODE = 'CLIPTextEncode'
/** Nodes that change a prompt that is encoded already, and their input that it comes by. @type {Record<string, string[]>} */
const ON_THE_WAY = {
  FluxGuidance: ['conditioning'],
  ControlNetApply: ['conditioning'],
  ControlNetApplyAdvanced: ['positive', 'negative'],
}
/** Inputs of a sampler that a sweep has by the same name. */
const NUMBERS = ['steps', 'cfg', 'sampler_name', 'scheduler', 'denoise']
const STAGED = { start_at_step: 0, add_noise: 'enable' }

/**
 * @param {GraphNode} node that has the LoRA, with inputs model and clip
 * @returns {Way}
 */
export function follow(node) {
  /** @type {Way} */
  const way = { found: new Map(), leftOut: [], sampler: null }
  if (isLinked(node, 'model')) way.found.set('model', { from: node, name: 'model' })
  if (isLinked(node, 'clip')) way.found.set('clip', { from: node, name: 'clip' })
  for (const sampler of nodesBehind(node)) {
    if (!isSampler(sampler)) continue
    const guider = sourceOf(sampler, 'guider')?.node
    const between = chain(guider ?? sampler, 'MODEL', node)
    if (!between) continue
    way.sampler = sampler
    way.leftOut.push(...between.map(titleOf))
    ofSampler(way, node, sampler, guider ?? sampler)
    break
  }
  return way
}

/** @param {GraphNode} node */
function isSampler(node) {
  const types = new Map(node.inputs?.map(({ name, type }) => [name, type]))
  return !IDLE.includes(node.mode ?? 0) && types.get('latent_image') === 'LATENT' &&
    (types.has('model') || types.has('guider'))
}

/**
 * @param {Way} way
 * @param {GraphNode} node that has the LoRA
 * @param {GraphNode} sampler
 * @param {GraphNode} prompted the one with the prompts: the sampler or its guider
 */
function ofSampler(way, node, sampler, prompted) {
  const { found } = way
  const keep = (/** @type {string} */ name, /** @type {Found | null | undefined} */ what) =>
    what && found.set(name, what)
  for (const name of ['latent_image', 'sampler', 'sigmas']) keep(name, wire(sampler, name))
  for (const name of NUMBERS) keep(name, told(sampler, name) ?? told(prompted, name))
  const noise = sourceOf(sampler, 'noise')?.node
  keep('seed', told(sampler, 'seed') ?? told(sampler, 'noise_seed') ?? (noise && told(noise, 'noise_seed')))
  for (const [name, usual] of Object.entries(STAGED)) {
    if (widgetOf(sampler, name) && valueOf(sampler, name) !== usual) way.leftOut.push(`${titleOf(sampler)}: ${name}`)
  }
  const isBasic = prompted !== sampler && Boolean(prompted.inputs?.some((slot) => slot.name === 'conditioning'))
  const positive = prompt(prompted, isBasic ? 'conditioning' : 'positive', way)
  keep('positive', positive?.text)
  if (isBasic) {
    found.set('negative', { value: '' })
    found.set('cfg', { value: 1 })
  } else keep('negative', prompt(prompted, 'negative', way)?.text)
  if (positive) ofClip(way, node, positive.node)
  for (const behind of nodesBehind(sampler)) {
    const vae = behind.inputs?.find((slot) => slot.type === 'VAE')
    if (!vae || IDLE.includes(behind.mode ?? 0) || !chain(behind, 'LATENT', sampler)) continue
    keep('vae', wire(behind, vae.name))
    if (found.has('vae')) break
  }
}

/** The text encoders: those before the LoRA, or, where the prompt's own do not come by the LoRA, those as they are. @param {Way} way @param {GraphNode} node @param {GraphNode} encode */
function ofClip(way, node, encode) {
  const between = isLinked(node, 'clip') ? chain(encode, 'CLIP', node) : null
  if (between) way.leftOut.push(...between.map(titleOf))
  else {
    const own = wire(encode, 'clip')
    if (own) way.found.set('clip', own)
    way.found.set('strength_clip', { value: 0 })
  }
}

/**
 * A prompt as text. Null where it is none.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @param {Way} way
 * @returns {{node: GraphNode, text: Found} | null}
 */
function prompt(node, name, way) {
  let from = sourceOf(node, name)
  for (let steps = 0; from && steps < FARTHEST; steps++) {
    const { node: at, slot } = from
    const kind = at.comfyClass ?? at.type
    if (kind === ENCODE) {
      const text = told(at, 'text')
      return text && { node: at, text }
    }
    // Where the prompts weigh the same it does not act.
    if (kind === 'ConditioningZeroOut') {
      const cfg = /** @type {{value?: unknown} | undefined} */ (way.found.get('cfg'))
      if (cfg?.value !== 1) way.leftOut.push(titleOf(at))
      return { node: at, text: { value: '' } }
    }
    const before = ON_THE_WAY[kind]
    if (!before) return null
    if (!way.leftOut.includes(titleOf(at))) way.leftOut.push(titleOf(at))
    from = sourceOf(at, before[slot] ?? before[0])
  }
  return null
}

/** What an input has: its wire, or the value of its widget. @param {GraphNode} node @param {string} name @returns {Found | null} */
function told(node, name) {
  if (isLinked(node, name)) return wire(node, name)
  const value = widgetOf(node, name) ? valueOf(node, name) : undefined
  return value === undefined ? null : { value }
}

/** @param {GraphNode} node @param {string} name @returns {Found | null} */
const wire = (node, name) => (sourceOf(node, name) ? { from: node, name } : null)

/**
 * The nodes between a node and one before it, along inputs of one type, nearest to the first one first; null where no such way leads there.
 *
 * @param {GraphNode} node
 * @param {string} type
 * @param {GraphNode} goal
 * @param {Set<GraphNode>} [met]
 * @returns {GraphNode[] | null}
 */
function chain(node, type, goal, met = new Set()) {
  for (const slot of node.inputs ?? []) {
    const before = slot.type === type ? sourceOf(node, slot.name)?.node : null
    if (!before || met.has(before) || met.size > FARTHEST) continue
    met.add(before)
    if (before === goal) return []
    const more = chain(before, type, goal, met)
    if (more) return [before, ...more]
  }
  return null
}

/** @param {GraphNode} node */
const titleOf = (node) => node.title || node.type
