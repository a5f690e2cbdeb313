// @ts-check
// Room in a node for an element that grows and shrinks: a node that it made taller gives the room back, one that a hand made taller keeps it.

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

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
