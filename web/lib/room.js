// @ts-check
// Room in a node for an element that grows and shrinks: a node that it made taller gives the room back, one that a hand made taller keeps it.

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/** Px of a node's title, above its place, and between two nodes. */
const TITLE = 30
const BETWEEN = 8

/** Ms after which a node has the size that its elements ask for: the page makes it only when it is laid out. */
export const LAID_OUT = 150

export class Room {
  /** The height that the node got here last. */
  #grown = 0
  #waiting = 0

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
  }

  /** Whatever the node holds now has its room. */
  fit() {
    const { node } = this
    if (!node.graph || node.flags?.collapsed) return
    const [width, height] = node.size
    const needed = node.computeSize()[1]
    if (needed <= height && height > this.#grown + 1) return
    this.#grown = needed
    if (needed !== height) node.setSize([width, needed])
    node.graph.setDirtyCanvas?.(true, true)
    clearTimeout(this.#waiting)
    this.#waiting = setTimeout(() => (this.#grown = node.size[1]), LAID_OUT)
  }
}

/**
 * Px that a node can grow by until it meets the next one under it.
 *
 * @param {GraphNode} node
 * @param {number} height of the node before it grows
 */
export function roomBelow(node, height) {
  const [left, top] = node.pos
  let room = Infinity
  for (const { pos, size } of node.graph?.nodes ?? []) {
    const isBeside = pos[0] >= left + node.size[0] || pos[0] + size[0] <= left
    if (pos[1] > top && !isBeside) room = Math.min(room, pos[1] - TITLE - BETWEEN - top - height)
  }
  return room
}
