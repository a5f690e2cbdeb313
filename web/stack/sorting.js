// @ts-check
// Putting rows into another order by mouse or finger. Nothing moves before the hand lets go: a line shows where.
import { el } from '../lib/dom.js'
import { capture } from '../lib/drag.js'
import { groupAt } from './text.js'

/** @typedef {import('./stack.js').StackView} StackView */

export class Sorting {
  /** @type {{id: number, from: number, to: number, handle: HTMLElement} | null} */
  #drag = null

  /** @param {StackView} stack */
  constructor(stack) {
    this.stack = stack
    this.line = el('div', { class: 'strata-drop' })
  }

  /** @param {PointerEvent} event @param {number} at */
  press(event, at) {
    if (event.button !== 0 || !this.stack.enabled) return
    event.stopPropagation()
    event.preventDefault()
    const handle = /** @type {HTMLElement} */ (event.currentTarget)
    this.#drag = { id: event.pointerId, from: at, to: at, handle }
    const listening = new AbortController()
    const options = { signal: listening.signal }
    const end = (/** @type {boolean} */ kept) => (/** @type {PointerEvent} */ event) => {
      if (event.pointerId !== this.#drag?.id) return
      listening.abort()
      this.#end(kept)
    }
    capture(handle, event.pointerId)
    handle.addEventListener('pointermove', (event) => this.#move(event), options)
    handle.addEventListener('pointerup', end(true), options)
    handle.addEventListener('pointercancel', end(false), options)
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const drag = this.#drag
    if (!drag || event.pointerId !== drag.id) return
    event.stopPropagation()
    const views = this.stack.shownViews()
    const before = views.find((view) => {
      const { top, height } = view.front.getBoundingClientRect()
      return event.clientY < top + height / 2
    })
    drag.to = before ? before.at : this.stack.rows.length
    if (before) before.element.before(this.line)
    else this.stack.list.append(this.line)
  }

  /** @param {boolean} kept */
  #end(kept) {
    const drag = this.#drag
    this.#drag = null
    this.line.remove()
    if (!drag || !kept) return
    const [from, end] = groupAt(this.stack.rows, drag.from)
    if (drag.to < from || drag.to > end) this.stack.edits.moveTo(drag.from, drag.to)
  }
}
