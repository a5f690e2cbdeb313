// @ts-check
// The curve of one row: the strength over time of its LoRA, under the row. The row's text is the truth.
import { CurveEditor } from '../curve/curve.js'
import { samplingOf, stepsBehind } from '../curve/sampling.js'
import { el } from '../lib/dom.js'
import { unwatch, watch } from '../lib/watch.js'

/** @typedef {import('./stack.js').StackView} StackView */

/** What a row without a strength over time has. */
const CONSTANT = '1@0%'

export class RowCurve {
  /** Whether a row has one. @param {import('./text.js').Row | undefined} row */
  static takes = (row) => row?.kind === 'lora'

  /** @param {StackView} stack @param {number} at */
  constructor(stack, at) {
    this.stack = stack
    this.at = at
    this.editor = new CurveEditor({
      set: (text) => stack.edits.setCurve(at, text === CONSTANT ? '' : text),
      sampling: (counted) => samplingOf(stack.node, counted, stack.rows[at]?.file),
      constant: CONSTANT,
    })
    this.element = el('div', { class: 'strata-under' }, this.editor.element)
    this.element.addEventListener('keydown', (event) => this.#key(event), true)
    watch(this)
  }

  tick() {
    const row = this.stack.rows[this.at]
    const steps = this.editor.plot.noise.count ?? stepsBehind(this.stack.node)
    if (row) this.editor.show({ text: row.time || CONSTANT, linked: false, steps })
    this.editor.plot.noise.tick(this.stack.node)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key !== 'Escape' || event.target instanceof HTMLInputElement) return
    event.preventDefault()
    event.stopPropagation()
    this.stack.opened.toggle('curve', this.at)
  }

  dispose() {
    unwatch(this)
    this.editor.dispose()
    this.element.remove()
  }
}
