// @ts-check
// Writes the LoRAs of a cell where they came from: into the loaders and stacks before a sweep, or into a new loader beside it.
import { connectAs, isLinked, NO_LORA, setWidget, sourceOf, valueOf } from '../lib/graph.js'
import { getRows } from '../lib/server.js'
import { oneStepLaidOut } from '../lib/undo.js'
import { acting, textOf } from '../stack/text.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('./cells.js').Sweep} Sweep */
/** @typedef {import('./cells.js').Cell} Cell */

const LONGEST = 32
const STACK = 'StrataLoraStack'
const LOADER = 'StrataLoraLoader'

/** The nodes before a sweep whose LoRAs it has, first ones first; null where others make them. @param {GraphNode} node */
function ownersOf(node) {
  /** @type {GraphNode[]} */
  const owners = []
  if (!isLinked(node, 'lora_stack')) return owners
  let from = sourceOf(node, 'lora_stack')
  for (let steps = 0; from; steps++) {
    const { node: before } = from
    if (steps === LONGEST || (before.comfyClass !== STACK && before.comfyClass !== LOADER)) return null
    if (isLinked(before, 'lora_model') || (before.comfyClass === STACK && isLinked(before, 'rows'))) return null
    owners.unshift(before)
    if (!isLinked(before, 'lora_stack')) return owners
    from = sourceOf(before, 'lora_stack')
  }
  return null
}

/**
 * Writes a cell's LoRAs: one step of undo. Tells whether it could: block weights and strengths over time have no place in a loader.
 *
 * @param {GraphNode} node the sweep
 * @param {Sweep} sweep
 * @param {Cell} cell
 */
export async function use(node, sweep, cell) {
  const owners = ownersOf(node)
  if (!owners) return false
  /** @type {(() => unknown)[]} */
  const changes = []
  let at = 0
  for (const owner of owners) {
    if (owner.comfyClass === LOADER) {
      if (valueOf(owner, 'lora_name') === NO_LORA) continue
      if (!fitsLoader(sweep, cell, at) || STRENGTHS.some((name) => isLinked(owner, name))) return false
      const row = cell.rows[at++]
      changes.push(() => writeLoader(owner, row))
      continue
    }
    const text = String(valueOf(owner, 'rows') ?? '')
    const answer = await getRows(text)
    if (answer.error) return false
    const rows = [.../** @type {import('../stack/text.js').Row[]} */ (answer.rows)]
    for (const [place, acts] of acting(rows).entries()) {
      const row = rows[place]
      if (!acts || row.kind !== 'lora') {
        if (acts && row.kind === 'prompt') return false
        continue
      }
      if (row.pick || at >= cell.rows.length) return false
      const note = row.note ? ` // ${row.note}` : ''
      rows[place] = { ...row, line: `${row.locked ? 'lock ' : ''}${cell.rows[at++].tag}${note}` }
    }
    const changed = textOf(rows)
    changes.push(() => String(valueOf(owner, 'rows') ?? '') === text && setWidget(owner, 'rows', changed))
  }
  // The sweep's own LoRA comes last.
  if (at < cell.rows.length) {
    if (at !== cell.rows.length - 1 || !fitsLoader(sweep, cell, at)) return false
    const row = cell.rows[at]
    changes.push(() => addLoader(node, row))
  }
  oneStepLaidOut(() => {
    for (const change of changes) change()
  })
  return true
}

const STRENGTHS = ['lora_name', 'strength_model', 'strength_clip']

/** @param {Sweep} sweep @param {Cell} cell @param {number} at */
function fitsLoader(sweep, cell, at) {
  const [row, plain] = [cell.rows[at], sweep.rows[at]]
  return Boolean(row && plain) && row.blocks === plain.blocks && row.time === plain.time
}

/** @param {GraphNode} loader @param {import('./cells.js').Row} row */
function writeLoader(loader, { name, model, clip }) {
  setWidget(loader, 'lora_name', name)
  setWidget(loader, 'strength_model', model)
  setWidget(loader, 'strength_clip', clip)
}

/** A loader above the sweep, on the same model and text encoders. @param {GraphNode} node @param {import('./cells.js').Row} row */
function addLoader(node, row) {
  const loader = globalThis.LiteGraph?.createNode?.(LOADER)
  const { graph } = node
  if (!loader || !graph?.add) return
  loader.pos = [node.pos[0] + node.size[0] + 60, node.pos[1]]
  graph.add(loader)
  for (const name of ['model', 'clip']) {
    const link = graph.getLink?.(node.inputs?.find((slot) => slot.name === name)?.link ?? -1)
    const input = loader.inputs?.findIndex((slot) => slot.name === name) ?? -1
    if (link) connectAs(graph, link, loader, input)
  }
  writeLoader(loader, row)
}
