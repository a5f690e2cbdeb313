// @ts-check
// A LoRA Sweep that leaves out one block of a LoRA after another, wired to what draws the picture behind that LoRA.
import { connectAs, isLinked, linkOf, setWidget, slotName, valueOf, widgetOf } from '../lib/graph.js'
import { oneStepLaidOut } from '../lib/undo.js'
import { follow } from './following.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../lib/comfy.js').Graph} Graph */
/**
 * @typedef {object} Used a LoRA on a node
 * @property {GraphNode} node
 * @property {string} lora
 * @property {number | null} model its strength; null where a wire says it
 * @property {number | null} clip
 * @property {string[]} beside what else there is of it or beside it, in words, that a sweep of this LoRA leaves out
 */

const SWEEP = 'StrataSweep'
const WITHOUT = { x_axis: 'without block', y_axis: 'none', z_axis: 'none', compare_with: 'no change' }
/** All blocks of the one LoRA, or of one of a stack. */
const ALL = /^(?:row [^:\n]*: )?all$/
/** Without these nothing can be drawn as it is in the graph. */
const NEEDED = ['model', 'clip', 'vae', 'latent_image', 'positive', 'negative', 'seed', 'steps', 'cfg']
/** Px between a new node and those above it. */
const GAP = 60

/**
 * Makes one, or takes the one that there is of this LoRA, as one step of undo.
 *
 * @param {Used} used
 * @returns {{missing: string[], unset: string[], leftOut: string[], drawn: boolean} | null} what was not found, as the sweep calls it: inputs
 *   without a wire, and those that have the sweep's own value; the nodes that the sweep leaves out, by title; drawn: whether there is a sampler at
 *   all. Null where the editor makes no node
 */
export function makeSweep(used) {
  const { graph } = used.node
  if (!graph?.add) return null
  const way = follow(used.node)
  const { found } = way
  for (const side of /** @type {const} */ (['model', 'clip'])) {
    const [name, value] = [`strength_${side}`, used[side]]
    if (found.has(name)) continue
    if (value !== null) found.set(name, { value })
    else if (isLinked(used.node, name)) found.set(name, { from: used.node, name })
  }
  if (found.has('sigmas')) { for (const name of ['steps', 'scheduler', 'denoise']) found.delete(name) }
  const inStack = isLinked(used.node, 'lora_stack')
  if (inStack) found.set('lora_stack', { from: used.node, name: 'lora_stack' })
  const own = { ...WITHOUT, lora_name: used.lora, x_values: inStack ? `row ${used.lora}: all` : 'all' }
  /** @type {Set<string>} */
  const done = new Set()
  let sweep = graph.nodes.find((node) => isOf(node, used.lora)) ?? null
  oneStepLaidOut(() => {
    if (!sweep) {
      sweep = globalThis.LiteGraph?.createNode?.(SWEEP) ?? null
      if (!sweep) return
      sweep.pos = placeBelow(graph, used.node, sweep.size[0])
      graph.add?.(sweep)
    }
    for (const [name, value] of Object.entries(own)) setWidget(sweep, name, value)
    for (const [name, what] of found) if (fill(graph, sweep, name, what)) done.add(name)
  })
  if (!sweep) return null
  const needed = NEEDED.filter((name) => name !== 'steps' || !done.has('sigmas'))
  // What a hand has connected to a sweep from before stays.
  const there = /** @type {GraphNode} */ (sweep)
  const empty = needed.filter((name) => !done.has(name) && !isLinked(there, name))
  const called = (/** @type {string[]} */ names) => names.map((name) => slotName(there, name))
  const missing = called(empty.filter((name) => !widgetOf(there, name)))
  const unset = called(empty.filter((name) => widgetOf(there, name)))
  return { missing, unset, leftOut: [...new Set([...way.leftOut, ...used.beside])], drawn: way.sampler !== null }
}

/** Whether a node is such a sweep of this LoRA. @param {GraphNode} node @param {string} lora */
const isOf = (node, lora) =>
  node.comfyClass === SWEEP && valueOf(node, 'lora_name') === lora && valueOf(node, 'x_axis') === WITHOUT.x_axis &&
  ALL.test(String(valueOf(node, 'x_values'))) &&
  ['lora_name', 'x_axis', 'x_values'].every((name) => !isLinked(node, name)) &&
  ['y_axis', 'z_axis'].every((name) => valueOf(node, name) === 'none')

/**
 * Gives an input what was found, where the editor has a way to.
 *
 * @param {Graph} graph
 * @param {GraphNode} sweep
 * @param {string} name
 * @param {import('./following.js').Found} what
 */
function fill(graph, sweep, name, what) {
  const at = sweep.inputs?.findIndex((slot) => slot.name === name) ?? -1
  if ('value' in what) {
    if (isLinked(sweep, name)) return false
    setWidget(sweep, name, what.value)
    return valueOf(sweep, name) === what.value
  }
  // A wire does not lead from one graph into another.
  const slot = what.from.graph === graph ? what.from.inputs?.find((slot) => slot.name === what.name) : null
  const link = linkOf(graph, slot?.link ?? -1)
  if (!link || at < 0 || !sweep.inputs) return false
  const before = linkOf(graph, sweep.inputs[at].link ?? -1)
  if (before?.origin_id === link.origin_id && before.origin_slot === link.origin_slot) return true
  connectAs(graph, link, sweep, at)
  return isLinked(sweep, name)
}

/** Below whatever stands in the columns that it takes. @param {Graph} graph @param {GraphNode} node @param {number} width @returns {[number, number]} */
function placeBelow(graph, node, width) {
  const [left] = node.pos
  const inTheWay = graph.nodes.filter(({ pos, size }) => pos[0] < left + width && pos[0] + size[0] > left)
  return [left, Math.max(...inTheWay.map(({ pos, size }) => pos[1] + size[1])) + GAP]
}
