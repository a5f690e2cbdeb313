// @ts-check
// ComfyUI's undo replaces every node by a new one of the same id. In the Vue renderer the frame around a widget outlives that and still
// shows the old node's element: the new one takes its place.

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/** Ms that the element of a node that went is kept for the node that comes in its place. */
const KEPT = 3000

/** @type {Map<string, HTMLElement>} */
const left = new Map()

const keyOf = (/** @type {GraphNode} */ node, /** @type {HTMLElement} */ element) =>
  `${node.id} ${element.className.split(' ')[1]}`

/**
 * For a node that goes. Its element stays where it is: whoever shows it takes it away.
 *
 * @param {GraphNode} node
 * @param {HTMLElement} element
 */
export function leave(node, element) {
  const key = keyOf(node, element)
  left.set(key, element)
  setTimeout(() => left.get(key) === element && left.delete(key), KEPT)
}

/**
 * For a node that is there: mends its place, if it has lost it.
 *
 * @param {GraphNode} node
 * @param {HTMLElement} element
 */
export function takePlace(node, element) {
  const key = keyOf(node, element)
  const before = left.get(key)
  if (!before) return
  if (!element.isConnected) {
    if (!before.isConnected) return
    before.replaceWith(element)
  }
  left.delete(key)
}
