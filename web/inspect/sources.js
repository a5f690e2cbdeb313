// @ts-check
// What an Inspect LoRA looks at: the files and strengths that stand in the nodes before it, and what can be done to these.
import { isLinked, NO_LORA, setWidget, sourceOf, valueOf } from '../lib/graph.js'
import { outputOf } from '../lib/runs.js'
import { getRows } from '../lib/server.js'
import { oneStep, oneStepLaidOut } from '../lib/undo.js'
import { scaled, times } from '../stack/scaling.js'
import { textOf } from '../stack/text.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/**
 * @typedef {object} Sources
 * @property {object[]} list as the server takes them, in order
 * @property {GraphNode[]} owners the nodes before whose strengths can be changed
 * @property {boolean} whole whether the strengths of all of them can be
 * @property {'' | 'inspectRun' | 'inspectOld' | 'inspectMemory'} note
 */

const LONGEST = 32
/** The id under which links begin at a subgraph's own inputs. */
const SUBGRAPH_INPUT = -10
const STACK = 'StrataLoraStack'
const LOADER = 'StrataLoraLoader'

/** @param {GraphNode} node @returns {Sources} */
export function sourcesOf(node) {
  const own = ownSource(node)
  /** @type {object[]} */
  const list = own ? [own] : []
  /** @type {GraphNode[]} */
  const owners = []
  let from = sourceOf(node, 'lora_stack')
  if (!from) return isLinked(node, 'lora_stack') ? told(node) : { list, owners, whole: false, note: '' }
  for (let steps = 0; from; steps++) {
    const before = from.node
    const source = steps < LONGEST ? sourceIn(before) : null
    if (!source) return told(node)
    list.unshift(...source)
    if (source.length) owners.unshift(before)
    if (isLinked(before, 'lora_stack') && !sourceOf(before, 'lora_stack')) return told(node)
    from = sourceOf(before, 'lora_stack')
  }
  return { list, owners, whole: !own, note: '' }
}

/** What the last run met, where a node of another pack says what the LoRAs are. @param {GraphNode} node @returns {Sources} */
function told(node) {
  const last = outputOf(node)?.strata_stack?.[0]
  if (!Array.isArray(last)) return { list: [], owners: [], whole: false, note: 'inspectRun' }
  if (!last.length) return { list: [], owners: [], whole: false, note: 'inspectMemory' }
  const list = last.map(([name, model, clip]) => ({ name, model, clip }))
  return { list, owners: [], whole: false, note: 'inspectOld' }
}

/** @param {GraphNode} node */
function ownSource(node) {
  const name = valueOf(node, 'lora_name')
  if (isLinked(node, 'lora_name') || typeof name !== 'string' || !name.trim() || name === NO_LORA) return null
  return { name, model: 1, clip: 1 }
}

/** What a node adds to the stack; null where only a run can tell. @param {GraphNode} node @returns {object[] | null} */
function sourceIn(node) {
  if (node.comfyClass === STACK) {
    if (isLinked(node, 'rows') || isLinked(node, 'seed') || isLinked(node, 'lora_model')) return null
    return [{ rows: String(valueOf(node, 'rows') ?? ''), seed: Number(valueOf(node, 'seed') ?? 0) }]
  }
  if (node.comfyClass !== LOADER) return null
  const values = ['lora_name', 'strength_model', 'strength_clip']
  if (isLinked(node, 'lora_model') || values.some((name) => isLinked(node, name))) return null
  const [name, model, clip] = values.map((value) => valueOf(node, value))
  if (typeof name !== 'string' || name === NO_LORA) return []
  const blocks = blocksOf(node)
  return blocks === undefined ? null : [{ name, model: Number(model), clip: Number(clip), blocks }]
}

/** The block weights of a loader; undefined where only a run can tell. @param {GraphNode} node */
function blocksOf(node) {
  if (!isLinked(node, 'block_weights')) return null
  const from = sourceOf(node, 'block_weights')?.node
  if (from?.comfyClass !== 'StrataLoraBlockWeights') return undefined
  const values = ['layout', 'preset', 'weights', 'seed', 'invert']
  if (values.some((name) => isLinked(from, name))) return undefined
  const [layout, preset, weights, seed, invert] = values.map((name) => valueOf(from, name))
  const text = String(weights ?? '').trim() || preset === 'none' ? String(weights ?? '') : String(preset)
  return { text, family: layout === 'auto' ? null : layout, seed: Number(seed), invert: Boolean(invert) }
}

/**
 * Multiplies the strengths of all nodes before: one step of undo. Locked rows stay.
 *
 * @param {GraphNode[]} owners
 * @param {number} factor
 */
export async function scaleAll(owners, factor) {
  /** @type {(() => void)[]} */
  const changes = []
  for (const node of owners) {
    if (node.comfyClass === STACK) {
      const text = String(valueOf(node, 'rows') ?? '')
      const answer = await getRows(text)
      if (answer.error) return
      changes.push(() => {
        if (String(valueOf(node, 'rows') ?? '') === text) {
          setWidget(node, 'rows', textOf(scaled(answer.rows, factor)))
        }
      })
    } else {
      changes.push(() => {
        for (const name of ['strength_model', 'strength_clip']) {
          setWidget(node, name, times(Number(valueOf(node, name)), factor))
        }
      })
    }
  }
  oneStep(() => {
    for (const change of changes) change()
  })
}

/**
 * A Save LoRA beside the node that keeps this rank of the same LoRA: one step of undo.
 *
 * @param {GraphNode} node
 * @param {number} rank
 */
export function addSave(node, rank) {
  const make = (/** @type {string} */ kind) => globalThis.LiteGraph?.createNode?.(kind)
  const { graph } = node
  if (!graph?.add) return
  oneStepLaidOut(() => {
    const save = make('StrataLoraSave')
    if (!save) return
    save.pos = [node.pos[0] + node.size[0] + 60, node.pos[1]]
    graph.add?.(save)
    const input = save.inputs?.findIndex((slot) => slot.name === 'lora_stack') ?? -1
    const link = graph.getLink?.(node.inputs?.find((slot) => slot.name === 'lora_stack')?.link ?? -1)
    const at = save.inputs?.[input]
    if (link && !ownSource(node) && at) {
      if (Number(link.origin_id) === SUBGRAPH_INPUT) graph.inputs[link.origin_slot].connect?.(at, save)
      else graph.getNodeById(link.origin_id)?.connect?.(link.origin_slot, save, input)
    } else {
      const loader = make(LOADER)
      if (!loader) return
      loader.pos = [save.pos[0], save.pos[1] + save.size[1] + 60]
      graph.add?.(loader)
      setWidget(loader, 'lora_name', valueOf(node, 'lora_name'))
      loader.connect?.(loader.outputs?.findIndex((slot) => slot.type === 'LORA_STACK') ?? -1, save, input)
    }
    setWidget(save, 'shrink', 'rank')
    setWidget(save, 'amount', rank)
  })
}
