// @ts-check
// The picture on an Inspect LoRA node: live, without running the graph.
import { passMiddle, passWheel } from '../lib/canvas.js'
import { attribute, el, setText } from '../lib/dom.js'
import { isLinked, setWidget, valueOf } from '../lib/graph.js'
import { language, t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { leave, takePlace } from '../lib/place.js'
import { setHeight } from '../lib/room.js'
import { failureOf, outputOf } from '../lib/runs.js'
import { getPicture } from '../lib/server.js'
import { themeFor } from '../lib/theme.js'
import { oneStep } from '../lib/undo.js'
import { chooseLora } from '../picker/picker.js'
import { drawn } from './drawing.js'
import { addSave, scaleAll, sourcesOf } from './sources.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../lib/server.js').Shape} Shape */
/** @typedef {import('../lib/server.js').Picture} Picture */

/** Px of width that are one picture. */
const STEP = 20
const NARROWEST = 220
const WIDEST = 1600
/** Its height in px. */
const BAR = 28
/** Px of height before there is a picture. */
const EMPTY = 90
/** Ms without a change before files are read: a strength that is dragged asks once. */
const SETTLED = 250

export class InspectPanel {
  /** @type {Picture | null} */
  picture = null

  #asked = ''
  /** What a run failed with. */
  #ran = ''
  /** px of the element and of what it says, as they were drawn last: far away, off the screen or collapsed it has none. */
  #width = 0
  #said = 0
  #shown = ''
  #busy = false
  #timer = 0
  #gone = false
  /** @type {import('./sources.js').Sources} */
  #sources = { list: [], owners: [], whole: false, note: '' }

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
    this.note = el('div', { class: 'strata-inspect-note', role: 'status' })
    this.choose = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'choose',
      text: t('chooseLora'),
      on: { click: () => this.#choose() },
    })
    this.canvas = el('div', { class: 'strata-inspect-canvas' })
    this.tip = el('div', { class: 'strata-inspect-tip', hidden: true })
    this.element = el(
      'div',
      {
        class: 'strata strata-inspect',
        on: {
          keydown: (event) => this.#key(event),
          wheel: (event) => passWheel(event),
          pointerdown: passMiddle,
          pointermove: (event) => this.#point(event),
          pointerleave: () => this.#hide(),
          focusin: (event) => this.#point(event),
          focusout: () => this.#hide(),
          click: (event) => this.#click(event),
        },
      },
      el('div', { class: 'strata-inspect-bar' }, this.note, this.choose),
      this.canvas,
      this.tip,
    )
    this.observer = new ResizeObserver(() => {
      // The picture that is there fits the new width until the one for it comes.
      this.#fit()
      this.tick()
    })
    this.observer.observe(this.element)
  }

  get minHeight() {
    const { picture } = this
    if (this.element.clientWidth) this.#said = this.note.offsetHeight
    if (!picture || picture.error) return EMPTY
    return Math.ceil(picture.height * this.#room() / picture.width) + Math.max(BAR, this.#said)
  }

  #room() {
    this.#width = this.element.clientWidth || this.#width
    return this.#width || Math.max(NARROWEST, this.node.size[0] - 30)
  }

  /** Looks whether anything that the picture is made of is another. */
  tick() {
    const { node } = this
    if (!node.graph || node.flags?.collapsed) return
    takePlace(node, this.element)
    const width = Math.min(WIDEST, Math.max(NARROWEST, Math.floor(this.#room() / STEP) * STEP))
    this.#sources = sourcesOf(node)
    const theme = themeFor(valueOf(node, 'theme'))
    const question = { sources: this.#sources.list, width, theme, language: language() }
    // After a run the files have met a model.
    const asked = JSON.stringify([question, outputOf(node)?.strata_report])
    this.#tell()
    if (asked === this.#asked) return
    this.#asked = asked
    clearTimeout(this.#timer)
    if (!question.sources.length) return this.#show(null, asked)
    this.#timer = setTimeout(() => this.#ask(question, asked), this.picture ? SETTLED : 0)
  }

  /** One question at a time: while an answer is under way, only the newest one waits. @param {Parameters<typeof getPicture>[0]} question @param {string} asked */
  async #ask(question, asked) {
    if (this.#busy) {
      this.#timer = setTimeout(() => this.#ask(question, asked), SETTLED)
      return
    }
    this.#busy = true
    if (!this.picture) setText(this.note, t('inspectReading'))
    const answer = await getPicture(question)
    this.#busy = false
    if (this.#gone || asked !== this.#asked) return
    if (answer.offline) this.#asked = ''
    this.#show(answer, asked)
  }

  /** @param {Picture | null} picture @param {string} asked */
  #show(picture, asked) {
    this.picture = picture
    this.#shown = asked
    this.#hide()
    const focused = this.canvas.querySelector(':focus')?.getAttribute('data-act')
    if (picture && !picture.error) {
      this.canvas.replaceChildren(drawn(picture, (act) => this.#allows(act)))
      attribute(
        this.element,
        'style',
        `--strata-inspect-back: ${picture.colours.back}; --strata-inspect-text: ${picture.colours.text}`,
      )
      const again = [...this.canvas.querySelectorAll('[tabindex]')].find((one) =>
        one.getAttribute('data-act') === focused
      )
      if (focused && again instanceof SVGElement) again.focus({ preventScroll: true })
    } else this.canvas.replaceChildren()
    this.#tell()
    this.#fit()
  }

  /** @param {NonNullable<Shape['act']>} act */
  #allows(act) {
    if (act.do === 'scale') return this.#sources.owners.length > 0 && this.#sources.whole
    return act.do === 'save' && this.#sources.note === ''
  }

  #tell() {
    const { note, list } = this.#sources
    const ran = failureOf(this.node)?.text ?? ''
    const failed = ran || (this.picture?.error ?? '')
    const told = failed || (note ? t(note) : list.length ? '' : t('inspectNothing'))
    const more = this.picture && !this.picture.error ? this.picture.notes.join(' ') : ''
    if (this.#busy && !this.picture) return
    setText(this.note, [told, more].filter(Boolean).join(' '))
    this.note.classList.toggle('wrong', Boolean(failed))
    if (ran === this.#ran) return
    this.#ran = ran
    this.#fit(true)
  }

  /**
   * The node is as high as its picture and what is said over it.
   *
   * @param {boolean} [told] whether a run said it: that room is no step's
   */
  #fit(told = false) {
    const height = `${this.minHeight}px`
    if (this.element.style.minHeight === height) return
    this.element.style.minHeight = height
    const { node } = this
    if (!node.graph || node.flags?.collapsed) return
    setHeight(node, node.computeSize()[1], told)
  }

  // Hands

  #choose() {
    const { node } = this
    if (isLinked(node, 'lora_name')) return
    chooseLora({
      opener: this.choose,
      fits: null,
      choose: (found) => oneStep(() => setWidget(node, 'lora_name', found.name)),
    })
  }

  /** @param {Event} event */
  #point(event) {
    const shape = event.target instanceof Element ? event.target.closest('[data-hover]') : null
    const text = shape?.getAttribute('data-hover')
    if (!text || !shape) return this.#hide()
    setText(this.tip, text)
    this.tip.hidden = false
    const box = this.element.getBoundingClientRect()
    const scale = box.width / this.element.offsetWidth || 1
    const at = shape.getBoundingClientRect()
    const x = event instanceof PointerEvent ? event.clientX : at.left + at.width / 2
    const y = event instanceof PointerEvent ? event.clientY : at.bottom
    const [left, top] = [(x - box.left) / scale, (y - box.top) / scale]
    const { offsetWidth, offsetHeight } = this.tip
    this.tip.style.left = `${Math.max(4, Math.min(left + 12, this.element.offsetWidth - offsetWidth - 4))}px`
    this.tip.style.top = `${
      top + 18 + offsetHeight > this.element.offsetHeight ? Math.max(0, top - offsetHeight - 8) : top + 18
    }px`
  }

  #hide() {
    this.tip.hidden = true
  }

  /** @param {Event} event */
  #click(event) {
    const shape = event.target instanceof SVGElement ? event.target.closest('[data-act]') : null
    const act = shape?.getAttribute('data-act')
    if (!act || this.#shown !== this.#asked) return
    const { do: what, rank, factor } = JSON.parse(act)
    if (what === 'save') addSave(this.node, rank)
    if (what === 'scale') scaleAll(this.#sources.owners, factor).then(() => this.tick())
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    if (!(event.target instanceof SVGElement) || (event.key !== 'Enter' && event.key !== ' ')) return
    event.preventDefault()
    this.#click(event)
  }

  dispose() {
    this.#gone = true
    clearTimeout(this.#timer)
    this.observer.disconnect()
    leave(this.node, this.element)
  }
}
