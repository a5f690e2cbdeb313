// @ts-check
// The tags of one prompt node as rows: chosen by sight and dialled like those of a stack. The truth is the prompt: the rows edit it.
import { passMiddle, passWheel } from '../lib/canvas.js'
import { isVue } from '../lib/comfy.js'
import { attribute, el, setText } from '../lib/dom.js'
import { isLinked, setWidget, valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { Menu } from '../lib/menu.js'
import { knowFiles, namesIn, showMissing } from '../lib/missing_files.js'
import { leave, takePlace } from '../lib/place.js'
import { Room } from '../lib/room.js'
import { failureOf, outputOf } from '../lib/runs.js'
import { getPromptTags, getTag } from '../lib/server.js'
import { caretOf, withoutTag, withTag } from '../lib/text_field.js'
import { endLaidOut, UndoStep } from '../lib/undo.js'
import { chooseLora } from '../picker/picker.js'
import { rowOf, tagOf } from '../stack/text.js'
import { TagRow } from './tag_row.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../stack/text.js').Row} Row */

/** Its height in px. */
const BAR = 26
const NOTE = 18
const ROW = 28
const GAP = 2
/** Rows that the node makes room for; more can be scrolled. */
const MOST = 8
/** Ms of rest before a typed text is read. */
const TYPING = 250
const CLIP_FIRST = 'clip:model'

export class TagsView {
  text = ''
  /** What stands before, between and behind the tags. @type {string[]} */
  pieces = ['']
  /** @type {Row[]} */
  tags = []
  enabled = true

  /** @type {TagRow[]} */
  #rows = []
  /** Tags whose text encoders' strength is shown though it is the same. @type {Set<number>} */
  #apart = new Set()
  /** @type {string[][]} */
  #relatives = []
  #signature = ''
  #read = ''
  #round = 0
  #refused = ''
  #error = ''
  #rest = 0
  #lead = BAR + NOTE

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
    this.room = new Room(node)
    this.menu = new Menu(t('rowMenu'))
    /** @type {HTMLButtonElement} */
    this.add = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'addLora',
      text: `+ ${t('addLora')}`,
      title: t('addTag'),
      on: { click: () => this.choose(null, this.add) },
    })
    this.note = el('div', { class: 'strata-verdict', role: 'status' })
    this.lead = el('div', { class: 'strata-lead' }, this.add, this.note)
    this.list = el('div', {
      class: 'strata-stack-rows',
      role: 'list',
      'aria-label': t('loras'),
      'data-capture-wheel': 'true',
    })
    this.element = el(
      'div',
      {
        class: 'strata strata-tags',
        role: 'group',
        'aria-label': t('loras'),
        on: { keydown: shield, wheel: (event) => this.#wheel(event), pointerdown: passMiddle },
      },
      this.lead,
      this.list,
    )
    this.observer = new ResizeObserver(() => this.#fit())
    this.observer.observe(this.element)
    this.#fit()
  }

  get #clipFirst() {
    return String(valueOf(this.node, 'two_numbers') ?? '').startsWith(CLIP_FIRST)
  }

  get minHeight() {
    // A row of a narrow node is two lines, and what is wrong stands under its own.
    const tall = this.#rows.reduce((sum, row) => sum + row.height + GAP, 0)
    return this.#lead + Math.min(MOST * ROW, Math.max(this.tags.length * ROW, tall))
  }

  tick() {
    const { node } = this
    if (!node.graph) return
    takePlace(node, this.element)
    const text = String(valueOf(node, 'text') ?? '')
    const linked = isLinked(node, 'text')
    const output = outputOf(node)
    const signature = JSON.stringify([
      text,
      this.#clipFirst,
      linked,
      output?.strata_verdict,
      output?.strata_family,
      failureOf(node)?.text,
    ])
    if (signature === this.#signature) return
    this.#signature = signature
    this.enabled = !linked
    this.showMissing()
    const key = JSON.stringify([text, this.#clipFirst, linked])
    // Only what a run told is another.
    if (key === this.#read) return this.#draw(true)
    clearTimeout(this.#rest)
    const typing = this.#read !== '' && document.activeElement instanceof HTMLTextAreaElement
    if (typing) this.#rest = window.setTimeout(() => this.#ask(key, linked ? '' : text), TYPING)
    else void this.#ask(key, linked ? '' : text)
  }

  /** Files that are not here are in ComfyUI's own list of missing models. */
  showMissing() {
    const text = isLinked(this.node, 'text') ? '' : String(valueOf(this.node, 'text') ?? '')
    showMissing(this.node, namesIn(text), async (name, instead) => {
      const same = (/** @type {Row} */ row) =>
        (row.name ?? '').replaceAll('\\', '/').startsWith(name.replace(/\.\w+$/, ''))
      const at = this.tags.findIndex((row) => row.file === null && same(row))
      if (at >= 0) this.useFile(at, instead, (await getTag(instead, null)).head)
    })
  }

  /** Files may have changed: what the text means is asked anew. */
  refresh() {
    this.#read = this.#signature = ''
    this.tick()
  }

  /** @param {string} key @param {string} text */
  async #ask(key, text) {
    const round = ++this.#round
    const answer = await getPromptTags(text, this.#clipFirst)
    if (round !== this.#round) return
    this.#read = key
    this.#error = answer.error ?? ''
    if (!answer.error) knowFiles(answer.tags.map((row) => row.file))
    this.showMissing()
    this.#take(text, answer.error ? [text] : answer.pieces, answer.error ? [] : answer.tags)
    if (!answer.error) this.#relatives = answer.relatives
    this.#draw()
  }

  /** @param {string} text @param {string[]} pieces @param {Row[]} tags */
  #take(text, pieces, tags) {
    if (tags.length !== this.tags.length) this.#apart.clear()
    Object.assign(this, { text, pieces, tags })
  }

  /** @param {boolean} [told] whether a run told something since */
  #draw(told = false) {
    const { tags, list } = this
    const family = this.#family()
    tags.forEach((row, at) => {
      const view = (this.#rows[at] ??= new TagRow(this))
      if (view.element.parentNode !== list) list.append(view.element)
      view.show(row, at, {
        enabled: this.enabled,
        model: family,
        relatives: this.#relatives,
        apart: this.#apart.has(at),
      })
    })
    for (const row of this.#rows.splice(tags.length)) {
      row.dispose()
      row.element.remove()
    }
    attribute(this.add, 'disabled', this.enabled ? null : true)
    this.#tell(told)
  }

  /** @param {boolean} [told] as ``#draw`` has it */
  #tell(told = false) {
    const output = outputOf(this.node)
    const failed = this.#refused || this.#error || failureOf(this.node)?.text
    const verdict = this.tags.length ? output?.strata_verdict?.[0] : ''
    setText(this.note, this.enabled ? String(failed ?? verdict ?? '') : t('textLinked'))
    attribute(this.note, 'title', String(failed ?? output?.strata_report?.[0] ?? '') || null)
    this.note.classList.toggle('wrong', Boolean(failed) || output?.strata_warned?.[0] === true)
    this.#fit(told)
  }

  /** The model's family, as the last run met it. @returns {string | null} */
  #family() {
    const found = outputOf(this.node)?.strata_family?.[0]
    return typeof found === 'string' && found ? found : null
  }

  /** What is wrong with a strength that somebody types, or an empty text. @param {string} message */
  refuse(message) {
    if (message === this.#refused) return
    this.#refused = message
    this.#tell()
  }

  // Room

  /** @param {boolean} [told] as ``#draw`` has it: that room is no step's */
  #fit(told = false) {
    if (this.lead.offsetHeight) this.#lead = Math.max(BAR, this.lead.offsetHeight + 2)
    const height = `${this.minHeight}px`
    if (this.element.style.minHeight === height) return
    this.element.style.minHeight = height
    this.room.fit(told)
  }

  // What hands ask

  /** One edit, one step of undo; refused where the text is another than the one that was read. @param {string[]} pieces @param {Row[]} tags */
  #write(pieces, tags) {
    if (!this.enabled || this.text !== String(valueOf(this.node, 'text') ?? '')) return
    // A reading that is under way is of an older text.
    this.#round++
    this.#refused = ''
    const text = pieces.map((piece, at) => piece + (tags[at]?.line ?? '')).join('')
    this.#take(text, pieces, tags)
    this.#read = JSON.stringify([text, this.#clipFirst, false])
    const step = new UndoStep()
    const room = this.minHeight
    step.begin()
    setWidget(this.node, 'text', text)
    this.#draw()
    // The room that rows need belongs to the step.
    if (isVue() && this.minHeight !== room) endLaidOut(step)
    else step.end()
  }

  /** @param {number} at @param {Partial<Row>} changes */
  #change(at, changes) {
    const row = { ...this.tags[at], ...changes }
    row.line = tagOf(row, this.#clipFirst)
    this.#write(this.pieces, this.tags.map((other, index) => (index === at ? row : other)))
  }

  /** @param {number} at @param {'model' | 'clip'} which @param {number} value */
  setStrength(at, which, value) {
    const { model, clip } = this.tags[at]
    const both = which === 'model' && model === clip && !this.#apart.has(at)
    this.#change(at, both ? { model: value, clip: value } : { [which]: value })
  }

  /** Another file for a tag; a new tag where the text's caret is, for null. @param {number | null} at @param {HTMLElement} opener */
  choose(at, opener) {
    if (!this.enabled) return
    const caret = { at: caretOf(this.node, 'text') }
    const row = at === null ? null : this.tags[at]
    chooseLora({
      opener,
      fits: this.#family(),
      several: at === null,
      choose: (found) => {
        const made = rowOf(found)
        if (at === null) return void this.#insert(made, caret)
        if (this.tags[at] !== row) return
        const { head, name, file, family, words, strength, low, high, preview } = made
        const strengths = row?.kind === 'lora' ? {} : { model: made.model, clip: made.clip, tail: '' }
        const known = { head, name, file, family, words, strength, low, high, preview, ...strengths }
        this.#change(at, { ...known, kind: 'lora', missing: '', near: [], problem: '' })
      },
    })
  }

  /** Another file for a tag, of which only the name is known yet. @param {number} at @param {string} name @param {string} head of the tag */
  useFile(at, name, head) {
    this.#change(at, { head, name, file: name, missing: '', near: [] })
    this.refresh()
  }

  /** @param {Row} row @param {{at: number | null}} caret where it goes; moves on behind it */
  #insert(row, caret) {
    const text = String(valueOf(this.node, 'text') ?? '')
    const { pieces, tags } = this.text === text ? this : { pieces: [text], tags: [] }
    const made = withTag(pieces, tags, { ...row, line: tagOf(row, this.#clipFirst) }, caret.at ?? text.length)
    caret.at = made.caret
    const known = this.text === text
    this.text = text
    this.#write(made.pieces, made.tags)
    if (!known) this.refresh()
  }

  /** @param {number} at @param {HTMLElement} opener */
  openMenu(at, opener) {
    const { menu } = this
    const row = this.tags[at]
    if (!row || !this.enabled) return
    const isRead = row.kind === 'lora'
    menu.show(opener, [
      menu.item(t('chooseOther'), () => this.choose(at, opener)),
      ...(isRead ? [menu.item(t(this.#isApart(at) ? 'clipTogether' : 'clipApart'), () => this.#separate(at))] : []),
      menu.item(t('remove'), () => this.#remove(at)),
    ])
  }

  /** @param {number} at */
  #isApart(at) {
    return this.#apart.has(at) || this.tags[at].model !== this.tags[at].clip
  }

  /** The text encoders' strength on its own, or the model's again. @param {number} at */
  #separate(at) {
    const { model, clip } = this.tags[at]
    if (model !== clip) {
      this.#apart.delete(at)
      return this.#change(at, { clip: model })
    }
    if (!this.#apart.delete(at)) this.#apart.add(at)
    this.#draw()
  }

  /** @param {number} at */
  #remove(at) {
    const made = withoutTag(this.pieces, this.tags, at)
    this.#write(made.pieces, made.tags)
    this.add.focus({ preventScroll: true })
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    const inside = this.list.contains(/** @type {Node} */ (event.target))
    const scrolls = this.list.scrollHeight > this.list.clientHeight + 1 && inside
    if (scrolls && !event.ctrlKey && !event.metaKey) event.stopPropagation()
    else passWheel(event, inside)
  }

  dispose() {
    this.#round++
    clearTimeout(this.#rest)
    this.observer.disconnect()
    for (const row of this.#rows) row.dispose()
    this.menu.popup.close()
    leave(this.node, this.element)
  }
}
