// @ts-check
// Puts an element of ours under the widgets of a node, where it lives as long as the node does.
import { chain, follow } from './comfy.js'
import { addElement } from './element.js'
import { widgetOf } from './graph.js'
import { unwatch, watch } from './watch.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */
/** @typedef {{element: HTMLElement, minHeight: number, tick(): void, dispose(): void}} Panel tick: looks whether there is more to show */

/** Px around it. */
const MARGIN = 8

/**
 * @param {GraphNode} node
 * @param {Panel} panel
 * @param {object} how
 * @param {string} how.name of the widget
 * @param {string} how.label in words
 * @param {number} how.width px of a new node, at least
 * @param {string[]} [how.follows] widgets whose values it shows
 * @param {boolean} [how.wires] whether it shows what is connected
 */
export function addPanel(node, panel, { name, label, width, follows = [], wires = false }) {
  addElement(node, name, panel.element, { label, margin: MARGIN, height: () => panel.minHeight })
  const lookAfter = () => queueMicrotask(() => panel.tick())
  for (const followed of follows) follow(widgetOf(node, followed), lookAfter)
  if (wires) chain(node, 'onConnectionsChange', lookAfter)
  chain(node, 'onConfigure', lookAfter)
  chain(node, 'onExecuted', lookAfter)
  chain(node, 'onAdded', () => watch(panel))
  chain(node, 'onRemoved', () => {
    unwatch(panel)
    panel.dispose()
  })
  watch(panel)
  const [wide, high] = node.size
  node.setSize([Math.max(wide, width), Math.max(high, node.computeSize()[1])])
}
