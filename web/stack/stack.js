// @ts-check
// The rows of one LoRA Stack. The truth is the node's text: the rows edit it, and redraw from what the server says that it means.
import { passMiddle, passWheel } from '../lib/canvas.js'
import { isVue } from '../lib/comfy.js'
import { attribute, el, setText } from '../lib/dom.js'
import { isLinked, setWidget, showWidget, valueOf, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { knowFiles, namesInRows, showMissing } from '../lib/missing_files.js'
import { leave, takePlace } from '../lib/place.js'
import { Room } from '../lib/room.js'
import { failureOf, outputOf } from '../lib/runs.js'
import { getRows, getTag } from '../lib/server.js'
import { endLaidOut, oneStepLaidOut, UndoStep } from '../lib/undo.js'
import { misfit } from '../picker/badge.js'
import { Clipboard } from './clipboard.js'
import { Edits } from './edits.js'
import { RowMenu, SetMenu, StackMenu } from './menus.js'
import { Opened } from './opened.js'
import { RowView } from './row.js'
import { Scaling } from './scaling.js'
import { Sorting } from './sorting.js'
import { acting, textOf } from './text.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('./text.js').Row} Row */

/** Its height in px. */
const ROW = 28
/** Px of bar and foot, until they are there to be measured. */
const CHROME = 60
/** Px between them and the rows. */
const GAPS = 10
/** What ComfyUI calls the seed's control: by what it does first, or by what it is. */
const CONTROLS = ['fixed', 'control_after_generate']
/** Rows that a new node makes room for; more can be scrolled. */
const MOST = 12

export class StackView {
  text = ''
  /** @type {Row[]} */
  rows = []
  enabled = true
  /** Rows whose text encoders' strength is shown though it is the same. @type {Set<number>} */
  clips = new Set()

  /** @type {RowView[]} */
  #views = []
  #signature = ''
  /** What runs told. */
  #told = ''
  #round = 0
  #ready = false
  #refused = ''
  #chrome = CHROME
  /** @type {string[][]} */
  #relatives = []

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
    this.room = new Room(node)
    this.edits = new Edits(this)
    this.opened = new Opened(this)
    this.sorting = new Sorting(this)
    this.scaling = new Scaling(this)
    this.clipboard = new Clipboard(this)
    this.menu = new RowMenu(this)
    this.stackMenu = new StackMenu(this)
    this.setMenu = new SetMenu(this)
    this.add = this.#button('addLora', `+ ${t('addLora')}`, () => this.edits.choose(null, this.add))
    this.all = this.#button('allSwitch', '', () => this.edits.switchAll(!this.edits.someOn()))
    this.sets = this.#button('sets', t('sets'), () => this.setMenu.open(this.sets))
    this.words = this.#button('asText', t('asText'), () => this.#showText())
    this.dots = this.#button('stackMenu', '⋯', () => this.stackMenu.open(this.dots))
    this.list = el('div', {
      class: 'strata-stack-rows',
      role: 'list',
      'aria-label': t('loras'),
      'data-capture-wheel': 'true',
    })
    this.note = el('div', { class: 'strata-verdict', role: 'status' })
    const space = el('span', { class: 'strata-about' })
    const tools = el('div', { class: 'strata-tools' }, this.sets, this.words, this.dots)
    this.bar = el('div', { class: 'strata-bar' }, this.all, this.add, space, tools)
    this.element = el(
      'div',
      {
        class: 'strata strata-stack',
        tabindex: -1,
        role: 'group',
        'aria-label': t('stack'),
        on: {
          keydown: shield,
          copy: (event) => this.clipboard.copied(event),
          paste: (event) => this.clipboard.pasted(event),
          wheel: (event) => this.#wheel(event),
          pointerdown: passMiddle,
        },
      },
      this.bar,
      this.list,
      this.note,
    )
    this.observer = new ResizeObserver(() => this.fit())
    this.observer.observe(this.element)
    this.reserve()
  }

  /** @param {Parameters<typeof t>[0]} act @param {string} text @param {() => void} run */
  #button(act, text, run) {
    return el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': act,
      title: t(act),
      'aria-label': t(act),
      text,
      on: { click: run },
    })
  }

  /** Of bar, rows and foot; more rows than MOST scroll, but what is open under one has its room. */
  get minHeight() {
    const views = this.#views
    const rows = views.reduce((sum, view) => sum + (view.height ? view.height + 2 : ROW), 0)
    const open = views.reduce((most, view) => Math.max(most, view.openHeight), 0)
    return this.#chrome + Math.min(MOST * ROW + open, Math.max(ROW, rows))
  }

  // What the node says

  tick() {
    const { node } = this
    if (!node.graph) return
    takePlace(node, this.element)
    if (!this.#signature) this.opened.arrive()
    const text = String(valueOf(node, 'rows') ?? '')
    const linked = isLinked(node, 'rows')
    const told = JSON.stringify([outputOf(node)?.strata_rows, failureOf(node)?.text])
    const signature = JSON.stringify([text, linked, told])
    if (signature === this.#signature) return
    this.#signature = signature
    const isTold = told !== this.#told
    this.#told = told
    this.enabled = !linked
    this.showMissing()
    if (!this.enabled) this.opened.closeUnder()
    if (text === this.text && this.#ready) this.draw(isTold)
    else this.#read(text)
  }

  /** Files that are not here are in ComfyUI's own list of missing models. */
  showMissing() {
    const text = isLinked(this.node, 'rows') ? '' : String(valueOf(this.node, 'rows') ?? '')
    showMissing(this.node, namesInRows(text), async (name, instead) => {
      const same = (/** @type {Row} */ row) =>
        (row.name ?? '').replaceAll('\\', '/').startsWith(name.replace(/\.\w+$/, ''))
      const at = this.rows.findIndex((row) => row.file === null && same(row))
      if (at >= 0) this.edits.useFile(at, instead, (await getTag(instead, null)).head)
    })
  }

  /** @param {string} text */
  async #read(text) {
    const round = ++this.#round
    const answer = await getRows(text)
    if (round !== this.#round) return
    if (answer.error) return this.complain(answer.error)
    this.#ready = true
    this.text = text
    this.rows = answer.rows
    knowFiles(answer.rows.map((row) => row.file))
    this.showMissing()
    this.#relatives = answer.relatives
    this.opened.check()
    const resume = this.opened.resume()
    this.draw()
    resume()
  }

  /** What a prompt needs of the text: the server says it. */
  async promptText() {
    const text = String(widgetOf(this.node, 'rows')?.value ?? '')
    const answer = await getRows(text)
    return answer.error || typeof answer.prompt !== 'string' ? text : answer.prompt
  }

  /** Files may have changed: what the text means is asked anew. */
  refresh() {
    this.#ready = false
    this.#signature = ''
    this.tick()
  }

  // The picture

  /** @param {boolean} [told] whether a run told something since */
  draw(told = false) {
    const { rows, list } = this
    const acts = acting(rows)
    const output = outputOf(this.node)
    const family = this.family()
    const found =
      /** @type {{name: string | undefined, verdict: string, warned: boolean}[]} */ (output?.strata_rows ?? [])
    const verdicts = new Map(found.map(({ name, verdict, warned }) => [name, { text: verdict, warned }]))
    let inGroup = false
    let shown = 0
    rows.forEach((row, at) => {
      if (row.kind === 'heading') inGroup = true
      if (isHidden(row)) return
      const view = (this.#views[shown] ??= new RowView(this))
      if (view.element.parentNode !== list || list.children[shown] !== view.element) {
        list.insertBefore(view.element, list.children[shown] ?? null)
      }
      shown++
      view.show(row, at, {
        acts: acts[at],
        enabled: this.enabled,
        open: this.opened.details === at,
        under: this.opened.under?.at === at ? this.opened.under : null,
        inGroup: inGroup && row.kind !== 'heading',
        misfit: misfit(row.family, family, this.#relatives),
        verdict: verdicts.get(row.name) ?? null,
      })
    })
    for (const view of this.#views.splice(shown)) {
      view.dispose()
      view.element.remove()
    }
    this.#drawBar()
    this.#tell(output)
    this.element.classList.toggle('disabled', !this.enabled)
    showWidget(this.node, 'seed', rows.some((row) => row.pick) || isLinked(this.node, 'seed'))
    for (const name of CONTROLS) showWidget(this.node, name, rows.some((row) => row.pick))
    this.opened.under?.tick()
    this.fit(told)
  }

  /** @param {boolean} [told] as ``draw`` has it: that room is no step's */
  fit(told = false) {
    const [bar, foot] = [this.bar.offsetHeight, this.note.offsetHeight]
    if (bar && foot) this.#chrome = bar + foot + GAPS
    if (this.reserve()) this.room.fit(told)
  }

  #drawBar() {
    const on = acting(this.rows).filter((acts, at) => acts && this.rows[at].kind === 'lora').length
    const all = this.rows.filter((row) => row.kind === 'lora').length
    setText(this.all, all ? `${on} / ${all}` : '0')
    attribute(this.all, 'aria-pressed', on ? 'true' : 'false')
    for (const button of [this.all, this.add, this.sets, this.dots]) {
      attribute(button, 'disabled', this.enabled ? null : true)
    }
  }

  /** What is wrong with a strength that somebody types, or an empty text. @param {string} message */
  refuse(message) {
    if (message === this.#refused) return
    this.#refused = message
    this.#tell(outputOf(this.node))
  }

  /** @param {Record<string, unknown[]> | undefined} output */
  #tell(output) {
    const failed = this.#refused || failureOf(this.node)?.text
    const verdict = failed ?? (this.rows.length ? output?.strata_verdict?.[0] : undefined)
    const empty = this.rows.some((row) => !isHidden(row)) ? '' : t('emptyStack')
    setText(this.note, this.enabled ? String(verdict ?? empty) : t('rowsLinked'))
    attribute(this.note, 'title', String(failed ?? output?.strata_report?.[0] ?? '') || null)
    this.note.classList.toggle('wrong', Boolean(failed) || output?.strata_warned?.[0] === true)
  }

  /** The model's family, as the last run met it. @returns {string | null} */
  family() {
    const found = outputOf(this.node)?.strata_family?.[0]
    return typeof found === 'string' && found ? found : null
  }

  /** Whether there are two models, each with strengths of its own. */
  get hasPair() {
    return isLinked(this.node, 'model_low')
  }

  reserve() {
    const height = `${this.minHeight}px`
    if (this.element.style.minHeight === height) return false
    this.element.style.minHeight = height
    return true
  }

  shownViews() {
    return this.#views
  }

  /** Of a row that is shown. @param {number} at */
  viewOf(at) {
    return this.#views.find((view) => view.at === at)
  }

  // The text

  /** One edit, one step of undo. @param {Row[]} rows */
  write(rows) {
    if (!this.enabled) return
    // A reading that is under way is of an older text.
    this.#round++
    this.#refused = ''
    this.rows = rows
    this.text = textOf(rows)
    this.#ready = true
    this.#signature = ''
    const step = new UndoStep()
    const room = this.minHeight
    step.begin()
    setWidget(this.node, 'rows', this.text)
    this.draw()
    // The room that rows need belongs to the step; in Nodes 2.0 the page makes it only when it is laid out.
    if (isVue() && this.minHeight !== room) endLaidOut(step)
    else step.end()
  }

  /** Another text, read before it is written, so that its rows and their room are one step. @param {string} text */
  async replaceAll(text) {
    if (!this.enabled) return
    const round = ++this.#round
    const answer = await getRows(text)
    if (round !== this.#round || !this.node.graph) return
    if (answer.error) return this.complain(answer.error)
    this.opened.closeUnder()
    this.#relatives = answer.relatives
    this.write(answer.rows)
  }

  /** What a hand's wish failed with. @param {string} text */
  complain(text) {
    setText(this.note, text)
    this.note.classList.add('wrong')
  }

  #showText() {
    const shown = this.node.properties?.strata_text === true
    oneStepLaidOut(() => {
      this.node.properties ??= {}
      if (shown) delete this.node.properties.strata_text
      else this.node.properties.strata_text = true
      this.showParts()
      this.room.fit()
    })
  }

  /** The text field shows when it is asked for, or when a wire ends in it. */
  showParts() {
    const shown = this.node.properties?.strata_text === true || isLinked(this.node, 'rows')
    showWidget(this.node, 'rows', shown)
    attribute(this.words, 'aria-pressed', shown ? 'true' : 'false')
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    const scrolls = this.list.scrollHeight > this.list.clientHeight + 1 &&
      this.list.contains(/** @type {Node} */ (event.target))
    if (scrolls && !event.ctrlKey && !event.metaKey) event.stopPropagation()
    else passWheel(event, this.list.contains(/** @type {Node} */ (event.target)))
  }

  dispose() {
    this.#round++
    this.observer.disconnect()
    this.opened.leave()
    for (const view of this.#views) view.dispose()
    for (const menu of [this.menu, this.stackMenu, this.setMenu]) menu.popup.close()
    leave(this.node, this.element)
  }
}

/** Lines that say nothing to a person. @param {Row} row */
const isHidden = (row) => row.kind === 'blank' || row.kind === 'version'
