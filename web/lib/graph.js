// @ts-check
// Widgets by name, wherever their values are kept, and the way from a BLOCK_WEIGHTS output to the loader that takes it, through reroutes
// and subgraphs.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'

const SUBGRAPH_INPUT = -10 // the ids under which links begin at a subgraph's own inputs
const SUBGRAPH_OUTPUT = -20 // and end at its own outputs
const FARTHEST = 32

export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name)
export const valueOf = (node, name) => keeperOf(node, name)?.widget.value ?? widgetOf(node, name)?.value

/** Whether a value comes by wire, so that no widget here decides it. */
export const isLinked = (node, name) => isTaken(slotOf(node, name)) && !keeperOf(node, name)

/** Writes a widget as a hand on it would: value, callback, redraw. */
export function setWidget(node, name, value) {
  const kept = keeperOf(node, name)
  if (!kept || kept.widget.value === value) return
  kept.widget.value = value
  if (!('element' in kept.widget)) kept.widget.callback?.(value, app.canvas, kept.node)
  node.graph?.setDirtyCanvas?.(true, false)
}

const slotOf = (node, name) => node.inputs?.find((slot) => slot.name === name)
const isTaken = (slot) => slot?.link !== null && slot?.link !== undefined

/**
 * The widget that decides a value: the node's own or, where that was promoted out of a subgraph, the subgraph's.
 *
 * @returns {{node: any, widget: any} | null} null where a wire decides, or several uses of one subgraph each on their own
 */
export const keeperOf = (node, name) => keeper(node, slotOf(node, name), widgetOf(node, name), 0)

function keeper(node, slot, widget, depth) {
  if (!isTaken(slot)) return widget ? { node, widget } : null
  const link = linkOf(node.graph, slot.link)
  if (Number(link?.origin_id) !== SUBGRAPH_INPUT || depth > FARTHEST) return null
  const hosts = [...hostsOf(node.graph)]
  const outer = hosts[0]?.inputs[link.origin_slot]
  return hosts.length === 1 && outer ? keeper(hosts[0], outer, hosts[0].getWidgetFromSlot(outer), depth + 1) : null
}

/** What a node's last run told the browser. ComfyUI keeps it through undo, other tabs and the history. @returns {any} */
export function outputOf(node) {
  const { graph } = node
  return app.nodeOutputs?.[!graph || graph === graph.rootGraph ? node.id : `${graph.id}:${node.id}`]
}

const linkOf = (graph, id) => graph?.getLink?.(id) ?? graph?.links?.get?.(id)

/** @returns {{node: any, lora: string | null} | null} the first loader behind an output; lora null where its name comes by wire */
export function loaderBehind(node, slot = 0) {
  for (const found of consumers(node.graph, node.outputs?.[slot]?.links ?? [], 0)) {
    const name = valueOf(found, 'lora_name')
    return { node: found, lora: !isLinked(found, 'lora_name') && typeof name === 'string' ? name : null }
  }
  return null
}

function* consumers(graph, linkIds, depth) {
  if (!graph || depth > FARTHEST) return
  for (const id of linkIds) {
    const link = linkOf(graph, id)
    if (!link) continue
    if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
      for (const host of hostsOf(graph)) {
        yield* consumers(host.graph, host.outputs?.[link.target_slot]?.links ?? [], depth + 1)
      }
      continue
    }
    const target = graph.getNodeById(link.target_id)
    if (!target) continue
    if (target.subgraph) {
      const inner = target.subgraph
      const name = target.inputs?.[link.target_slot]?.name
      const input = inner.inputs.find((slot) => slot.name === name) ?? inner.inputs[link.target_slot]
      yield* consumers(inner, input?.linkIds ?? [], depth + 1)
    } else if (widgetOf(target, 'lora_name')) yield target
    else if (target.outputs?.length === 1 && !target.widgets?.length) {
      yield* consumers(graph, target.outputs[0].links ?? [], depth + 1) // a reroute
    }
  }
}

function* hostsOf(subgraph, graph = app.rootGraph ?? app.graph, depth = 0) {
  if (depth > FARTHEST) return
  for (const node of graph?.nodes ?? []) {
    if (!node.subgraph) continue
    if (node.subgraph === subgraph) yield node
    else yield* hostsOf(subgraph, node.subgraph, depth + 1)
  }
}

/** Everything between these two is one step of ComfyUI's undo. */
export const beginChange = () => app.canvas?.emitBeforeChange?.()
export const endChange = () => app.canvas?.emitAfterChange?.()

/** Writes text to the clipboard; false where the browser forbids it. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return false
  }
}
