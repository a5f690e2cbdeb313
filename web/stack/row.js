// @ts-check
// One row on the screen: switch, name, family, strengths, and what is behind it. It draws what it is shown, and asks its stack for every change.
import { attribute, copyText, el, flag, icon, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { Strength } from '../lib/strength.js'
import { pictureOf } from '../picker/picker.js'
import { parts } from './text.js'

/** @typedef {import('./text.js').Row} Row */
/** @typedef {import('./stack.js').StackView} StackView */

const LOCK = 'M6 11h12v9H6ZM8.5 11V8a3.5 3.5 0 0 1 7 0v3'
const BARS = 'M6 20V10M12 20V4M18 20v-7'
const PEN = 'M4 20l1-4L16 5l3 3L8 19Z'
const REACH = 2
const SHOWN = 350 // ms that the pointer rests before a picture comes

export class RowView {
  /** @type {Row | null} */
  #row = null
  #waiting = 0
  #marks = ''
  /** @type {HTMLElement | null} */
  #picture = null

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
      on: { click: () => stack.toggle(this.at) },
    })
    this.short = el('span', { class: 'strata-short' })
    this.folder = el('small', {})
    /** @type {HTMLButtonElement} */
    this.name = el(
      'button',
      {
        type: 'button',
        class: 'strata-file',
        on: {
          click: () => stack.openRow(this.at, this.name),
          pointerenter: () => this.#wait(),
          pointerleave: () => this.#hide(),
          pointerdown: () => this.#hide(),
        },
      },
      this.short,
      this.folder,
    )
    /** @type {HTMLInputElement} */
    this.title = el('input', {
      class: 'strata-title',
      'aria-label': t('heading'),
      autocomplete: 'off',
      spellcheck: 'false',
      on: {
        change: () => stack.change(this.at, { title: this.title.value }),
        keydown: (event) => event.key === 'Enter' && this.title.blur(),
      },
    })
    this.family = el('span', { class: 'strata-family' })
    const refuse = (/** @type {string} */ message) => stack.refuse(message)
    this.model = new Strength({
      label: t('strengths'),
      set: (value) => stack.setStrength(this.at, 'model', value),
      refuse,
    })
    this.clip = new Strength({ label: 'CLIP', set: (value) => stack.setStrength(this.at, 'clip', value), refuse })
    this.model.name.hidden = true // one bar needs no name
    this.marks = el('span', { class: 'strata-marks' })
    /** @type {HTMLButtonElement} */
    this.more = el('button', {
      type: 'button',
      class: 'strata-button strata-dots',
      'data-act': 'row',
      text: '⋯',
      title: t('rowMenu'),
      'aria-label': t('rowMenu'),
      'aria-haspopup': 'menu',
      on: { click: () => stack.menu.open(this.at, this.more) },
    })
    this.behind = el('div', { class: 'strata-behind', hidden: true })
    this.front = el(
      'div',
      { class: 'strata-front' },
      this.handle,
      this.switch,
      this.name,
      this.title,
      this.marks,
      this.family,
      this.model.element,
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
      this.behind,
    )
  }

  /**
   * @param {Row} row
   * @param {number} at
   * @param {{acts: boolean, enabled: boolean, open: boolean, inGroup: boolean, fits: boolean, verdict: {text: string, warned: boolean} | null}} look
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
    attribute(this.switch, 'hidden', isText ? true : null)
    flag(this.switch, 'aria-checked', row.on)
    attribute(this.switch, 'aria-label', t(row.on ? 'rowOn' : 'rowOff'))
    attribute(this.switch, 'title', t(row.on ? 'rowOn' : 'rowOff'))
    attribute(this.title, 'hidden', row.kind === 'heading' ? null : true)
    if (document.activeElement !== this.title) this.title.value = row.title
    attribute(this.name, 'hidden', row.kind === 'heading' ? true : null)
    this.#showName(row)
    const family = isLora ? row.family ?? '' : ''
    setText(
      this.family,
      row.pick && isLora ? t('oneOf', { count: row.count ?? 0 }) : row.pick ? t('oneOfGroup') : family,
    )
    attribute(this.family, 'hidden', this.family.textContent ? null : true)
    this.family.classList.toggle('wrong', isLora && !row.pick && !look.fits)
    attribute(this.family, 'title', look.fits ? null : t('doesNotFit', { family }))
    const marks = [row.locked ? LOCK : '', row.blocks ? BARS : '', row.note && isLora ? PEN : ''].filter(Boolean)
    if (this.#marks !== marks.join()) this.marks.replaceChildren(...marks.map(icon))
    this.#marks = marks.join()
    attribute(
      this.marks,
      'title',
      [row.locked ? t('locked') : '', row.blocks ?? '', row.note].filter(Boolean).join('\n') || null,
    )
    const apart = isLora && row.model !== row.clip
    attribute(this.model.element, 'hidden', isLora ? null : true)
    attribute(this.clip.element, 'hidden', apart || (isLora && this.stack.clips.has(at)) ? null : true)
    if (isLora) {
      const { model = 1, clip = 1 } = row
      const hint = row.strength ?? undefined
      for (const [bar, value] of /** @type {const} */ ([[this.model, model], [this.clip, clip]])) {
        bar.show({ value, reach: Math.max(REACH, Math.ceil(Math.abs(value))), enabled: look.enabled, hint })
      }
      const told = [
        hint === undefined ? '' : t('recommended', { strength: hint }),
        row.low == null && row.high == null ? '' : t('recommendedRange', { low: row.low ?? '', high: row.high ?? '' }),
      ]
      attribute(this.model.element, 'title', told.filter(Boolean).join('\n') || null)
    }
    attribute(this.name, 'title', this.#told(row, look.verdict))
    element.classList.toggle('warned', look.verdict?.warned === true)
    attribute(this.behind, 'hidden', look.open ? null : true)
    if (!look.open) this.behind.replaceChildren()
    else if (!this.behind.contains(document.activeElement)) this.behind.replaceChildren(...this.#details(row))
  }

  /** Begins typing a heading's title, in place of the one it has. */
  rename() {
    this.title.focus({ preventScroll: true })
    this.title.select()
  }

  /** @param {Row} row */
  #showName(row) {
    if (row.kind === 'lora') {
      const { short, folder } = parts(row.file ?? row.name ?? '')
      setText(this.short, row.pick ? `${row.name}` : short)
      setText(this.folder, row.pick ? '' : folder)
    } else {
      setText(this.short, row.kind === 'note' ? row.note : row.line)
      setText(this.folder, '')
    }
  }

  /** @param {Row} row @param {{text: string, warned: boolean} | null} verdict */
  #told(row, verdict) {
    if (row.kind !== 'lora') return row.problem || null
    return [row.file ?? row.name, row.missing, row.problem, verdict?.text, row.note].filter(Boolean).join('\n')
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
        on: { change: () => stack.rewrite(this.at, field.value) },
      })
      field.value = row.line
      const split = row.lines?.length ?
        el('button', {
          type: 'button',
          class: 'strata-button',
          text: t('toRows'),
          on: { click: () => stack.rewrite(this.at, (row.lines ?? []).join('\n')) },
        }) :
        null
      return [row.problem ? el('div', { class: 'strata-note wrong', text: row.problem }) : null, field, split].filter((
        part,
      ) => part !== null)
    }
    const blocks = this.#field(
      t('blocksLabel'),
      row.blocks ?? '',
      'OUT*=1, default=0',
      (value) => stack.setBlocks(this.at, value),
    )
    const note = this.#field(t('noteLabel'), row.note, '', (value) => stack.change(this.at, { note: value }))
    /** @type {HTMLElement[]} */
    const found = [blocks, note]
    if (row.missing) found.unshift(el('div', { class: 'strata-note wrong', role: 'alert', text: row.missing }))
    if (row.problem) found.unshift(el('div', { class: 'strata-note wrong', role: 'alert', text: row.problem }))
    for (const other of row.near ?? []) {
      const use = () =>
        stack.change(this.at, { head: other.tag, name: other.name, file: other.name, missing: '', near: [] })
      found.push(
        el('button', {
          type: 'button',
          class: 'strata-word',
          title: other.name,
          text: t('useInstead', { name: parts(other.name).short }),
          on: { click: use },
        }),
      )
    }
    if (row.words?.length) {
      found.push(el(
        'div',
        { class: 'strata-words' },
        ...row.words.map((word) => {
          const button = el('button', {
            type: 'button',
            class: 'strata-word',
            title: t('copyWord'),
            text: word,
            on: {
              click: async () => {
                if (!(await copyText(word))) return
                setText(button, t('copied'))
                setTimeout(() => setText(button, word), 900)
              },
            },
          })
          return button
        }),
      ))
    }
    return found
  }

  /** @param {string} label @param {string} value @param {string} placeholder @param {(value: string) => void} take */
  #field(label, value, placeholder, take) {
    /** @type {HTMLInputElement} */
    const field = el('input', {
      class: 'strata-search',
      placeholder,
      spellcheck: 'false',
      autocomplete: 'off',
      on: {
        change: () => take(field.value),
        keydown: (event) => event.key === 'Enter' && field.blur(),
      },
    })
    field.value = value
    return el('label', { class: 'strata-exact' }, el('span', { text: label }), field)
  }

  #wait() {
    clearTimeout(this.#waiting)
    if (this.#row?.preview) this.#waiting = window.setTimeout(() => this.#showPicture(), SHOWN)
  }

  #showPicture() {
    const preview = this.#row?.preview
    if (!preview || !this.name.isConnected) return
    const { right, top } = this.front.getBoundingClientRect()
    this.#picture = el('div', {
      class: 'strata strata-preview',
      style: `left: ${right + 8}px; top: ${Math.min(top, innerHeight - 270)}px`,
    }, el('img', { alt: '', src: pictureOf(preview), on: { error: () => this.#hide() } }))
    document.body.append(this.#picture)
  }

  #hide() {
    clearTimeout(this.#waiting)
    this.#picture?.remove()
    this.#picture = null
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    const { target } = event
    if (target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement) return
    const run = event.altKey && event.key === 'ArrowUp' ?
      () => this.stack.move(this.at, -1) :
      event.altKey && event.key === 'ArrowDown' ?
      () => this.stack.move(this.at, 1) :
      event.key === 'Delete' && !(target instanceof Element && target.closest('.strata-strength')) ?
      () => this.stack.remove(this.at) :
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
    this.#hide()
    this.model.dispose()
    this.clip.dispose()
  }
}
