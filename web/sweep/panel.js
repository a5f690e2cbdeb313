// @ts-check
// The grid on a LoRA Sweep node: it grows while the sweep runs, and stays after it.
import { passMiddle, passWheel } from '../lib/canvas.js'
import { attribute, el, flag, setText } from '../lib/dom.js'
import { isLinked, setWidget } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { isPlain, shield } from '../lib/keys.js'
import { leave, takePlace } from '../lib/place.js'
import { Room } from '../lib/room.js'
import { failureOf } from '../lib/runs.js'
import { oneStep } from '../lib/undo.js'
import { tailOf } from '../picker/file_name.js'
import { chooseLora } from '../picker/picker.js'
import { addressOf, sweepOf, titleOf } from './cells.js'
import { Large } from './large.js'
import { use } from './using.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('./cells.js').Sweep} Sweep */
/** @typedef {import('./cells.js').Cell} Cell */

/** Px of the panel before there is a sweep, and at most. */
const EMPTY = 60
const TALLEST = 560
/** Px of a picture, at least. */
const SMALLEST = 64
const WIDEST = 320
/** Px of the labels of rows, at least and at most, and what part of the width they are between. */
const LABEL = { least: 64, most: 120, part: 0.2 }
/** Px of the labels above the columns before they are laid out. */
const ABOVE = 32
/** Lines of a label, and px of a letter. */
const LINES = 3
const LETTER = 6.4

export class SweepPanel {
  /** @type {Sweep | null} */
  #sweep = null
  #shown = ''
  #drawn = 0
  #sheet = 0
  /** Width over height of the pictures. */
  #ratio = 1

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
    this.room = new Room(node)
    this.note = el('div', { class: 'strata-sweep-note', role: 'status' })
    this.choose = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'choose',
      text: t('chooseLora'),
      on: { click: () => this.#choose() },
    })
    this.sheets = el('div', { class: 'strata-sweep-sheets', role: 'group' })
    this.grid = el('div', { class: 'strata-sweep-grid', role: 'group' })
    this.scroll = el('div', { class: 'strata-sweep-scroll' }, this.grid)
    this.large = new Large((cell) => this.#sweep ? use(node, this.#sweep, cell) : Promise.resolve(false))
    this.element = el(
      'div',
      {
        class: 'strata strata-sweep',
        on: {
          keydown: (event) => this.#key(event),
          wheel: (event) => this.#wheel(event),
          pointerdown: passMiddle,
        },
      },
      el('div', { class: 'strata-sweep-bar' }, this.note, this.choose),
      this.sheets,
      this.scroll,
      this.large.element,
    )
    this.observer = new ResizeObserver(() => this.#fit())
    this.observer.observe(this.element)
  }

  get minHeight() {
    if (!this.#sweep) return Math.max(EMPTY, this.note.offsetHeight + 12)
    const rows = this.#sweep.axes[1]?.labels.length ?? 1
    const across = this.#sweep.axes[0]?.labels.length ?? 1
    const picture = Math.max(SMALLEST, (this.#width() - this.#label()) / across)
    const { scroll } = this
    const laid = this.grid.offsetHeight + scroll.offsetHeight - scroll.clientHeight
    const grid = laid || rows * (Math.min(picture, WIDEST) / this.#ratio + 4) + ABOVE
    return Math.min(TALLEST, Math.ceil(this.note.offsetHeight + 12 + (this.#sweep.axes[2] ? 28 : 0) + grid))
  }

  /** Px of the labels of rows. */
  #label() {
    if (!this.#sweep?.axes[1]) return 0
    return Math.round(Math.min(LABEL.most, Math.max(LABEL.least, LABEL.part * this.#width())))
  }

  #width() {
    return this.element.clientWidth || Math.max(200, this.node.size[0] - 30)
  }

  #scrolls() {
    const { scroll } = this
    return scroll.scrollHeight > scroll.clientHeight + 1 || scroll.scrollWidth > scroll.clientWidth + 1
  }

  /** The wheel moves a grid that is larger than its room, else the canvas. @param {WheelEvent} event */
  #wheel(event) {
    if (!(this.#scrolls() && event.target instanceof Node && this.scroll.contains(event.target))) passWheel(event)
  }

  /** Looks whether there is more to show. */
  tick() {
    const { node } = this
    if (!node.graph || node.flags?.collapsed) return
    takePlace(node, this.element)
    const sweep = sweepOf(node)
    const failed = failureOf(node)?.text ?? ''
    this.#tell(sweep, failed)
    if (!sweep) return
    // Another sweep is drawn anew; more cells of the same one only fill their places.
    const same = JSON.stringify([sweep.axes, sweep.count, this.#sheet])
    const before = this.#sweep
    this.#sweep = sweep
    if (
      same !== this.#shown || sweep.cells.length < this.#drawn ||
      (before !== sweep && sweep.cells.length === this.#drawn)
    ) {
      this.#shown = same
      this.#lay(sweep)
      this.#drawn = 0
    }
    for (const cell of sweep.cells.slice(this.#drawn)) this.#fill(sweep, cell)
    this.#drawn = sweep.cells.length
    this.large.update(sweep)
    this.#fit()
  }

  /** @param {Sweep | null} sweep @param {string} failed */
  #tell(sweep, failed) {
    const wrong = sweep?.cells.filter((cell) => cell.error).length ?? 0
    const done = sweep ?
      t('sweepCells', { done: String(sweep.cells.length - wrong), count: String(sweep.count) }) :
      t('sweepNothing')
    setText(this.note, failed || (wrong ? `${done}, ${t('sweepFailed', { count: String(wrong) })}` : done))
    this.note.classList.toggle('wrong', Boolean(failed || wrong))
    this.choose.hidden = isLinked(this.node, 'lora_name')
  }

  /** The labels and empty places of a sheet. @param {Sweep} sweep */
  #lay(sweep) {
    const [x, y, z] = sweep.axes
    const columns = x?.labels ?? ['']
    const rows = y?.labels ?? ['']
    if (z) {
      this.#sheet = Math.min(this.#sheet, z.labels.length - 1)
      this.sheets.replaceChildren(
        el('span', { text: `${z.name}:` }),
        ...z.labels.map((label, at) => {
          const button = el('button', {
            type: 'button',
            class: 'strata-button',
            text: label,
            title: label,
            on: { click: () => this.#turn(at) },
          })
          flag(button, 'aria-pressed', at === this.#sheet)
          return button
        }),
      )
    } else this.sheets.replaceChildren()
    this.sheets.hidden = !z
    this.grid.style.gridTemplateColumns = `${
      y ? 'var(--label) ' : ''
    }repeat(${columns.length}, minmax(${SMALLEST}px, ${WIDEST}px))`
    this.grid.setAttribute('aria-label', sweep.axes.map(({ name }) => name).join(', '))
    const parts = []
    if (y) parts.push(label(`${x.name} → ${y.name} ↓`, 'strata-sweep-corner'))
    for (const text of columns) parts.push(label(text, 'strata-sweep-column'))
    for (let row = 0; row < rows.length; row++) {
      if (y) parts.push(label(rows[row], 'strata-sweep-row'))
      for (let column = 0; column < columns.length; column++) {
        const index = (this.#sheet * rows.length + row) * columns.length + column
        parts.push(el('button', { type: 'button', class: 'strata-sweep-cell', 'data-index': index, disabled: true }))
      }
    }
    this.grid.replaceChildren(...parts)
  }

  /** @param {Sweep} sweep @param {Cell} cell */
  #fill(sweep, cell) {
    const place = this.grid.querySelector(`[data-index="${Number(cell.index)}"]`)
    if (!(place instanceof HTMLButtonElement)) return
    const title = titleOf(sweep, cell)
    place.setAttribute('aria-label', title)
    place.title = cell.error ? `${title}: ${cell.error}` : title
    place.disabled = false
    place.onclick = () => this.large.open(/** @type {Sweep} */ (this.#sweep), cell)
    const [file] = cell.files
    if (!file) {
      place.classList.add('wrong')
      place.replaceChildren(el('span', { text: cell.error }))
      return
    }
    const picture = el('img', { src: addressOf(file, true), alt: '', loading: 'lazy', draggable: 'false' })
    picture.addEventListener('load', () => this.#shape(picture.naturalWidth / picture.naturalHeight))
    place.replaceChildren(picture)
  }

  /** The places have the pictures' shape. @param {number} ratio */
  #shape(ratio) {
    if (!ratio || Math.abs(ratio - this.#ratio) < 0.001) return
    this.#ratio = ratio
    this.grid.style.setProperty('--ratio', String(ratio))
    this.#fit()
  }

  /** @param {number} sheet */
  #turn(sheet) {
    this.#sheet = sheet
    this.tick()
  }

  /** The node has room for its grid. */
  #fit() {
    this.grid.style.setProperty('--label', `${this.#label()}px`)
    for (const label of this.grid.querySelectorAll('.strata-sweep-column, .strata-sweep-row')) shorten(label)
    const height = `${this.minHeight}px`
    if (this.element.style.minHeight === height) return
    this.element.style.minHeight = height
    this.room.fit()
    // Nodes in the page keep the wheel from the canvas only where it is asked for.
    requestAnimationFrame(() => attribute(this.scroll, 'data-capture-wheel', this.#scrolls() ? 'true' : null))
  }

  #choose() {
    const { node } = this
    chooseLora({
      opener: this.choose,
      fits: null,
      choose: (found) => oneStep(() => setWidget(node, 'lora_name', found.name)),
    })
  }

  /** Arrow keys go from picture to picture. @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    const { target } = event
    if (!(target instanceof HTMLButtonElement) || target.dataset.index === undefined || !isPlain(event)) return
    const across = this.#sweep?.axes[0]?.labels.length ?? 1
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key]
    if (!by) return
    event.preventDefault()
    const next = this.grid.querySelector(`[data-index="${Number(target.dataset.index) + by}"]:not(:disabled)`)
    if (next instanceof HTMLButtonElement) next.focus()
  }

  dispose() {
    this.observer.disconnect()
    if (this.large.element.open) this.large.element.close()
    leave(this.node, this.element)
  }
}

/** A label of the grid: the end of a long name of a file stands apart, as it may have to stay alone. @param {string} text @param {string} kind */
function label(text, kind) {
  const at = /\s/.test(text) ? text.length : tailOf(text)
  const parts = [text.slice(0, at), text.slice(at)].filter(Boolean)
  return el('div', { class: kind, title: text }, ...parts.map((part) => el('span', {}, ...breakable(part))))
}

/** Names break behind their marks. @param {string} text */
const breakable = (text) => text.split(/(?<=[-_./])/).flatMap((piece) => [piece, el('wbr')])

/** A name that is longer than its lines shows its start and its end. @param {Element} label */
function shorten(label) {
  const letters = LINES * label.clientWidth / LETTER
  label.classList.toggle('strata-sweep-name', label.childElementCount > 1 && label.textContent.length > letters)
}
