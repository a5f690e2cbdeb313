// @ts-check
// What is open under a row of a stack: its details, or one editor that stands in its place. ComfyUI's undo replaces a node by another one, in
// which the same is open again.
import { RowCurve } from './row_curve.js'
import { RowDesk } from './row_desk.js'

/** @typedef {import('./text.js').Row} Row */
/** @typedef {import('./stack.js').StackView} StackView */
/** @typedef {{id: string, files: string, details: number | null, editor: keyof typeof EDITORS | null, at: number | null, until: number}} Left */

/** Ms after which a node that came anew is not the one that went. */
const REOPEN = 400

const EDITORS = { desk: RowDesk, curve: RowCurve }

/** What was open in a node that ComfyUI's undo replaced. @type {Left} */
let left = { id: '', files: '', details: null, editor: null, at: null, until: 0 }

export class Opened {
  /** The row whose details are open. @type {number | null} */
  details = null
  /** The editor under a row. @type {RowDesk | RowCurve | null} */
  under = null
  /** What was open in the node that this one replaces. @type {Left | null} */
  #before = null

  /** @param {StackView} stack */
  constructor(stack) {
    this.stack = stack
    this.observer = new ResizeObserver(() => stack.fit())
  }

  /** @param {number} at @param {'blocks' | 'time' | 'note'} [field] that is to be typed into */
  toggleDetails(at, field) {
    const { stack } = this
    this.details = this.details === at && !field ? null : at
    if (this.under) this.closeUnder()
    stack.draw()
    if (field) stack.viewOf(at)?.typeInto(field)
  }

  /** Opens an editor under a row, or closes the one that is open there. @param {keyof typeof EDITORS} editor @param {number} at */
  toggle(editor, at) {
    const { stack } = this
    const Editor = EDITORS[editor]
    const before = this.under
    const closes = before instanceof Editor && before.at === at
    this.closeUnder()
    if (!closes && stack.enabled && Editor.takes(stack.rows[at])) this.under = new Editor(stack, at)
    if (this.under) this.details = null
    stack.draw()
    const view = stack.viewOf(at)
    if (view && this.under) this.observer.observe(view.under)
    else view?.focus()
  }

  /** Rows are others now, or at other places: an editor belongs to a place among them. */
  closeUnder() {
    this.observer.disconnect()
    this.under?.dispose()
    this.under = null
  }

  close() {
    this.details = null
    this.closeUnder()
  }

  /** What cannot stay open, now that the rows are others. */
  check() {
    const { rows, enabled } = this.stack
    if (this.details !== null && this.details >= rows.length) this.details = null
    const { under } = this
    if (under && !(enabled && Object.values(EDITORS).find((one) => under instanceof one)?.takes(rows[under.at]))) {
      this.closeUnder()
    }
  }

  // Across undo

  /** The node goes. */
  leave() {
    const { stack, under } = this
    if (this.details !== null || under) {
      const editor = under && (under instanceof RowDesk ? 'desk' : 'curve')
      const known = { id: String(stack.node.id), files: filesOf(stack.rows) }
      left = { ...known, details: this.details, editor, at: under?.at ?? null, until: Date.now() + REOPEN }
    }
    this.closeUnder()
  }

  /** The node is there, and may be in the place of one that went. */
  arrive() {
    if (left.id !== String(this.stack.node.id) || Date.now() >= left.until) return
    this.#before = left
    left = { ...left, until: 0 }
  }

  /** What is to be open in the rows that were read first: whatever was, where they are about the same files. @returns {() => void} for when
   *   they are drawn */
  resume() {
    const before = this.#before?.files === filesOf(this.stack.rows) ? this.#before : null
    this.#before = null
    if (!before) return () => {}
    this.details = before.details
    const { editor, at } = before
    return () => editor !== null && at !== null && this.toggle(editor, at)
  }
}

/** Which file each row is about. @param {Row[]} rows */
const filesOf = (rows) => JSON.stringify(rows.map((row) => row.file ?? null))
