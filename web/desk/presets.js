// @ts-check
// The menu of presets: search, choose, save as, delete.
import { el, setText } from '../lib/dom.js'
import { nodesOf, setWidget, valueOf, widgetOf } from '../lib/graph.js'
import { presetAbout, t } from '../lib/i18n.js'
import { shield, walk } from '../lib/keys.js'
import { Popup } from '../lib/popup.js'
import { deletePreset, getPresets, savePreset } from '../lib/server.js'
import { oneStep } from '../lib/undo.js'
import { NONE } from './widgets.js'

/** @typedef {import('./desk.js').DeskView} DeskView */
/** @typedef {import('../lib/server.js').Preset} Preset */
/** @typedef {import('../lib/server.js').Presets} Presets */

const NODE = 'StrataLoraBlockWeights'

export class PresetMenu {
  /** @type {Preset[]} */
  #presets = []
  /** Of all families. @type {string[]} */
  #names = []
  /** The name that a second press of Save replaces: the first has asked. */
  #asked = ''

  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
    this.search = el('input', {
      class: 'strata-search',
      placeholder: t('search'),
      'aria-label': t('search'),
      on: { input: () => this.#list() },
    })
    this.items = el('div', { class: 'strata-items', role: 'listbox', 'aria-label': t('presets') })
    /** @type {HTMLInputElement} */
    this.name = el('input', {
      class: 'strata-search',
      placeholder: t('saveAs'),
      'aria-label': t('saveAs'),
      maxlength: 100,
      on: { input: () => this.#ask(''), keydown: (event) => event.key === 'Enter' && this.#save() },
    })
    this.saveButton = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'save',
      text: t('save'),
      on: { click: () => this.#save() },
    })
    this.message = el('div', { class: 'strata-note wrong', role: 'alert' })
    this.element = el(
      'div',
      {
        class: 'strata-menu',
        role: 'dialog',
        'aria-label': t('presets'),
        on: { keydown: (event) => this.#key(event) },
      },
      this.search,
      this.items,
      el('div', { class: 'strata-saving' }, this.name, this.saveButton),
      this.message,
    )
    this.popup = new Popup(this.element)
  }

  toggle() {
    if (this.popup.isOpen) this.popup.close(true)
    else this.#open()
  }

  async #open() {
    this.search.value = this.name.value = ''
    this.items.replaceChildren()
    this.#ask('')
    this.popup.open({ host: this.desk.element, opener: this.desk.bar.openMenu })
    const bar = this.desk.bar.element
    this.element.style.top = `${bar.offsetTop + this.desk.bar.openMenu.offsetTop - bar.offsetTop + 26}px`
    this.search.focus({ preventScroll: true })
    this.#take(await getPresets(this.desk.layout?.family))
  }

  /** @param {Presets} answer */
  #take(answer) {
    setText(this.message, answer.error ?? '')
    if (answer.error) return
    this.#presets = answer.presets
    this.#names = answer.names
    offer(answer.names)
    this.#list()
  }

  #list() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean)
    const found = this.#presets.filter((preset) => {
      const told = `${preset.name} ${preset.about} ${presetAbout(preset)}`.toLowerCase()
      return words.every((word) => told.includes(word))
    })
    this.items.replaceChildren(...found.map((preset) => this.#item(preset)))
    if (!found.length) this.items.append(el('div', { class: 'strata-empty', text: t('noPresets') }))
  }

  /** @param {Preset} preset */
  #item(preset) {
    const about = preset.user ? t('yours') : presetAbout(preset)
    const choose = el(
      'button',
      {
        type: 'button',
        class: 'strata-item',
        role: 'option',
        title: [about, preset.weights].filter(Boolean).join('\n'),
        on: { click: () => this.#choose(preset) },
      },
      el('span', { text: preset.name }),
      el('small', { text: about }),
    )
    if (!preset.user) return choose
    const remove = t('deletePreset', { name: preset.name })
    return el(
      'div',
      { class: 'strata-own' },
      choose,
      el('button', {
        type: 'button',
        class: 'strata-button',
        'data-act': 'delete',
        text: '×',
        title: remove,
        'aria-label': remove,
        on: { click: () => this.#remove(preset) },
      }),
    )
  }

  /** @param {Preset} preset */
  #choose(preset) {
    this.popup.close(true)
    this.desk.texts.usePreset(preset.name)
  }

  async #save() {
    const name = this.name.value.trim()
    if (!name) {
      this.name.focus()
      return
    }
    const taken = this.#presets.find((preset) => preset.name.toLowerCase() === name.toLowerCase())?.name ??
      this.#names.find((other) => other.toLowerCase() === name.toLowerCase())
    if (taken && this.#asked !== name) {
      const own = this.#presets.some((preset) => preset.user && preset.name === taken)
      this.#ask(name, own ? t('replaceOwn', { name: taken }) : t('replaceBuiltin', { name: taken }))
      return
    }
    const family = this.desk.layout?.family ?? null
    const answer = await savePreset({ name, weights: this.desk.texts.copyable() || 'default=1', family })
    this.#take(answer)
    if (answer.error) return
    this.popup.close(true)
    await this.desk.texts.usePreset(name)
  }

  /** Asks whether a name may be taken over; an empty name takes the question back. */
  #ask(/** @type {string} */ name, question = '') {
    this.#asked = name
    setText(this.saveButton, name ? t('replace') : t('save'))
    setText(this.message, question)
  }

  /** @param {Preset} preset */
  async #remove(preset) {
    const answer = await deletePreset({ name: preset.name, family: this.desk.layout?.family ?? null })
    this.#take(answer)
    this.search.focus({ preventScroll: true })
    if (!answer.error && !answer.names.includes(preset.name)) release(preset)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    const items = /** @type {HTMLElement[]} */ ([...this.items.querySelectorAll('.strata-item')])
    if (event.key === 'Enter' && document.activeElement === this.search && items.length) {
      event.preventDefault()
      items[0].click()
    } else if (document.activeElement !== this.name) walk(event, items, this.search)
  }
}

/** Every node's list of presets, open subgraphs included, offers these from now on. @param {string[]} names */
function offer(names) {
  for (const node of nodesOf(NODE)) {
    const combo = widgetOf(node, 'preset')
    if (combo?.options) combo.options.values = [NONE, ...names]
  }
}

/** Nodes that name a preset which is no more keep its weights, as their own text. @param {Preset} preset */
function release(preset) {
  oneStep(() => {
    for (const node of nodesOf(NODE)) {
      if (valueOf(node, 'preset') !== preset.name) continue
      if (!String(valueOf(node, 'weights') ?? '').trim()) setWidget(node, 'weights', preset.weights)
      setWidget(node, 'preset', NONE)
    }
  })
}
