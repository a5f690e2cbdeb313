// @ts-check
// Room in a node for an element that grows and shrinks: a node that it made taller gives the room back, one that a hand made taller keeps it.
import { heightWithoutStep } from './undo.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/** Px of a node's title, above its place, and between two nodes. */
const TITLE = 30
const BETWEEN = 8

/** Heights of a node that are remembered: undo goes back to them. */
const REMEMBERED = 16

/**
 * grown: the height that a node got here last; own: the one that it had before, from a hand or from its file.
 *
 * @typedef {{grown: number, own: number}} Heights
 */
/** By the node's id in its graph, the last one last: undo makes nodes anew, with a height of then. @type {Map<string, Heights[]>} */
const known = new Map()

/** @param {number} one @param {number} other */
const isSame = (one, other) => Math.abs(one - other) <= 1

export class Room {
  /** @type {Heights} */
  #heights = { grown: 0, own: 0 }

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
    const height = node.size[1]
    const needed = node.computeSize()[1]
    const key = `${node.graph.id} ${node.id}`
    const before = known.get(key) ?? []
    if (!this.#heights.grown) this.#heights = before.findLast(({ grown }) => isSame(grown, height)) ?? this.#heights
    const { grown } = this.#heights
    if (!isSame(height, grown)) this.#heights = { grown, own: height }
    // In Nodes 2.0 the page makes room too.
    if (needed <= height && height > grown + 1) return heightWithoutStep(node, always)
    const wanted = Math.max(needed, this.#heights.own)
    const got = (/** @type {number} */ tall) => {
      this.#heights = { ...this.#heights, grown: tall }
      const others = (known.get(key) ?? []).filter((heights) => !isSame(heights.grown, tall))
      known.set(key, [...others, this.#heights].slice(-REMEMBERED))
    }
    got(wanted)
    setHeight(node, wanted, always, got)
  }
}

/**
 * Gives a node the height that it needs for what it shows.
 *
 * @param {GraphNode} node
 * @param {number} height
 * @param {boolean} [always] as ``heightWithoutStep`` has it
 * @param {(height: number) => void} [seen] as ``heightWithoutStep`` has it
 */
export function setHeight(node, height, always = false, seen = undefined) {
  const [width, before] = node.size
  if (height !== before) node.setSize([width, height])
  node.graph?.setDirtyCanvas?.(true, true)
  heightWithoutStep(node, always, seen)
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
