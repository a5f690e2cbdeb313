// @ts-check
// One picture of a sweep, large, or two of them one over the other with a line to drag. A dialog of the page: no node's size limits it.
import { attribute, copyText, el, flag, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { addressOf, titleOf } from './cells.js'

/** @typedef {import('./cells.js').Sweep} Sweep */
/** @typedef {import('./cells.js').Cell} Cell */

export class Large {
  /** @type {Sweep | null} */
  #sweep = null
  /** @type {Cell | null} */
  #cell = null
  /** What the other is compared with. @type {Cell | null} */
  #pinned = null

  /** @type {HTMLDialogElement} */
  element

  /** @param {(cell: Cell) => Promise<boolean>} use writes a cell's LoRAs into their nodes */
  constructor(use) {
    this.use = use
    this.front = el('img', { alt: '', draggable: 'false' })
    this.back = el('img', { alt: '', draggable: 'false', class: 'strata-sweep-under' })
    this.line = el('input', {
      type: 'range',
      min: 0,
      max: 100,
      value: 50,
      step: 0.5,
      class: 'strata-sweep-line',
      'aria-label': t('sweepLine'),
      on: { input: () => this.#cut() },
    })
    this.frame = el('div', { class: 'strata-sweep-frame' }, this.front, this.back, this.line)
    this.reason = el('div', { class: 'strata-sweep-reason' })
    this.stage = el('div', { class: 'strata-sweep-stage' }, this.frame, this.reason)
    this.front.addEventListener('load', () => {
      this.frame.style.setProperty('--ratio', String(this.front.naturalWidth / this.front.naturalHeight || 1))
    })
    this.title = el('div', { class: 'strata-sweep-title', role: 'status' })
    const button = (/** @type {string} */ act, /** @type {string} */ text, /** @type {() => unknown} */ run) =>
      el('button', { type: 'button', class: 'strata-button', 'data-act': act, text, on: { click: run } })
    this.compare = button('compare', t('sweepCompare'), () => this.#pin())
    this.compare.title = t('sweepCompareHint')
    this.copy = button('copy', t('sweepCopy'), () => this.#copy())
    this.put = button('use', t('sweepUse'), () => this.#use())
    this.put.title = t('sweepUseHint')
    this.before = button('before', '‹', () => this.#step(-1))
    this.after = button('after', '›', () => this.#step(1))
    attribute(this.before, 'aria-label', t('sweepBefore'))
    attribute(this.after, 'aria-label', t('sweepAfter'))
    const close = button('close', t('close'), () => this.element.close())
    this.element = el(
      'dialog',
      {
        class: 'strata strata-sweep-large',
        'data-capture-wheel': 'true',
        on: {
          keydown: (event) => this.#key(event),
          click: (event) => event.target === this.element && this.element.close(),
        },
      },
      this.stage,
      el(
        'div',
        { class: 'strata-sweep-foot' },
        this.before,
        this.after,
        this.title,
        this.compare,
        this.copy,
        this.put,
        close,
      ),
    )
    for (
      const kind
        of /** @type {const} */ (['pointerdown', 'pointermove', 'pointerup', 'wheel', 'contextmenu', 'dblclick'])
    ) {
      this.element.addEventListener(kind, (event) => event.stopPropagation())
    }
    this.element.addEventListener('close', () => (this.#pinned = null))
  }

  /** @param {Sweep} sweep @param {Cell} cell */
  open(sweep, cell) {
    this.#sweep = sweep
    this.#show(cell)
    if (!this.element.open) this.element.showModal()
    this.element.focus()
  }

  /** More cells may have come. @param {Sweep} sweep */
  update(sweep) {
    if (this.element.open) this.#sweep = sweep
  }

  /** @param {Cell} cell */
  #show(cell) {
    this.#cell = cell
    const sweep = /** @type {Sweep} */ (this.#sweep)
    const [file] = cell.files
    if (file) attribute(this.front, 'src', addressOf(file, false))
    // A cell that failed has its reason in the place of a picture.
    this.frame.hidden = !file
    this.reason.hidden = Boolean(file)
    setText(this.reason, file ? '' : cell.error)
    const pinned = this.#pinned
    const other = file && pinned && pinned !== cell ? pinned : null
    if (other) attribute(this.back, 'src', addressOf(other.files[0], false))
    this.back.hidden = this.line.hidden = !other
    this.frame.classList.toggle('cut', Boolean(other))
    flag(this.compare, 'aria-pressed', Boolean(pinned))
    this.compare.disabled = !file && !pinned
    const far = cell.difference === null ? '' : ` · ${t('sweepDifference', { rms: cell.difference.toPrecision(3) })}`
    const title = titleOf(sweep, cell)
    setText(
      this.title,
      other ? `${titleOf(sweep, other)} | ${title}` : pinned ? t('sweepPinned', { name: title }) : `${title}${far}`,
    )
    const list = this.#cells()
    const at = list.indexOf(cell)
    this.before.disabled = at <= 0
    this.after.disabled = at < 0 || at >= list.length - 1
    setText(this.copy, t('sweepCopy'))
    setText(this.put, t('sweepUse'))
    this.put.disabled = !file
    this.#cut()
  }

  /** What the arrows go through: while one is compared, pictures alone. */
  #cells() {
    const cells = (this.#sweep?.cells ?? []).filter((cell) => cell.files.length || !this.#pinned)
    return cells.sort((one, other) => one.index - other.index)
  }

  /** @param {number} by */
  #step(by) {
    const list = this.#cells()
    const next = list[list.findIndex((cell) => cell.index === this.#cell?.index) + by]
    if (next) this.#show(next)
  }

  #pin() {
    if (!this.#cell) return
    this.#pinned = this.#pinned ? null : this.#cell
    this.#show(this.#cell)
  }

  /** The pinned picture lies over the left part. */
  #cut() {
    this.back.style.clipPath = `inset(0 ${100 - Number(this.line.value)}% 0 0)`
    this.frame.style.setProperty('--at', `${this.line.value}%`)
  }

  async #copy() {
    if (this.#cell && await copyText(this.#cell.tags)) setText(this.copy, t('copied'))
  }

  async #use() {
    if (!this.#cell) return
    const done = await this.use(this.#cell)
    setText(this.put, done ? t('sweepUsed') : t('sweepCannotUse'))
    this.put.disabled = !done
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    event.stopPropagation()
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
    if (!by || event.target === this.line) return
    event.preventDefault()
    this.#step(by)
  }
}
