// @ts-check
// One row on the screen: switch, name, family, strengths, and what is behind it. It draws what it is shown, and asks its stack for every change.
import { attribute, el, flag, icon, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { rowMenuButton } from '../lib/menu.js'
import { Strength } from '../lib/strength.js'
import { TriggerWords } from '../lib/trigger_words.js'
import { Badge } from '../picker/badge.js'
import { FileName, parts } from '../picker/file_name.js'
import { Said } from '../picker/said.js'
import { pairOf } from './pair.js'
import { shortTime } from './text.js'

/** @typedef {import('./text.js').Row} Row */
/** @typedef {import('./stack.js').StackView} StackView */

const LOCK = 'M6 11h12v9H6ZM8.5 11V8a3.5 3.5 0 0 1 7 0v3'
const BARS = 'M6 20V10M12 20V4M18 20v-7'
const PEN = 'M4 20l1-4L16 5l3 3L8 19Z'
const WAVE = 'M3 20C11 20 12 5 21 5'
const PAIR = 'M15 12a6 6 0 1 1-12 0a6 6 0 0 1 12 0M9 12a6 6 0 1 1 12 0a6 6 0 0 1-12 0'
const MASK = 'M4 5h16v14H4ZM12 5v14M15 9h2M15 12h2M15 15h2'
const REACH = 2

export class RowView {
  /** @type {Row | null} */
  #row = null
  #marks = ''
  #height = 0
  #open = 0

  /** @param {StackView} stack */
  constructor(stack) {
    this.stack = stack
    this.at = 0
    this.handle = el('span', {
      class: 'strata-handle',
      title: t('dragRow'),
      text: '⠿',
      on: { pointerdown: (event) => stack.sorting.press(event, this.at) },
    })
    this.switch = el('button', {
      type: 'button',
      class: 'strata-switch',
      role: 'switch',
      on: { click: () => stack.edits.toggle(this.at) },
    })
    this.file = new FileName((button) => this.#pressed(button))
    this.name = this.file.element
    /** @type {HTMLInputElement} */
    this.title = el('input', {
      class: 'strata-title',
      'aria-label': t('heading'),
      autocomplete: 'off',
      spellcheck: 'false',
      on: {
        change: () => stack.edits.change(this.at, { title: this.title.value }),
        keydown: (event) => event.key === 'Enter' && this.title.blur(),
      },
    })
    this.badge = new Badge()
    const refuse = (/** @type {string} */ message) => stack.refuse(message)
    this.model = new Strength({
      label: t('strengths'),
      set: (value) => stack.edits.setStrength(this.at, 'model', value),
      refuse,
    })
    this.clip = new Strength({ label: 'CLIP', set: (value) => stack.edits.setStrength(this.at, 'clip', value), refuse })
    this.low = new Strength({
      label: t('lowNoise'),
      set: (value) => stack.edits.setStrength(this.at, 'model_low', value),
      refuse,
    })
    this.marks = el('span', { class: 'strata-marks' })
    this.time = el('button', {
      type: 'button',
      class: 'strata-time',
      'data-act': 'time',
      on: { click: () => stack.opened.toggle('curve', this.at) },
    })
    this.more = rowMenuButton((button) => stack.menu.open(this.at, button))
    this.words = new TriggerWords(stack.node)
    this.said = new Said(({ name, tag }) => stack.edits.useFile(this.at, name, tag))
    this.behind = el('div', { class: 'strata-behind', hidden: true })
    this.under = el('div', { hidden: true })
    this.front = el(
      'div',
      { class: 'strata-front' },
      this.handle,
      this.switch,
      this.name,
      this.title,
      this.marks,
      this.time,
      this.badge.element,
      this.model.element,
      this.low.element,
      this.clip.element,
      this.more,
    )
    this.element = el(
      'div',
      {
        class: 'strata-lora',
        role: 'listitem',
        on: { keydown: (event) => this.#key(event), contextmenu: (event) => this.#rightClicked(event) },
      },
      this.front,
      this.said.element,
      this.behind,
      this.under,
    )
  }

  /**
   * @param {Row} row
   * @param {number} at
   * @param {{acts: boolean, enabled: boolean, open: boolean, inGroup: boolean, misfit: string | null, under: {element: HTMLElement} | null, verdict: {text: string, warned: boolean} | null}} look
   */
  show(row, at, look) {
    this.#row = row
    this.at = at
    const { element } = this
    const isLora = row.kind === 'lora'
    const isText = !isLora && row.kind !== 'heading'
    const missing = isLora && !row.pick && row.file === null
    const wrong = missing || row.kind === 'unread' ||
      (isLora && (Boolean(row.problem) || (row.pick && row.count === 0)))
    element.className = `strata-lora ${row.kind}`
    element.classList.toggle('idle', !look.acts)
    element.classList.toggle('wrong', wrong)
    element.classList.toggle('grouped', look.inGroup)
    element.classList.toggle('pair', isLora && row.model_low != null)
    attribute(this.switch, 'hidden', isText ? true : null)
    flag(this.switch, 'aria-checked', row.on)
    attribute(this.switch, 'aria-label', t(row.on ? 'rowOn' : 'rowOff'))
    attribute(this.switch, 'title', t(row.on ? 'rowOn' : 'rowOff'))
    attribute(this.title, 'hidden', row.kind === 'heading' ? null : true)
    if (document.activeElement !== this.title) this.title.value = row.title
    attribute(this.name, 'hidden', row.kind === 'heading' ? true : null)
    this.#showName(row)
    const family = isLora ? row.family ?? '' : ''
    this.badge.show(
      row.pick && isLora ? t('oneOf', { count: row.count ?? 0 }) : row.pick ? t('oneOfGroup') : family,
      isLora && !row.pick ? look.misfit : null,
    )
    const pair = pairOf(row)
    const mask = row.mask ? t('maskOfRow', { mask: row.mask }) : ''
    const marks = [
      row.locked ? LOCK : '',
      pair ? PAIR : '',
      mask ? MASK : '',
      row.blocks ? BARS : '',
      row.note && isLora ? PEN : '',
    ].filter(Boolean)
    if (this.#marks !== marks.join()) {
      this.marks.replaceChildren(...marks.map(icon))
      // Where there is room for one only: what the row does to the model tells more than what is written beside it.
      const first = [BARS, PAIR, MASK].find((mark) => marks.includes(mark)) ?? marks[0]
      this.marks.children[marks.indexOf(first)]?.classList.add('strata-mark-first')
    }
    this.#marks = marks.join()
    attribute(
      this.marks,
      'title',
      [row.locked ? t('locked') : '', pair, mask, row.blocks ?? '', row.note].filter(Boolean).join('\n') || null,
    )
    const time = isLora ? row.time ?? '' : ''
    setText(this.time, shortTime(time))
    attribute(this.time, 'hidden', time ? null : true)
    attribute(this.time, 'title', t('timeOfRow', { time }))
    const apart = isLora && row.model !== row.clip
    attribute(this.model.element, 'hidden', isLora ? null : true)
    attribute(this.clip.element, 'hidden', apart || (isLora && this.stack.clips.has(at)) ? null : true)
    const { model = 1, model_low = null, clip = 1 } = row
    // One bar needs no name.
    this.model.name.hidden = model_low === null
    attribute(this.low.element, 'hidden', isLora && model_low !== null ? null : true)
    if (isLora) {
      const hint = row.strength ?? undefined
      const bars = /** @type {const} */ ([[this.model, model], [this.low, model_low ?? 0], [this.clip, clip]])
      for (const [bar, value] of bars) {
        bar.show({ value, reach: Math.max(REACH, Math.ceil(Math.abs(value))), enabled: look.enabled, hint })
      }
      setText(this.model.name, t('highNoise'))
      const told = [
        hint === undefined ? '' : t('recommended', { strength: hint }),
        row.low == null && row.high == null ? '' : t('recommendedRange', { low: row.low ?? '', high: row.high ?? '' }),
      ]
      attribute(this.model.element, 'title', told.filter(Boolean).join('\n') || null)
    }
    attribute(this.name, 'title', told(row, look.verdict))
    const warned = look.verdict?.warned === true
    element.classList.toggle('warned', warned)
    this.said.show(
      !look.acts && !look.open ? '' : wrong ? reasonOf(row) : warned ? look.verdict?.text ?? '' : '',
      wrong,
      wrong ? row.near : [],
    )
    attribute(this.behind, 'hidden', look.open ? null : true)
    attribute(this.under, 'hidden', look.under ? null : true)
    if (look.under && look.under.element.parentNode !== this.under) this.under.replaceChildren(look.under.element)
    if (!look.open) this.behind.replaceChildren()
    else if (!this.behind.contains(document.activeElement)) this.behind.replaceChildren(...this.#details(row))
  }

  /** px; as it was drawn last: far away, off the screen or collapsed it has none. */
  get height() {
    return (this.#height = this.element.offsetHeight || this.#height)
  }

  /** px of what is open under the row, likewise */
  get openHeight() {
    const { said, behind, under, element } = this
    if (element.offsetHeight) this.#open = said.element.offsetHeight + behind.offsetHeight + under.offsetHeight
    return this.#open
  }

  /** Begins typing into a field of what is open. @param {'blocks' | 'time' | 'note' | 'mask'} name */
  typeInto(name) {
    const field = this.behind.querySelectorAll('input')[['blocks', 'time', 'note', 'mask'].indexOf(name)]
    field?.focus({ preventScroll: true })
    field?.select()
  }

  /** Begins typing a heading's title, in place of the one it has. */
  rename() {
    this.title.focus({ preventScroll: true })
    this.title.select()
  }

  /** What can be pressed of every row has the focus. */
  focus() {
    const first = this.name.hidden ? this.switch : this.name
    first.focus({ preventScroll: true })
  }

  /** Pressing a name: another file, or the line where it is none. @param {HTMLElement} opener */
  #pressed(opener) {
    const { stack, at } = this
    const row = stack.rows[at]
    if (row.kind === 'lora' && !row.pick && stack.enabled && row.file !== null) stack.edits.choose(at, opener)
    else stack.opened.toggleDetails(at)
  }

  /** @param {Row} row */
  #showName(row) {
    if (row.kind === 'lora') {
      const { short, folder } = parts(row.file ?? row.name ?? '')
      if (row.pick) this.file.show(row.name ?? '')
      else this.file.show(short, folder, row.preview)
    } else this.file.show(row.kind === 'note' ? row.note : row.line)
  }

  /** What opens under the row. @param {Row} row */
  #details(row) {
    const { stack } = this
    if (row.kind === 'unread' || row.kind === 'note' || row.kind === 'prompt') {
      /** @type {HTMLTextAreaElement} */
      const field = el('textarea', {
        class: 'strata-search',
        rows: 2,
        spellcheck: 'false',
        'aria-label': t('rowText'),
        on: { change: () => stack.edits.rewrite(this.at, field.value) },
      })
      field.value = row.line
      const split = row.lines?.length ?
        el('button', {
          type: 'button',
          class: 'strata-button',
          text: t('toRows'),
          on: { click: () => stack.edits.rewrite(this.at, (row.lines ?? []).join('\n')) },
        }) :
        null
      return split ? [field, split] : [field]
    }
    const blocks = this.#field(
      t('blocksLabel'),
      row.blocks ?? '',
      'OUT*=1, default=0',
      (value) => stack.edits.setBlocks(this.at, value),
    )
    if (row.file) blocks.append(this.#opener('desk', 'openDesk', BARS))
    const time = this.#field(t('timeLabel'), row.time ?? '', 'fade in', (value) => stack.edits.setTime(this.at, value))
    time.append(this.#opener('curve', 'openCurve', WAVE))
    const mask = this.#field(t('maskLabel'), row.mask ?? '', '1', (value) => stack.edits.setMask(this.at, value))
    attribute(mask, 'title', t('maskHint'))
    const note = this.#field(t('noteLabel'), row.note, '', (value) => stack.edits.change(this.at, { note: value }))
    /** @type {HTMLElement[]} */
    const found = [blocks, time, note, mask]
    if (row.words?.length) {
      this.words.show(row.words)
      found.push(this.words.element)
    }
    return found
  }

  /** @param {'desk' | 'curve'} editor @param {'openDesk' | 'openCurve'} word @param {string} drawing */
  #opener(editor, word, drawing) {
    return el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': editor,
      title: t(word),
      'aria-label': t(word),
      on: { click: () => this.stack.opened.toggle(editor, this.at) },
    }, icon(drawing))
  }

  /**
   * @param {string} label
   * @param {string} value
   * @param {string} placeholder
   * @param {(value: string) => Promise<string> | void} take tells what is wrong with the text, or an empty text
   */
  #field(label, value, placeholder, take) {
    /** @type {HTMLInputElement} */
    const field = el('input', {
      class: 'strata-search',
      placeholder,
      spellcheck: 'false',
      autocomplete: 'off',
      on: {
        input: () => say(''),
        change: () => end(false),
        keydown: (event) => {
          if (event.key !== 'Enter') return
          event.preventDefault()
          void end(true)
        },
      },
    })
    const note = el('div', { class: 'strata-note wrong', role: 'alert' })
    /** What is wrong is said under the field, in its row. @param {string} message */
    const say = (message) => {
      setText(note, message)
      attribute(field, 'aria-invalid', message ? true : null)
      this.stack.fit()
    }
    /** A text that is refused stays, with the focus unless that has gone already. @param {boolean} leave */
    const end = async (leave) => {
      const message = await take(field.value) || ''
      say(message)
      if (message && leave) field.select()
      else if (leave) field.blur()
    }
    field.value = value
    return el('label', { class: 'strata-exact' }, el('span', { text: label }), field, note)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    const { target } = event
    if (target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement) return
    const run = event.altKey && event.key === 'ArrowUp' ?
      () => this.stack.edits.move(this.at, -1) :
      event.altKey && event.key === 'ArrowDown' ?
      () => this.stack.edits.move(this.at, 1) :
      event.key === 'Delete' && !(target instanceof Element && target.closest('.strata-strength')) ?
      () => this.stack.edits.remove(this.at) :
      null
    if (!run) return
    event.preventDefault()
    event.stopPropagation()
    run()
  }

  /** @param {MouseEvent} event */
  #rightClicked(event) {
    if (event.target instanceof Element && event.target.closest('.strata-strength, input, textarea')) return
    event.preventDefault()
    event.stopPropagation()
    this.stack.menu.open(this.at, this.more)
  }

  dispose() {
    this.file.hide()
    for (const bar of [this.model, this.low, this.clip]) bar.dispose()
  }
}

/** Why a row is red. @param {Row} row */
function reasonOf(row) {
  if (row.kind === 'lora' && row.pick && row.count === 0) return t('emptyFolder', { folder: row.name ?? '' })
  return row.missing || row.problem
}

/** @param {Row} row @param {{text: string, warned: boolean} | null} verdict */
function told(row, verdict) {
  if (row.kind !== 'lora') return row.problem || null
  return [row.file ?? row.name, row.missing, row.problem, verdict?.text, row.note].filter(Boolean).join('\n')
}
