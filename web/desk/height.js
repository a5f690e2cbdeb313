// @ts-check
// How tall a desk is: the lines of its bar and of its foot, and as many rows of faders as its width needs.
import { setHeight } from '../lib/room.js'
import { rowsHeight } from './strips.js'

/** @typedef {import('./desk.js').DeskView} DeskView */

/** Px of the bar and of the foot of a new node: two rows of buttons, and a line. */
const LINES = 44 + 24
/** Px between the parts of a desk. */
const GAPS = 14

export class Height {
  #lines = LINES

  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
  }

  get needed() {
    return this.#lines + GAPS + rowsHeight(Math.max(1, this.desk.strips.rows))
  }

  /** The bar or the foot says something else, which may need more lines or fewer. */
  fit() {
    const { bar, foot, strips } = this.desk
    if (!strips.element.clientWidth) return
    // The page's measures do not know of the canvas's zoom.
    const [above, below] = [bar.element.offsetHeight, foot.element.offsetHeight]
    if (above && below) this.#lines = above + below
    if (this.reserve()) this.#grow()
  }

  /** Room for the rows, in the renderer that lays out by style. Returns whether that is another now. */
  reserve() {
    const { style } = this.desk.element
    const height = `${this.needed}px`
    if (style.minHeight === height) return false
    style.minHeight = height
    return true
  }

  /** A node from a workflow has a size already: it needs no room for more rows than one. */
  keep() {
    if (this.desk.layout) return
    this.desk.strips.rows = 1
    this.reserve()
  }

  /** A layout with more rows needs a taller node; a node is never made smaller. */
  #grow() {
    const { node } = this.desk
    if (!node.graph || node.flags?.collapsed) return
    setHeight(node, Math.max(node.size[1], node.computeSize()[1]))
  }
}
