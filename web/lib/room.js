// @ts-check
// Room in a node for an element that grows and shrinks: a node that it made taller gives the room back, one that a hand made taller keeps it.
import { heightWithoutStep } from './undo.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/** Px of a node's title, above its place, and between two nodes. */
const TITLE = 30
const BETWEEN = 8

/** Ms after which a node has the size that its elements ask for: the page makes it only when it is laid out. */
const LAID_OUT = 150

/**
 * grown: the height that a node got here last; own: the one that it had before, from a hand or from its file.
 *
 * @typedef {{grown: number, own: number}} Heights
 */
/** By the node's id in its graph: undo makes nodes anew. @type {Map<string, Heights>} */
const known = new Map()

export class Room {
  /** @type {Heights} */
  #heights = { grown: 0, own: 0 }
  #waiting = 0

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
  }

  /**
   * Whatever the node holds now has its room.
   *
   * @param {boolean} [always] as ``heightWithoutStep`` has it
   */
  fit(always = false) {
    const { node } = this
    if (!node.graph || node.flags?.collapsed) return
    // In Nodes 2.0 the page makes room too.
    heightWithoutStep(node, always)
    const height = node.size[1]
    const needed = node.computeSize()[1]
    const key = `${node.graph.id} ${node.id}`
    const before = known.get(key)
    if (!this.#heights.grown && before && Math.abs(before.grown - height) <= 1) this.#heights = before
    const { grown } = this.#heights
    if (Math.abs(height - grown) > 1) this.#heights = { grown, own: height }
    if (needed <= height && height > grown + 1) return
    const wanted = Math.max(needed, this.#heights.own)
    const got = (/** @type {number} */ tall) => known.set(key, this.#heights = { ...this.#heights, grown: tall })
    got(wanted)
    setHeight(node, wanted, always)
    clearTimeout(this.#waiting)
    this.#waiting = setTimeout(() => got(node.size[1]), LAID_OUT)
  }
}

/**
 * Gives a node the height that it needs for what it shows.
 *
 * @param {GraphNode} node
 * @param {number} height
 * @param {boolean} [always] as ``heightWithoutStep`` has it
 */
export function setHeight(node, height, always = false) {
  const [width, before] = node.size
  if (height !== before) node.setSize([width, height])
  node.graph?.setDirtyCanvas?.(true, true)
  heightWithoutStep(node, always)
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
