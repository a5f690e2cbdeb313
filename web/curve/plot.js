// @ts-check
// The picture of a strength over time, and hands on it: press to add a point, drag, keys. What an edit means for a text is the editor's business.
import { app } from '../lib/comfy.js'
import { attribute, el } from '../lib/dom.js'
import { capture, Drag } from '../lib/drag.js'
import { t } from '../lib/i18n.js'
import { isPlain } from '../lib/keys.js'
import { bounded, snapTo } from '../lib/numbers.js'
import { oneStep, UndoStep } from '../lib/undo.js'
import { NoiseLine } from './noise_line.js'
import { added, along, axisOf, height, moved, nudge, path, placeAt, rangeOf, removed } from './points.js'

/** @typedef {import('./points.js').Curve} Curve */
/** @typedef {import('./curve.js').CurveEditor} CurveEditor */

const STEP = 0.05
const FINE = 0.01
const PAGE = 0.25
const SVG = 'http://www.w3.org/2000/svg'

export class Plot {
  #drag = new Drag()
  /** The point that is held. */
  #at = 0
  #repeating = new UndoStep()
  /** What the picture spans; it stays while a hand holds a point. */
  axis = { from: 0, to: 100 }
  range = { low: -0.5, high: 1.5 }

  /** @param {CurveEditor} editor */
  constructor(editor) {
    this.editor = editor
    this.line = document.createElementNS(SVG, 'path')
    this.area = document.createElementNS(SVG, 'path')
    this.area.classList.add('strata-curve-area')
    const drawing = document.createElementNS(SVG, 'svg')
    attribute(drawing, 'viewBox', '0 0 100 100')
    attribute(drawing, 'preserveAspectRatio', 'none')
    attribute(drawing, 'aria-hidden', 'true')
    drawing.append(this.area, this.line)
    this.one = el('i', { class: 'strata-curve-level', 'data-level': '1' })
    this.zero = el('i', { class: 'strata-curve-level', 'data-level': '0' })
    this.ticks = el('div', { class: 'strata-curve-ticks', 'aria-hidden': 'true' })
    this.dots = el('div', { class: 'strata-curve-dots' })
    this.surface = el(
      'div',
      {
        class: 'strata-curve-surface',
        on: {
          pointerdown: (event) => this.#press(event),
          pointermove: (event) => this.#move(event),
          pointerup: (event) => this.#release(event),
          pointercancel: (event) => this.#release(event),
          lostpointercapture: (event) => this.#release(event),
          dblclick: (event) => this.#doubleClicked(event),
          contextmenu: (event) => this.#rightClicked(event),
          keydown: (event) => this.#key(event),
          keyup: () => this.#repeating.end(),
          focusout: () => this.#repeating.end(),
          focusin: (event) => this.#focused(event),
        },
      },
      this.one,
      this.zero,
      drawing,
      this.dots,
    )
    this.element = el('div', { class: 'strata-curve-plot' }, this.surface, this.ticks)
    this.noise = new NoiseLine(this)
  }

  get held() {
    return this.#drag.held
  }

  /** @param {Curve} curve @param {{enabled: boolean, selected: number | null, steps: number | null}} state steps of the sampler */
  draw(curve, { enabled, selected, steps }) {
    if (!this.held) [this.axis, this.range] = [axisOf(curve, steps), rangeOf(curve)]
    const line = path(curve, this.axis, this.range)
    const ground = 100 - 100 * height(this.range, 0)
    attribute(this.line, 'd', line)
    attribute(this.area, 'd', `${line}V${ground}H0Z`)
    for (const [level, strength] of /** @type {const} */ ([[this.one, 1], [this.zero, 0]])) {
      level.style.bottom = `${100 * height(this.range, strength)}%`
    }
    this.surface.classList.toggle('tall', this.range.high - this.range.low > 8)
    this.noise.draw()
    this.#drawTicks(curve)
    this.#drawDots(curve, enabled, selected)
  }

  /** @param {Curve} curve */
  #drawTicks({ unit }) {
    const { from, to } = this.axis
    const shown = [0, 0.25, 0.5, 0.75, 1].map((share) => {
      const place = Number((from + share * (to - from)).toPrecision(3))
      return unit === 'percent' ? `${place} %` : String(place)
    })
    if (this.ticks.children.length !== shown.length) this.ticks.replaceChildren(...shown.map(() => el('span')))
    shown.forEach((text, at) => {
      if (this.ticks.children[at].textContent !== text) this.ticks.children[at].textContent = text
    })
  }

  /** @param {Curve} curve @param {boolean} enabled @param {number | null} selected */
  #drawDots(curve, enabled, selected) {
    while (this.dots.children.length > curve.points.length) this.dots.lastElementChild?.remove()
    while (this.dots.children.length < curve.points.length) {
      this.dots.append(
        el('div', { class: 'strata-curve-dot', role: 'slider', tabindex: 0, 'aria-orientation': 'vertical' }),
      )
    }
    curve.points.forEach(([place, strength], at) => {
      const dot = /** @type {HTMLElement} */ (this.dots.children[at])
      dot.style.left = `${100 * along(this.axis, place)}%`
      dot.style.bottom = `${100 * height(this.range, strength)}%`
      dot.classList.toggle('selected', at === selected)
      dot.classList.toggle('negative', strength < 0)
      attribute(dot, 'aria-label', t('curvePoint', { at: at + 1, place: this.editor.placeText(place) }))
      attribute(dot, 'aria-valuemin', this.range.low)
      attribute(dot, 'aria-valuemax', this.range.high)
      attribute(dot, 'aria-valuenow', strength)
      attribute(dot, 'aria-disabled', enabled ? null : true)
    })
  }

  /** @param {number} at */
  focus(at) {
    const dot = this.dots.children[at]
    if (dot instanceof HTMLElement) dot.focus({ preventScroll: true })
  }

  /** Which point an element is. @param {EventTarget | null} target @returns {number | null} */
  indexOf(target) {
    const at = target instanceof Element ? [...this.dots.children].indexOf(target) : -1
    return at < 0 ? null : at
  }

  /** Whoever shows it goes, perhaps in the middle of a drag. */
  dispose() {
    this.#drag.stop()
    this.#repeating.end()
    this.noise.dispose()
  }

  /** @param {PointerEvent} event */
  #spot(event) {
    const box = this.surface.getBoundingClientRect()
    const { low, high } = this.range
    const up = (box.bottom - event.clientY) / (box.height || 1)
    return {
      place: placeAt(this.axis, (event.clientX - box.left) / (box.width || 1), this.editor.curve.unit, event.shiftKey),
      strength: snapTo(low + Math.min(1, Math.max(0, up)) * (high - low), event.shiftKey ? FINE : STEP),
    }
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (event.button !== 0 || app.canvas?.read_only) return
    event.stopPropagation()
    const { editor } = this
    let at = this.indexOf(event.target)
    if (at !== null) this.focus(at)
    if (!editor.enabled || this.held) return
    this.#drag.begin(event, at === null)
    if (at === null) {
      const { place, strength } = this.#spot(event)
      const found = added(editor.curve, place, strength)
      at = found.at
      editor.change(found.curve, at)
    }
    this.#at = at
    this.focus(at)
    event.preventDefault()
    capture(this.surface, event.pointerId)
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.#drag.follows(event)) return
    const { place, strength } = this.#spot(event)
    this.editor.change(moved(this.editor.curve, this.#at, place, strength), this.#at)
  }

  /** @param {PointerEvent} event */
  #release(event) {
    if (this.#drag.ends(event)) this.editor.draw()
  }

  /** A captured pointer's clicks are told of the surface: the point is the selected one. @param {MouseEvent} event */
  #doubleClicked(event) {
    event.preventDefault()
    event.stopPropagation()
    if (this.editor.selected !== null) this.editor.type(this.editor.selected, '')
  }

  /** @param {MouseEvent} event */
  #rightClicked(event) {
    const at = this.indexOf(event.target)
    event.preventDefault()
    event.stopPropagation()
    if (at !== null && !this.held) this.#remove(at)
  }

  /** @param {FocusEvent} event */
  #focused(event) {
    const at = this.indexOf(event.target)
    if (at !== null) this.editor.select(at)
  }

  /** @param {number} at */
  #remove(at) {
    const { editor } = this
    if (!editor.enabled || editor.curve.points.length < 2) return
    const next = Math.min(at, editor.curve.points.length - 2)
    oneStep(() => editor.change(removed(editor.curve, at), next))
    this.focus(next)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const at = this.indexOf(event.target)
    if (at === null || !isPlain(event) || this.held) return
    const run = this.#meaning(event, at)
    if (!run) return
    event.preventDefault()
    if (!this.editor.enabled) return
    if (event.repeat) this.#repeating.begin()
    run()
  }

  /** @param {KeyboardEvent} event @param {number} at @returns {(() => void) | null} */
  #meaning({ key, shiftKey: fine }, at) {
    const { editor } = this
    const { curve } = editor
    const [place, strength] = curve.points[at]
    const change = (/** @type {number} */ to, /** @type {number} */ value) => () =>
      oneStep(() => editor.change(moved(curve, at, Number(to.toFixed(4)), bounded(value)), at))
    const up = { ArrowUp: STEP, ArrowDown: -STEP, PageUp: PAGE, PageDown: -PAGE }[key]
    if (up) {
      return change(place, snapTo(strength + (fine ? Math.sign(up) * FINE : up), fine ? FINE : STEP))
    }
    if (key === 'ArrowLeft' || key === 'ArrowRight') {
      const by = nudge(curve.unit, fine) * (key === 'ArrowRight' ? 1 : -1)
      const { from, to } = this.axis
      return change(Math.min(Math.max(from, to), Math.max(0, place + by)), strength)
    }
    if (key === 'Delete' || key === 'Backspace') return () => this.#remove(at)
    if (key === 'Insert') return () => this.#insert(at)
    if (key === 'Enter') return () => editor.type(at, '')
    if (/^[-+.,\d]$/.test(key)) return () => editor.type(at, key)
    return null
  }

  /** One more point, half way to the next one, or to the end. @param {number} at */
  #insert(at) {
    const { editor } = this
    const [place, strength] = editor.curve.points[at]
    const [next, there] = editor.curve.points[at + 1] ?? [this.axis.to, strength]
    const found = added(
      editor.curve,
      Number(((place + next) / 2).toFixed(4)),
      Number(((strength + there) / 2).toFixed(4)),
    )
    oneStep(() => editor.change(found.curve, found.at))
    this.focus(found.at)
  }
}
