// @ts-check
// Choosing LoRA files: one panel for every node. It asks the server only for what is in sight, and knows nothing of files itself.
import { attribute, el, flag, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { knowFiles } from '../lib/missing_files.js'
import { Popup } from '../lib/popup.js'
import { findLoras, markLora } from '../lib/server.js'
import { parts, ShortName, withoutName } from './file_name.js'
import { copyText, Filters } from './filters.js'
import { Folders } from './folders.js'
import { picture } from './pictures.js'

/** @typedef {import('../lib/server.js').Found} Found */
/**
 * @typedef {object} Asked
 * @property {(found: Found) => void} choose
 * @property {HTMLElement} opener
 * @property {string | null} [fits] the family of the model that is connected, where that is known
 * @property {boolean} [several] whether more than one can be chosen before it closes
 * @property {string} [words] to begin the search with
 */

/** Its height in px. */
const ROW = 46
const PAGE = 50
/** Ms of rest before a typed search is sent. */
const REST = 90
/** Ms until files that are still being learned are asked for again. */
const AGAIN = 1500
const SORTS = /** @type {const} */ (['name', 'date', 'recent', 'size'])

class Picker {
  /** @type {Asked | null} */
  #asked = null
  /** @type {Map<number, Found[]>} */
  #pages = new Map()
  #total = 0
  /** How many there are in other folders than the chosen one. */
  #elsewhere = 0
  #at = 0
  #round = 0
  #sort = 'name'
  #fits = true
  #starred = false
  #typing = 0
  #drawing = 0
  #again = 0
  /** Whether what is shown is what was asked for last. */
  #fresh = false
  /** Enter was pressed before that came; whether the next is to be chosen too. @type {boolean | null} */
  #entered = null

  constructor() {
    this.search = el('input', {
      class: 'strata-search',
      placeholder: t('pickerSearch'),
      'aria-label': t('pickerSearch'),
      autocomplete: 'off',
      spellcheck: 'false',
      role: 'combobox',
      'aria-expanded': 'true',
      on: { input: () => this.#typed() },
    })
    this.sort = el(
      'select',
      { class: 'strata-select', 'aria-label': t('sortBy'), title: t('sortBy'), on: { change: () => this.#sorted() } },
      ...SORTS.map((name) => el('option', { value: name, text: t(`sort_${name}`) })),
    )
    this.fits = this.#toggle('fits', () => (this.#fits = !this.#fits))
    this.star = this.#toggle('favourites', () => (this.#starred = !this.#starred))
    setText(this.star, '★')
    attribute(this.star, 'title', t('favouritesOnly'))
    attribute(this.star, 'aria-label', t('favouritesOnly'))
    this.filters = new Filters(() => this.#ask(true))
    this.folders = new Folders((folder) => this.#choseFolder(folder))
    this.space = el('div', { class: 'strata-space' })
    this.list = el(
      'div',
      {
        class: 'strata-found',
        role: 'listbox',
        'aria-label': t('loras'),
        tabindex: -1,
        on: { scroll: () => this.#drawSoon() },
      },
      this.space,
    )
    this.count = el('span', { class: 'strata-note', role: 'status' })
    this.elsewhere = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'elsewhere',
      hidden: true,
      on: { click: () => this.#choseFolder('') },
    })
    this.hint = el('span', { class: 'strata-note' })
    this.element = el(
      'div',
      {
        class: 'strata strata-picker',
        role: 'dialog',
        'aria-label': t('chooseLora'),
        on: { keydown: (event) => this.#key(event) },
      },
      el('div', { class: 'strata-lead' }, this.search, this.sort, this.star, this.fits),
      this.filters.element,
      this.filters.reading,
      el('div', { class: 'strata-both' }, this.folders.element, this.list),
      el('div', { class: 'strata-lead' }, this.count, this.elsewhere, this.hint),
    )
    this.popup = new Popup(this.element)
  }

  /** @param {string} act @param {() => void} run */
  #toggle(act, run) {
    const press = () => {
      run()
      this.#ask(true)
      this.search.focus({ preventScroll: true })
    }
    return el('button', { type: 'button', class: 'strata-button', 'data-act': act, on: { click: press } })
  }

  /** @param {Asked} asked */
  open(asked) {
    this.#asked = asked
    this.search.value = asked.words ?? ''
    this.filters.clear()
    attribute(this.fits, 'hidden', asked.fits ? null : true)
    setText(this.fits, asked.fits ? t('onlyFits', { family: asked.fits }) : '')
    setText(this.hint, t(asked.several ? 'pickerHintSeveral' : 'pickerHint'))
    this.popup.open({ host: document.body, opener: asked.opener, closed: () => this.#closed() })
    const { left, bottom } = asked.opener.getBoundingClientRect()
    this.popup.moveTo(left, bottom + 4)
    this.search.focus({ preventScroll: true })
    this.#ask(true)
  }

  #closed() {
    this.#round++
    clearTimeout(this.#typing)
    clearTimeout(this.#again)
    this.#entered = null
    this.#asked = null
  }

  #typed() {
    // An answer under way is to an older question.
    this.#round++
    this.#fresh = false
    this.#entered = null
    clearTimeout(this.#typing)
    this.#typing = window.setTimeout(() => this.#ask(true), REST)
  }

  #sorted() {
    this.#sort = this.sort.value
    this.#ask(true)
    this.search.focus({ preventScroll: true })
  }

  /** Everything anew. @param {boolean} [fromTop] */
  #ask(fromTop = false) {
    this.#round++
    if (fromTop) {
      this.#at = 0
      this.list.scrollTop = 0
    }
    flag(this.fits, 'aria-pressed', this.#fits)
    flag(this.star, 'aria-pressed', this.#starred)
    this.#pages.clear()
    this.#fresh = false
    this.#load(Math.floor(this.list.scrollTop / ROW / PAGE))
  }

  /** @param {number} page */
  async #load(page) {
    if (this.#pages.has(page)) return
    this.#pages.set(page, [])
    const round = this.#round
    const answer = await findLoras({
      words: this.search.value,
      folder: this.folders.chosen,
      fits: this.#fits ? this.#asked?.fits ?? '' : '',
      sort: this.#sort,
      favourites: this.#starred ? 1 : 0,
      start: page * PAGE,
      count: PAGE,
      ...this.filters.asked,
    })
    if (round !== this.#round || !this.#asked) return
    if (answer.error) return setText(this.count, answer.error)
    this.#pages.set(page, answer.rows)
    knowFiles(answer.rows.map((found) => found.name))
    this.#total = answer.total
    this.#elsewhere = answer.elsewhere
    setText(
      this.count,
      t('found', { total: answer.total, all: answer.all }) +
        (answer.learning ? ` · ${t('learning', { count: answer.learning })}` : ''),
    )
    this.filters.show(answer)
    this.folders.show(answer.folders)
    this.#draw()
    this.#fresh = true
    if (this.#entered !== null) this.#choose(this.#at, this.#entered)
    this.#entered = null
    clearTimeout(this.#again)
    if (!this.#asked) return
    if (answer.learning || this.filters.isBusy) this.#again = window.setTimeout(() => this.#refresh(), AGAIN)
  }

  /** Files that have been learned since: what is in sight is asked for again, without a flicker. */
  async #refresh() {
    const round = this.#round
    const page = Math.floor(this.list.scrollTop / ROW / PAGE)
    this.#pages.delete(page)
    await this.#load(page)
    if (round === this.#round) this.#draw()
  }

  /** @param {string} folder */
  #choseFolder(folder) {
    this.folders.chosen = folder
    this.#ask(true)
    this.search.focus({ preventScroll: true })
  }

  #drawSoon() {
    this.#drawing ||= requestAnimationFrame(() => {
      this.#drawing = 0
      this.#draw()
    })
  }

  #draw() {
    const height = this.list.clientHeight || 300
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 2)
    const last = Math.min(this.#total, first + Math.ceil(height / ROW) + 4)
    this.space.style.height = `${this.#total * ROW}px`
    const shown = []
    for (let at = first; at < last; at++) {
      const page = Math.floor(at / PAGE)
      const found = this.#pages.get(page)?.[at % PAGE]
      if (!found) void this.#load(page)
      shown.push(this.#row(at, found))
    }
    if (!this.#total) {
      shown.push(
        el('div', { class: 'strata-empty', text: t(this.filters.asked.shown === 'copies' ? 'noCopies' : 'noLoras') }),
      )
    }
    // What was looked for by words may lie elsewhere: the folder is remembered, and easily forgotten.
    const more = this.#elsewhere && (this.search.value.trim() || !this.#total)
    attribute(this.elsewhere, 'hidden', more ? null : true)
    setText(this.elsewhere, more ? t('elsewhere', { count: this.#elsewhere }) : '')
    this.space.replaceChildren(...shown)
    attribute(this.search, 'aria-activedescendant', this.#total ? `strata-found-${this.#at}` : null)
  }

  /** @param {number} at @param {Found | undefined} found */
  #row(at, found) {
    const place = {
      style: `top: ${at * ROW}px`,
      id: `strata-found-${at}`,
      role: 'option',
      'aria-selected': at === this.#at ? 'true' : 'false',
    }
    if (!found) return el('div', { class: 'strata-choice waiting', ...place })
    const { folder, short } = parts(found.name)
    const name = new ShortName()
    name.show(short)
    const copied = found.copy && copyText(found.copy, found.name, (other) => parts(other).short)
    const problem = found.problem && withoutName(found.problem, found.name)
    const words = problem || copied || [found.title, ...(found.words ?? [])].filter(Boolean).join(', ')
    const star = el('button', {
      type: 'button',
      class: 'strata-star',
      tabindex: -1,
      text: found.favourite ? '★' : '☆',
      title: t('favourite'),
      'aria-label': t('favourite'),
      'aria-pressed': found.favourite ? 'true' : 'false',
      on: { click: (event) => this.#favour(event, found) },
    })
    return el(
      'div',
      {
        class: 'strata-choice',
        title: found.name,
        ...place,
        on: {
          click: (event) => this.#choose(at, event.ctrlKey || event.metaKey || event.shiftKey),
          pointerenter: () => this.#point(at),
        },
      },
      el('div', { class: 'strata-thumb' }, found.preview ? picture(found.preview) : null),
      el(
        'div',
        { class: 'strata-named' },
        el('div', {}, name.element, el('small', { text: folder })),
        el('small', { class: problem ? 'wrong' : '', title: found.problem || null, text: words }),
      ),
      found.size ? el('small', { class: 'strata-size', text: found.size }) : null,
      found.family ? el('span', { class: 'strata-family', text: found.family }) : null,
      star,
    )
  }

  /** @param {number} at */
  #point(at) {
    this.#at = at
    for (const child of this.space.children) flag(child, 'aria-selected', child.id === `strata-found-${at}`)
  }

  /** @param {Event} event @param {Found} found */
  #favour(event, found) {
    event.stopPropagation()
    found.favourite = !found.favourite
    void markLora({ name: found.name, favourite: found.favourite })
    this.#draw()
  }

  /** @param {number} at @param {boolean} more whether the next is to be chosen too */
  async #choose(at, more) {
    const found = this.#pages.get(Math.floor(at / PAGE))?.[at % PAGE]
    const asked = this.#asked
    if (!found || !asked) return
    const stays = more && asked.several === true
    if (!stays) this.popup.close(true)
    const told = markLora({ name: found.name, used: true })
    // Of a file that has not been learned yet the answer says how strong it wants to be.
    asked.choose(found.size === undefined ? await told.then((now) => (now.error ? found : now)) : found)
    if (stays) setText(this.hint, t('added', { name: parts(found.name).short }))
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    const step = Math.max(1, Math.floor(this.list.clientHeight / ROW) - 1)
    const to =
      { ArrowDown: this.#at + 1, ArrowUp: this.#at - 1, PageDown: this.#at + step, PageUp: this.#at - step }[event.key]
    if (event.target instanceof HTMLSelectElement) return
    if (to !== undefined) {
      this.#at = Math.max(0, Math.min(this.#total - 1, to))
      const top = this.#at * ROW
      if (top < this.list.scrollTop) this.list.scrollTop = top
      else if (top + ROW > this.list.scrollTop + this.list.clientHeight) {
        this.list.scrollTop = top + ROW - this.list.clientHeight
      }
      this.#draw()
    } else if (event.key === 'Enter' && (event.target === this.search || event.target === this.list)) {
      const more = event.shiftKey || event.ctrlKey || event.metaKey
      if (this.#fresh) this.#choose(this.#at, more)
      // What was typed is still being looked for.
      else this.#entered = more
    } else return
    event.preventDefault()
  }
}

/** @type {Picker | null} */
let picker = null

/** @param {Asked} asked */
export function chooseLora(asked) {
  picker ??= new Picker()
  picker.open(asked)
}
