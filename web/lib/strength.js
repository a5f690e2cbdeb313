// @ts-check
// A strength as a bar that one drags and a number that one types. What it sets is somebody else's business: a node's own widget, a row.
import { passMiddle } from './canvas.js'
import { attribute, el, setText } from './dom.js'
import { capture, Drag } from './drag.js'
import { t } from './i18n.js'
import { isPlain, shield } from './keys.js'
import { NumberField } from './number_field.js'
import { bounded, formatNumber, LIMIT, snapTo } from './numbers.js'
import { oneStep, UndoStep } from './undo.js'

/**
 * @typedef {object} Wishes
 * @property {string} label
 * @property {(value: number) => void} set called within a step of undo
 * @property {(message: string) => void} [refuse] what is wrong with a typed text, or an empty text when nothing is any more
 * @property {number} [usual] what a right click and Delete give back; 1 unless said
 */
/**
 * @typedef {object} Look
 * @property {number} value
 * @property {number} reach how far the bar goes, to both sides of 0
 * @property {boolean} [enabled]
 * @property {number} [hint] a recommended strength, shown as a tick
 */

const STEP = 0.05
const FINE = 0.01
const PAGE = 0.25
/** Weight of one px of a drag, at most: every step can be hit, however narrow the node is. */
const PER_PIXEL = 0.01
/** The part of that with Shift. */
const SLOW = 0.2
/** Values that hold a drag a little longer than others. */
const MAGNETS = [-1, 0, 0.5, 1]
const PULL = 0.045

export class Strength {
  /** @type {Look} */
  #look = { value: 1, reach: 2, enabled: true }
  #drag = new Drag()
  /** Where the pointer was last while it drags, and the value there before it was rounded. */
  #x = 0
  #raw = 0
  #repeating = new UndoStep()

  /** @param {Wishes} wishes */
  constructor(wishes) {
    this.wishes = wishes
    this.name = el('span', { class: 'strata-strength-name', text: wishes.label })
    this.number = el('span', { class: 'strata-strength-value' })
    this.tick = el('i', { class: 'strata-tick', hidden: true })
    this.bar = el(
      'div',
      {
        class: 'strata-strength-bar',
        role: 'slider',
        tabindex: 0,
        'aria-label': wishes.label,
        title: `${wishes.label}\n${t('strengthHint')}`,
        on: {
          pointerdown: (event) => this.#press(event),
          pointermove: (event) => this.#move(event),
          pointerup: (event) => this.#drag.ends(event),
          pointercancel: (event) => this.#drag.ends(event),
          lostpointercapture: (event) => this.#drag.ends(event),
          dblclick: (event) => this.#doubleClicked(event),
          contextmenu: (event) => this.#rightClicked(event),
          keydown: (event) => this.#key(event),
          keyup: () => this.#repeating.end(),
          focusout: () => this.#repeating.end(),
        },
      },
      el('i', { class: 'strata-strength-fill' }),
      el('i', { class: 'strata-strength-zero' }),
      this.tick,
      this.name,
      this.number,
    )
    this.field = new NumberField({
      label: wishes.label,
      take: (value) => this.#set(value),
      refuse: wishes.refuse,
      left: () => this.bar.focus({ preventScroll: true }),
    })
    this.field.element.addEventListener('blur', () => this.element.classList.toggle('typing', this.field.isTyping))
    this.element = el('div', { class: 'strata-strength', on: { keydown: shield } }, this.bar, this.field.element)
  }

  /** @param {Look} look */
  show(look) {
    this.#look = look
    const { value, reach, enabled = true, hint } = look
    const at = (/** @type {number} */ of) => 50 + 50 * Math.max(-1, Math.min(1, of / reach))
    this.bar.style.setProperty('--from', `${Math.min(50, at(value))}%`)
    this.bar.style.setProperty('--to', `${Math.max(50, at(value))}%`)
    this.element.classList.toggle('negative', value < 0)
    this.element.classList.toggle('off', !enabled)
    setText(this.number, value.toFixed(2) === String(value) ? String(value) : shown(value))
    attribute(this.bar, 'aria-valuemin', -reach)
    attribute(this.bar, 'aria-valuemax', reach)
    attribute(this.bar, 'aria-valuenow', value)
    attribute(this.bar, 'aria-disabled', enabled ? null : true)
    attribute(this.tick, 'hidden', hint === undefined || Math.abs(hint) > reach ? true : null)
    if (hint !== undefined) this.tick.style.left = `${at(hint)}%`
    this.field.show(value)
  }

  /** Begins typing. @param {string} [first] the key that was pressed to begin with */
  type(first = '') {
    if (this.#look.enabled === false) return
    this.element.classList.add('typing')
    this.field.start(first)
  }

  /** Whoever shows it goes, perhaps in the middle of a drag. */
  dispose() {
    this.#drag.stop()
    this.#repeating.end()
  }

  /** @param {number} value */
  #set(value) {
    if (this.#look.enabled !== false && value !== this.#look.value) oneStep(() => this.wishes.set(bounded(value)))
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (event.button === 1) passMiddle(event)
    if (event.button !== 0) return
    event.stopPropagation()
    this.bar.focus({ preventScroll: true })
    if (this.#look.enabled === false) return
    this.#x = event.clientX
    this.#raw = this.#look.value
    this.#drag.begin(event)
    capture(this.bar, event.pointerId)
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.#drag.follows(event)) return
    const by = event.clientX - this.#x
    this.#x = event.clientX
    // The bar follows the pointer where it is long enough for that.
    const width = this.bar.getBoundingClientRect().width || 1
    const per = Math.min(PER_PIXEL, (2 * this.#look.reach) / width)
    this.#raw = bounded(this.#raw + by * per * (event.shiftKey ? SLOW : 1))
    const magnet = event.shiftKey ? undefined : MAGNETS.find((at) => Math.abs(at - this.#raw) < PULL)
    this.#set(magnet ?? snapTo(this.#raw, event.shiftKey ? FINE : STEP))
  }

  /** @param {MouseEvent} event */
  #doubleClicked(event) {
    event.preventDefault()
    event.stopPropagation()
    this.type()
  }

  /** @param {MouseEvent} event */
  #rightClicked(event) {
    event.preventDefault()
    event.stopPropagation()
    this.#set(this.wishes.usual ?? 1)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!isPlain(event)) return
    const run = this.#meaning(event)
    if (!run) return
    event.preventDefault()
    if (event.repeat) this.#repeating.begin()
    run()
  }

  /** @param {KeyboardEvent} event @returns {(() => void) | null} */
  #meaning({ key, shiftKey }) {
    const { value, reach } = this.#look
    const up =
      { ArrowUp: STEP, ArrowRight: STEP, ArrowDown: -STEP, ArrowLeft: -STEP, PageUp: PAGE, PageDown: -PAGE }[key]
    if (up) {
      const step = shiftKey ? FINE : STEP
      return () => this.#set(snapTo(value + (shiftKey ? Math.sign(up) * FINE : up), step))
    }
    if (key === 'Home') return () => this.#set(-Math.min(reach, LIMIT))
    if (key === 'End') return () => this.#set(Math.min(reach, LIMIT))
    if (key === 'Delete' || key === 'Backspace') return () => this.#set(this.wishes.usual ?? 1)
    if (key === 'Enter') return () => this.type()
    if (/^[-+.,\d]$/.test(key)) return () => this.type(key)
    return null
  }
}

/** Two decimals, or as many as the number has. @param {number} value */
function shown(value) {
  const short = value.toFixed(2)
  return Number(short) === value ? short : formatNumber(value)
}
