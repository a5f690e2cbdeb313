// @ts-check
// Widgets by name, wherever their values are kept, and the way from a BLOCK_WEIGHTS output to the loader that takes it, through reroutes
// and subgraphs.
import { app } from './comfy.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */
/** @typedef {import('./comfy.js').Graph} Graph */
/** @typedef {import('./comfy.js').Slot} Slot */
/** @typedef {import('./comfy.js').Widget} Widget */

/** The ids under which links begin at a subgraph's own inputs and end at its own outputs. */
const SUBGRAPH_INPUT = -10
const SUBGRAPH_OUTPUT = -20
const FARTHEST = 32
/** A node's mode. */
const BYPASSED = 4

/** What a loader holds before a file is chosen. */
export const NO_LORA = 'Choose a LoRA'

/** @param {GraphNode} node @param {string} name */
export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name)

/** @param {GraphNode} node @param {string} name @returns {unknown} */
export const valueOf = (node, name) => keeperOf(node, name)?.widget.value ?? widgetOf(node, name)?.value

/** Whether a value comes by wire, so that no widget here decides it. @param {GraphNode} node @param {string} name */
export const isLinked = (node, name) => isTaken(slotOf(node, name)) && !keeperOf(node, name)

/**
 * Writes a widget as a hand on it would: value, callback, redraw.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @param {unknown} value
 */
export function setWidget(node, name, value) {
  const kept = keeperOf(node, name)
  if (!kept || kept.widget.value === value) return
  kept.widget.value = value
  // One that is an element of the page calls back by itself.
  if (!kept.widget.element) kept.widget.callback?.(value, app.canvas, kept.node)
  node.graph?.setDirtyCanvas?.(true, false)
}

/**
 * Whether a widget is shown on its node, in both renderers. ComfyUI's canvas reads one place, its page the other.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @param {boolean} shown
 */
export function showWidget(node, name, shown) {
  const widget = widgetOf(node, name)
  // Newer editors call one hidden that has a wire, and let nobody else decide that.
  if (!widget || Boolean(widget.options?.hidden ?? widget.hidden) === !shown) return
  widget.hidden = !shown
  if (widget.options) widget.options.hidden = !shown
  // The page notices another list of widgets, and no change inside one; a list of the same widgets is not another.
  if (node.graph) {
    const all = [...(node.widgets ?? [])]
    node.widgets = []
    node.widgets = all
  }
  node.graph?.setDirtyCanvas?.(true, true)
}

/** What an input is called on its node. @param {GraphNode} node @param {string} name */
export const slotName = (node, name) => slotOf(node, name)?.label || widgetOf(node, name)?.label || name

/** @param {GraphNode} node @param {string} name */
const slotOf = (node, name) => node.inputs?.find((slot) => slot.name === name)

/** @param {Slot | null | undefined} slot @returns {slot is Slot & {link: number}} */
const isTaken = (slot) => slot?.link !== null && slot?.link !== undefined

/**
 * The widget that decides a value: the node's own or, where that was promoted out of a subgraph, the subgraph's.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @returns {{node: GraphNode, widget: Widget} | null} null where a wire decides, or several uses of one subgraph each on their own
 */
export const keeperOf = (node, name) => keeper(node, slotOf(node, name), widgetOf(node, name), 0)

/**
 * @param {GraphNode} node
 * @param {Slot | undefined} slot
 * @param {Widget | undefined} widget
 * @param {number} depth
 * @returns {{node: GraphNode, widget: Widget} | null}
 */
function keeper(node, slot, widget, depth) {
  if (!isTaken(slot)) return widget ? { node, widget } : null
  const link = linkOf(node.graph, slot.link)
  if (!link || Number(link.origin_id) !== SUBGRAPH_INPUT || depth > FARTHEST) return null
  const hosts = [...hostsOf(node.graph)]
  const outer = hosts[0]?.inputs?.[link.origin_slot]
  return hosts.length === 1 && outer ? keeper(hosts[0], outer, hosts[0].getWidgetFromSlot(outer), depth + 1) : null
}

/** @param {Graph | null} graph @param {number} id */
export const linkOf = (graph, id) => graph?.getLink?.(id) ?? graph?.links?.get?.(id)

/**
 * Wires an input to where another wire begins: at an output, or at an input of the subgraph that both are in.
 *
 * @param {Graph} graph of both
 * @param {import('./comfy.js').Link} link
 * @param {GraphNode} node
 * @param {number} at place of the input
 */
export function connectAs(graph, link, node, at) {
  if (Number(link.origin_id) === SUBGRAPH_INPUT) graph.inputs[link.origin_slot]?.connect?.(node.inputs?.[at], node)
  else graph.getNodeById(link.origin_id)?.connect?.(link.origin_slot, node, at)
}

/**
 * The first loader behind an output.
 *
 * @param {GraphNode} node
 * @param {number} [slot]
 * @returns {{node: GraphNode, lora: string | null} | null} lora null where its name comes by wire
 */
export function loaderBehind(node, slot = 0) {
  for (const found of consumers(node.graph, node.outputs?.[slot]?.links ?? [], 0)) {
    const name = valueOf(found, 'lora_name')
    const isFile = !isLinked(found, 'lora_name') && typeof name === 'string' && name !== NO_LORA
    return { node: found, lora: isFile ? name : null }
  }
  return null
}

/**
 * @param {Graph | null} graph
 * @param {number[]} linkIds
 * @param {number} depth
 * @returns {Generator<GraphNode>}
 */
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
      // This is a reroute.
      yield* consumers(graph, target.outputs[0].links ?? [], depth + 1)
    }
  }
}

/**
 * The nodes that wires lead to from a node, near ones first; within its own graph.
 *
 * @param {GraphNode} node
 * @returns {Generator<GraphNode>}
 */
export function* nodesBehind(node) {
  const met = new Set([node])
  // A set goes on with what is added while it is gone through.
  for (const from of met) {
    if (from !== node) yield from
    for (const id of from.outputs?.flatMap((slot) => slot.links ?? []) ?? []) {
      const to = from.graph?.getNodeById(linkOf(from.graph, id)?.target_id ?? -1)
      if (to) met.add(to)
    }
  }
}

/**
 * Where a wire into an input begins, through reroutes, bypassed nodes and subgraphs.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @param {number} [depth]
 * @returns {{node: GraphNode, slot: number} | null} null without a wire, or where it is lost
 */
export function sourceOf(node, name, depth = 0) {
  const slot = slotOf(node, name)
  return isTaken(slot) ? origin(node.graph, slot.link, depth) : null
}

/**
 * @param {Graph | null} graph
 * @param {number} id of a link
 * @param {number} depth
 * @returns {{node: GraphNode, slot: number} | null}
 */
function origin(graph, id, depth) {
  const link = linkOf(graph, id)
  if (!link || depth > FARTHEST) return null
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    const hosts = [...hostsOf(graph)]
    const outer = hosts[0]?.inputs?.[link.origin_slot]
    return hosts.length === 1 && isTaken(outer) ? origin(hosts[0].graph, outer.link, depth + 1) : null
  }
  const from = graph?.getNodeById(link.origin_id)
  if (!from) return null
  if (from.subgraph) {
    const inner = from.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0]
    return inner === undefined ? null : origin(from.subgraph, inner, depth + 1)
  }
  // A node of one input, one output and no widget may still change what it hands on, as FlipSigmas does.
  const isReroute = from.inputs?.length === 1 && from.outputs?.length === 1 && !from.widgets?.length &&
    (from.isVirtualNode === true || from.inputs[0].type === '*')
  const type = from.outputs?.[link.origin_slot]?.type
  const passes = isReroute ?
    from.inputs?.[0] :
    from.mode === BYPASSED ?
    from.inputs?.find((s) => s.type === type) :
    null
  if (passes) return isTaken(passes) ? origin(graph, passes.link, depth + 1) : null
  return from.mode === BYPASSED ? null : { node: from, slot: link.origin_slot }
}

/**
 * The nodes that stand for a subgraph, wherever they are.
 *
 * @param {Graph | null} subgraph
 * @param {Graph | undefined} [graph]
 * @param {number} [depth]
 * @returns {Generator<GraphNode>}
 */
function* hostsOf(subgraph, graph = app.rootGraph ?? app.graph, depth = 0) {
  if (depth > FARTHEST) return
  for (const node of graph?.nodes ?? []) {
    if (!node.subgraph) continue
    if (node.subgraph === subgraph) yield node
    else yield* hostsOf(subgraph, node.subgraph, depth + 1)
  }
}

/**
 * Every node of a type, in open subgraphs and closed ones.
 *
 * @param {string} type
 * @param {Graph | undefined} [graph]
 * @param {number} [depth]
 * @returns {Generator<GraphNode>}
 */
export function* nodesOf(type, graph = app.rootGraph ?? app.graph, depth = 0) {
  if (depth > FARTHEST) return
  for (const node of graph?.nodes ?? []) {
    if (node.subgraph) yield* nodesOf(type, node.subgraph, depth + 1)
    if (node.type === type) yield node
  }
}

/**
 * The ids under which a run knows a node: its own, behind those of the nodes that its subgraph is used by ("7:3").
 *
 * @param {GraphNode} node
 * @param {number} [depth]
 * @returns {Generator<string>}
 */
export function* pathsOf(node, depth = 0) {
  const { graph } = node
  if (!graph || depth > FARTHEST) return
  if (!graph.rootGraph || graph === graph.rootGraph) yield String(node.id)
  else for (const host of hostsOf(graph)) for (const path of pathsOf(host, depth + 1)) yield `${path}:${node.id}`
}
