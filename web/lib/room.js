// @ts-check
// Room in a node for an element that grows and shrinks: a node that it made taller gives the room back, one that a hand made taller keeps it.
import { heightWithoutStep } from './undo.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/** Px of a node's title, above its place, and between two nodes. */
const TITLE = 30
const BETWEEN = 8

/** Ms after which a node has the size that its elements ask for: the page makes it only when it is laid out. */
const LAID_OUT = 150

/** The height that a node got here last, by its id in its graph: undo makes nodes anew. @type {Map<string, number>} */
const grown = new Map()

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
    const height = node.size[1]
    const needed = node.computeSize()[1]
    const key = `${node.graph.id} ${node.id}`
    const before = grown.get(key) ?? 0
    if (!this.#grown && Math.abs(before - height) <= 1) this.#grown = before
    if (needed <= height && height > this.#grown + 1) return
    const got = (/** @type {number} */ tall) => grown.set(key, this.#grown = tall)
    got(needed)
    setHeight(node, needed)
    clearTimeout(this.#waiting)
    this.#waiting = setTimeout(() => got(node.size[1]), LAID_OUT)
  }
}

/**
 * Gives a node the height that it needs for what it shows.
 *
 * @param {GraphNode} node
 * @param {number} height
 */
export function setHeight(node, height) {
  const [width, before] = node.size
  if (height !== before) node.setSize([width, height])
  node.graph?.setDirtyCanvas?.(true, true)
  heightWithoutStep(node)
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
