// @ts-check
// An editor of a strength over time: presets, shape and unit above its picture, the point in hand as numbers below. The truth is a text: whoever
// shows the editor gives it and takes it back. It knows nothing of nodes.
import { passMiddle, passWheel } from '../lib/canvas.js'
import { attribute, el, flag, icon, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { shield, walk } from '../lib/keys.js'
import { NumberField } from '../lib/number_field.js'
import { Popup } from '../lib/popup.js'
import { getSchedule, keepSchedule, knownSchedule } from '../lib/server.js'
import { oneStep } from '../lib/undo.js'
import { Plot } from './plot.js'
import { inUnit, moved, path, placed, removed, STEPS, SUFFIX, write } from './points.js'

/** @typedef {import('./points.js').Curve} Curve */
/** @typedef {import('./points.js').Unit} Unit */
/** @typedef {import('../lib/server.js').Schedule} Schedule */
/**
 * @typedef {object} Wishes
 * @property {(text: string) => void} set the text is another; called within a step of undo
 * @property {() => void} [resized]
 * @property {(counted: number | null) => Promise<{steps: number | null, noise: number[] | null, family: string}>} [sampling] what is known of the sampling that it acts in, beside the steps that are counted already
 * @property {string} [constant] the text of a strength that does not change, where that can be chosen too
 */

/** @type {Record<import('./points.js').Shape, string>} */
const SHAPES = { linear: 'M3 20L10 6L21 14', smooth: 'M3 20C11 20 12 5 21 5', hold: 'M3 19H10V6H21' }
/** @type {[Unit, 'unitPercent' | 'unitStep' | 'unitSigma'][]} */
const UNITS = [['percent', 'unitPercent'], ['step', 'unitStep'], ['sigma', 'unitSigma']]
/** @type {Record<string, 'constant' | 'fadeIn' | 'fadeOut' | 'firstThird' | 'lastThird' | 'pulse'>} */
const PRESETS = {
  constant: 'constant',
  'fade in': 'fadeIn',
  'fade out': 'fadeOut',
  'first third': 'firstThird',
  'last third': 'lastThird',
  pulse: 'pulse',
}
/** @type {Curve & {name: string}} */
const CONSTANT = { name: 'constant', points: [[0, 1]], unit: 'percent', shape: 'linear' }
const SHORT = { percent: '%', step: '', sigma: 'σ' }
const BIN = 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13'
const MOST_PLACE = 100_000

export class CurveEditor {
  /** @type {Curve} */
  curve = { points: [[0, 1]], unit: 'percent', shape: 'linear' }
  enabled = false
  /** The point in hand. @type {number | null} */
  selected = null
  #text = ''
  #linked = false
  #error = ''
  #complaint = ''
  /** What a change of the unit took for true, and how many steps of the sampler it counted. @type {{text: string, steps?: number | null}} */
  #taken = { text: '' }
  /** Of the sampler behind, where there is one. @type {number | null} */
  #steps = null
  #round = 0
  /** @type {Schedule['presets']} */
  #presets = []

  /** @param {Wishes} wishes */
  constructor(wishes) {
    this.wishes = wishes
    this.plot = new Plot(this)
    this.openMenu = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'presets',
      'aria-haspopup': 'dialog',
      text: `${t('presets')} ▾`,
      on: { click: () => this.#toggleMenu() },
    })
    this.items = el('div', { class: 'strata-items strata-curve-presets', role: 'listbox', 'aria-label': t('presets') })
    this.menu = el(
      'div',
      {
        class: 'strata-menu',
        role: 'dialog',
        'aria-label': t('presets'),
        on: { keydown: (event) => this.#walk(event) },
      },
      this.items,
    )
    this.popup = new Popup(this.menu)
    this.shapes = Object.entries(SHAPES).map(([shape, drawing]) =>
      el('button', {
        type: 'button',
        class: 'strata-button strata-curve-shape',
        'data-shape': shape,
        title: t(/** @type {keyof typeof SHAPES} */ (shape)),
        'aria-label': t(/** @type {keyof typeof SHAPES} */ (shape)),
        on: { click: () => this.#edit({ ...this.curve, shape: /** @type {keyof typeof SHAPES} */ (shape) }) },
      }, icon(drawing))
    )
    /** @type {HTMLSelectElement} */
    this.units = el(
      'select',
      {
        class: 'strata-curve-unit',
        title: t('unit'),
        'aria-label': t('unit'),
        on: { change: () => this.#countIn(/** @type {Unit} */ (this.units.value)) },
      },
      ...UNITS.map(([unit, word]) => el('option', { value: unit, text: t(word) })),
    )
    const refuse = (/** @type {string} */ message) => this.#complain(message)
    const left = () => this.selected !== null && this.plot.focus(this.selected)
    this.strength = new NumberField({
      label: t('curveStrength'),
      refuse,
      left: (key) => key !== 'Tab' && left(),
      take: (value) => this.#take((at, [place]) => ({ curve: moved(this.curve, at, place, value), at })),
    })
    this.place = new NumberField({
      label: t('curvePlace'),
      low: 0,
      limit: MOST_PLACE,
      refuse,
      left: (key) => key !== 'Tab' && left(),
      take: (value) => this.#take((at) => placed(this.curve, at, value)),
    })
    this.unit = el('span', { class: 'strata-curve-short' })
    this.bin = el('button', {
      type: 'button',
      class: 'strata-button strata-curve-shape',
      'data-act': 'remove',
      title: t('curveRemove'),
      'aria-label': t('curveRemove'),
      on: { click: () => this.#remove() },
    }, icon(BIN))
    this.note = el('div', { class: 'strata-note', role: 'status' })
    const at = el('span', { text: '@', 'aria-hidden': 'true' })
    const point = el(
      'div',
      { class: 'strata-curve-point' },
      this.strength.element,
      at,
      this.place.element,
      this.unit,
      this.bin,
    )
    this.foot = el('div', { class: 'strata-foot' }, point, this.note)
    /** @type {HTMLElement} */
    this.element = el(
      'div',
      {
        class: 'strata strata-curve',
        tabindex: -1,
        role: 'group',
        'aria-label': t('curve'),
        on: {
          keydown: shield,
          copy: (event) => this.#copied(event),
          paste: (event) => this.#pasted(event),
          wheel: (event) => passWheel(event),
          pointerdown: passMiddle,
        },
      },
      el(
        'div',
        { class: 'strata-bar' },
        this.openMenu,
        el('div', { class: 'strata-tools' }, ...this.shapes),
        this.units,
      ),
      this.plot.element,
      this.foot,
    )
  }

  /** What the text is now. Linked: a wire decides it; steps: of the sampler. @param {{text: string, linked: boolean, steps: number | null}} state */
  show({ text, linked, steps }) {
    if (this.plot.held) return
    const counts = steps !== this.#steps
    this.#steps = steps
    if (text === this.#text && linked === this.#linked && this.#presets.length) {
      if (counts) this.draw()
      return
    }
    this.#text = text
    this.#linked = linked
    this.#complaint = ''
    this.#read(text)
  }

  /** @param {string} text */
  async #read(text) {
    const round = ++this.#round
    const found = knownSchedule(text) ?? await getSchedule(text)
    if (round !== this.#round) return
    this.#error = found.error ?? ''
    if (!found.error) {
      const { points, unit, shape, again } = found
      this.curve = { points, unit, shape, again }
      this.#presets = found.presets
    } else if (!this.#presets.length) this.#presets = (await getSchedule('1')).presets ?? []
    this.enabled = !this.#linked && !this.#error
    if (this.selected !== null && this.selected >= this.curve.points.length) this.selected = null
    this.draw()
  }

  draw() {
    const { curve, enabled, selected } = this
    this.plot.draw(curve, { enabled, selected, steps: this.#steps })
    for (const button of this.shapes) {
      flag(button, 'aria-pressed', button.dataset.shape === curve.shape)
      attribute(button, 'disabled', enabled ? null : true)
    }
    if (this.units.value !== curve.unit) this.units.value = curve.unit
    attribute(this.units, 'disabled', enabled ? null : true)
    attribute(this.openMenu, 'disabled', this.#linked ? true : null)
    this.element.classList.toggle('disabled', !enabled)
    attribute(this.element, 'aria-invalid', this.#error ? true : null)
    const point = selected === null ? null : curve.points[selected]
    this.strength.show(point?.[1] ?? null)
    this.place.show(point?.[0] ?? null)
    this.place.unit = SUFFIX[curve.unit]
    setText(this.unit, SHORT[curve.unit])
    for (const field of [this.strength.element, this.place.element]) {
      attribute(field, 'disabled', point && enabled ? null : true)
    }
    attribute(this.bin, 'disabled', point && enabled && curve.points.length > 1 ? null : true)
    this.foot.classList.toggle('pointing', point !== null)
    const wrong = this.#complaint || (this.#linked ? '' : this.#error)
    const { text: taken, steps = this.#steps } = this.#taken
    const told = (steps === this.#steps && taken) || t('curveHint')
    setText(this.note, wrong || (this.#linked ? t('curveLinked') : told))
    attribute(this.note, 'title', this.note.textContent)
    this.note.classList.toggle('wrong', wrong !== '')
    this.foot.classList.toggle('talking', wrong !== '')
  }

  /** A place in words. @param {number} place */
  placeText(place) {
    const word = UNITS.find(([unit]) => unit === this.curve.unit)?.[1] ?? 'unitPercent'
    return `${place} ${t(word)}`
  }

  /** @param {number | null} at */
  select(at) {
    if (this.selected === at) return
    this.selected = at
    this.draw()
  }

  /** A hand has changed the curve, within a step of undo. @param {Curve} curve @param {number | null} selected */
  change(curve, selected) {
    const text = write(curve)
    this.curve = curve
    this.selected = selected
    this.#complaint = ''
    this.#taken = { text: '' }
    if (text !== this.#text) {
      this.#round++
      this.#text = text
      keepSchedule(text, { ...curve, text, presets: this.#presets })
      this.wishes.set(text)
    }
    this.draw()
  }

  /** Begins typing a point's strength. @param {number} at @param {string} first the key that was pressed on it */
  type(at, first) {
    if (!this.enabled) return
    this.select(at)
    this.strength.start(first)
  }

  dispose() {
    this.#round++
    this.plot.dispose()
    this.popup.close()
  }

  /** @param {Curve} curve */
  #edit(curve) {
    if (this.enabled) oneStep(() => this.change(curve, this.selected))
  }

  /** The same points in another unit, by what the sampling is; where nobody knows that, nothing changes. @param {Unit} unit */
  async #countIn(unit) {
    const before = this.curve
    const { steps = null, noise = null, family = '' } = await this.wishes.sampling?.(this.plot.noise.count) ?? {}
    if (this.curve !== before) return
    const found = inUnit(before, unit, { steps: steps ?? STEPS, noise })
    if (!found) {
      this.#complaint = t('curveNoiseUnknown')
      return this.draw()
    }
    this.#edit(found)
    this.#steps = steps
    const counted = [unit, before.unit].includes('step') &&
      t(steps ? 'curveSteps' : 'curveStepsAssumed', { steps: steps ?? STEPS })
    const noisy = [unit, before.unit].includes('sigma') && t('curveNoise', { family })
    this.#taken = { text: [counted, noisy].filter(Boolean).join(' '), steps: counted ? steps : undefined }
    this.draw()
  }

  /** @param {(at: number, point: import('./points.js').Point) => {curve: Curve, at: number}} edit */
  #take(edit) {
    const at = this.selected
    if (at === null || !this.enabled) return
    const found = edit(at, this.curve.points[at])
    oneStep(() => this.change(found.curve, found.at))
  }

  #remove() {
    const at = this.selected
    if (at === null || !this.enabled) return
    const next = Math.min(at, this.curve.points.length - 2)
    oneStep(() => this.change(removed(this.curve, at), next))
    this.plot.focus(next)
  }

  /** @param {string} message */
  #complain(message) {
    if (message === this.#complaint) return
    this.#complaint = message
    this.draw()
  }

  // Presets

  #toggleMenu() {
    if (this.popup.isOpen) {
      this.popup.close(true)
      return
    }
    const { constant: text } = this.wishes
    const constant = text ? [{ ...CONSTANT, text }] : []
    this.items.replaceChildren(...[...constant, ...this.#presets].map((preset) => this.#item(preset)))
    this.popup.open({ host: this.element, opener: this.openMenu })
    this.menu.style.top = `${this.openMenu.offsetTop + 26}px`
    const [first] = this.items.children
    if (first instanceof HTMLElement) first.focus({ preventScroll: true })
  }

  /** @param {Schedule['presets'][number]} preset */
  #item(preset) {
    const drawing = icon(path(preset))
    attribute(drawing, 'viewBox', '-4 -4 108 108')
    attribute(drawing, 'preserveAspectRatio', 'none')
    const choose = () => {
      this.popup.close(true)
      if (!this.#linked) this.#use(preset.text, preset)
    }
    return el(
      'button',
      { type: 'button', class: 'strata-item', role: 'option', title: preset.text, on: { click: choose } },
      drawing,
      el('span', { text: PRESETS[preset.name] ? t(PRESETS[preset.name]) : preset.name }),
    )
  }

  /** @param {KeyboardEvent} event */
  #walk(event) {
    walk(event, /** @type {HTMLElement[]} */ ([...this.items.children]))
    shield(event)
  }

  // Texts

  /** @param {string} text @param {Curve} curve */
  #use(text, curve) {
    this.#error = ''
    this.enabled = !this.#linked
    const { points, unit, shape, again } = curve
    oneStep(() => this.change({ points, unit, shape, again }, null))
  }

  /** @param {ClipboardEvent} event */
  #copied(event) {
    if (event.target instanceof HTMLInputElement) return
    event.clipboardData?.setData('text/plain', this.#text)
    event.preventDefault()
    event.stopPropagation()
  }

  /** @param {ClipboardEvent} event */
  async #pasted(event) {
    if (event.target instanceof HTMLInputElement) return
    event.preventDefault()
    event.stopPropagation()
    const text = event.clipboardData?.getData('text/plain').trim() ?? ''
    if (!text || this.#linked) return
    const found = await getSchedule(text)
    if (found.error) this.#complain(found.error)
    else this.#use(found.text, found)
  }
}
