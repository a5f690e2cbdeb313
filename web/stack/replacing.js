// @ts-check
// Another pack's rows, or a chain of loaders, replaced by one LoRA Stack in their place: rows, wires and order are kept. Only when asked.
import { app } from '../lib/comfy.js'
import { setWidget, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { getImported, getRows } from '../lib/server.js'
import { oneStepLaidOut } from '../lib/undo.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../comfyui.d.ts').Link} Link */

const OURS = 'StrataLoraStack'
const LOADERS = new Set(['LoraLoader', 'LoraLoaderModelOnly', 'StrataLoraLoader'])
const STACKS = new Set([
  'Power Lora Loader (rgthree)',
  'Lora Loader (LoraManager)',
  'Lora Stacker (LoraManager)',
  'LoRA Stacker',
  'CR LoRA Stack',
  'easy loraStack',
  'LoadLoraModel',
])
/** Inputs by wire that rows have no place for: a node with one of these is left as it is. */
const UNKNOWN = [
  'block_weights',
  'keyframes',
  'mask',
  'lora_model',
  'lora_name',
  'strength_model',
  'strength_clip',
  'hooks',
]
const SUBGRAPH_INPUT = -10
const SUBGRAPH_OUTPUT = -20
const LONGEST = 200

/** What a node's menu offers. @param {GraphNode} node */
export function replacements(node) {
  if (!app.graph || !globalThis.LiteGraph?.createNode) return []
  const chain = chainOf(node)
  if (!chain.length) return []
  return [{ content: t(chain.length > 1 ? 'importChain' : 'importRows'), callback: () => replace(chain) }]
}

/** The nodes that one stack would stand for, in order; none where it cannot. @param {GraphNode} node @returns {GraphNode[]} */
function chainOf(node) {
  if (isReplaceable(node, STACKS)) return [node]
  if (!isReplaceable(node, LOADERS)) return []
  const chain = [node]
  for (let first = node; chain.length < LONGEST;) {
    const before = nodeBefore(first)
    if (!before || !isReplaceable(before, LOADERS) || targetsOf(before).some((target) => target !== first)) break
    chain.unshift(before)
    first = before
  }
  for (let last = node; chain.length < LONGEST;) {
    const targets = [...new Set(targetsOf(last))]
    const after = targets[0]
    if (targets.length !== 1 || !after || !isReplaceable(after, LOADERS) || nodeBefore(after) !== last) break
    chain.push(after)
    last = after
  }
  return chain
}

/** @param {GraphNode} node @param {Set<string>} kinds */
const isReplaceable = (node, kinds) =>
  kinds.has(node.type) && !(node.inputs ?? []).some((slot) => UNKNOWN.includes(slot.name) && linkOf(node, slot.link))

/** @param {GraphNode} node @param {number | null | undefined} id @returns {Link | undefined} */
const linkOf = (
  node,
  id,
) => (id === null || id === undefined ? undefined : node.graph?.getLink?.(id) ?? node.graph?.links?.get?.(id))

/** @param {GraphNode} node */
function nodeBefore(node) {
  const link = linkOf(node, node.inputs?.find((slot) => slot.name === 'model')?.link)
  return link ? node.graph?.getNodeById(link.origin_id) ?? null : null
}

/** Every node that takes something of a node; null for the edge of a subgraph. @param {GraphNode} node */
function targetsOf(node) {
  const links = (node.outputs ?? []).flatMap((slot) => slot.links ?? []).map((id) => linkOf(node, id))
  return links.filter((link) => link !== undefined).map((link) => node.graph?.getNodeById(link.target_id) ?? null)
}

/** @param {GraphNode[]} chain */
async function replace(chain) {
  const answer = await getImported(JSON.stringify(chain.map(described)))
  if (answer.error || chain.some((node) => !node.graph)) {
    app.extensionManager?.toast?.add({ severity: 'warn', summary: t('stack'), detail: answer.error ?? '', life: 6000 })
    return
  }
  // The new node knows its rows, and their room, at once.
  await getRows(answer.text)
  if (chain.some((node) => !node.graph)) return
  oneStepLaidOut(() => swap(chain, answer.text))
}

/** What the server reads of a node. @param {GraphNode} node */
function described(node) {
  const named = (node.widgets ?? []).filter((widget) => widget.name.startsWith('loras.'))
  if (named.length) return { inputs: Object.fromEntries(named.map((widget) => [widget.name, widget.value])) }
  return node.serialize?.() ?? {}
}

/** @param {GraphNode[]} chain @param {string} rows */
function swap(chain, rows) {
  const first = chain[0]
  const last = chain[chain.length - 1]
  const { graph } = first
  const made = globalThis.LiteGraph?.createNode?.(OURS)
  if (!graph?.add || !made) return
  made.pos = [first.pos[0], first.pos[1]]
  graph.add(made)
  setWidget(made, 'rows', rows)
  const apply = widgetOf(last, 'apply')
  if (apply) setWidget(made, 'apply', apply.value)
  const seen = new Set()
  for (const node of chain) {
    for (const slot of node.inputs ?? []) {
      const name = slot.name.replace(/^optional_/, '')
      const link = linkOf(node, slot.link)
      const at = made.inputs?.findIndex((own) => own.name === name) ?? -1
      const inside = link && chain.some((other) => String(other.id) === String(link.origin_id))
      if (!link || inside || at < 0 || seen.has(name)) continue
      seen.add(name)
      if (Number(link.origin_id) === SUBGRAPH_INPUT) graph.inputs[link.origin_slot].connect?.(made.inputs?.[at], made)
      else graph.getNodeById(link.origin_id)?.connect?.(link.origin_slot, made, at)
    }
  }
  for (const node of [...chain].reverse()) {
    for (const slot of node.outputs ?? []) {
      const at = made.outputs?.findIndex((own) =>
        own.type === slot.type && (own.type !== 'STRING' || own.name === slot.name)
      ) ?? -1
      if (at < 0) continue
      for (const id of [...(slot.links ?? [])]) {
        const link = linkOf(node, id)
        if (!link || chain.some((other) => String(other.id) === String(link.target_id))) continue
        if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
          graph.outputs?.[link.target_slot]?.connect?.(made.outputs?.[at], made)
        } else {
          const target = graph.getNodeById(link.target_id)
          if (target) made.connect?.(at, target, link.target_slot)
        }
      }
    }
  }
  for (const node of chain) graph.remove?.(node)
}
