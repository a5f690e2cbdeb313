// @ts-check
// Widgets by name, and the way from a BLOCK_WEIGHTS output to the loader that takes it, through reroutes and subgraphs.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'

const SUBGRAPH_OUTPUT = -20 // the id under which links end at a subgraph's own output
const FARTHEST = 32

export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name)
export const valueOf = (node, name) => widgetOf(node, name)?.value

export function isLinked(node, name) {
  const input = node.inputs?.find((slot) => slot.name === name)
  return input?.link !== null && input?.link !== undefined
}

/** Writes a widget as a hand on it would: value, callback, redraw. */
export function setWidget(node, name, value) {
  const widget = widgetOf(node, name)
  if (!widget || widget.value === value) return
  widget.value = value
  if (!('element' in widget)) widget.callback?.(value, app.canvas, node)
  node.graph?.setDirtyCanvas?.(true, false)
}

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
    const link = graph.getLink?.(id) ?? graph.links?.get?.(id)
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
