// @ts-check
// ComfyUI's own objects, imported in one place.
import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'

/** @typedef {import('../comfyui.d.ts').GraphNode} GraphNode */
/** @typedef {import('../comfyui.d.ts').Widget} Widget */
/** @typedef {import('../comfyui.d.ts').Slot} Slot */
/** @typedef {import('../comfyui.d.ts').Graph} Graph */
/** @typedef {import('../comfyui.d.ts').Link} Link */

export { api, app }

/**
 * Runs a function behind the handler that a node has already.
 *
 * @param {GraphNode} node
 * @param {'onAdded' | 'onRemoved' | 'onConfigure' | 'onExecuted' | 'onConnectionsChange'} name
 * @param {() => void} run
 */
export function chain(node, name, run) {
  const before = node[name]
  node[name] = function (...values) {
    const result = before?.apply(this, values)
    run()
    return result
  }
}

/**
 * Runs a function behind a widget's own callback: when a hand has set its value.
 *
 * @param {Widget | undefined} widget
 * @param {(value: unknown) => void} run
 */
export function follow(widget, run) {
  if (!widget) return
  const before = widget.callback
  widget.callback = function (value, ...rest) {
    const result = before?.apply(this, [value, ...rest])
    run(value)
    return result
  }
}

/**
 * What this pack keeps in a node's properties, and so in the workflow and its undo: to read it. A workflow may come from anywhere.
 *
 * @param {Pick<GraphNode, 'properties'>} node
 * @param {string} key
 * @returns {Record<string, unknown>}
 */
export function kept(node, key) {
  const value = node.properties?.[key]
  return typeof value === 'object' && value !== null ? /** @type {Record<string, unknown>} */ (value) : {}
}

/**
 * Keeps something there, or takes it away.
 *
 * @param {GraphNode} node
 * @param {string} key
 * @param {Record<string, unknown>} values by name; undefined takes a name away
 */
export function keepIn(node, key, values) {
  const all = Object.entries({ ...kept(node, key), ...values }).filter(([, value]) => value !== undefined)
  node.properties ??= {}
  if (all.length) node.properties[key] = Object.fromEntries(all)
  else delete node.properties[key]
}

/** Whether the page shows nodes as elements (Nodes 2.0) instead of drawing them on a canvas. */
export const isVue = () => globalThis.LiteGraph?.vueNodesMode === true
