// @ts-check
// The menu of presets: search, choose, save as, delete. It hangs inside the desk, so it moves and scales with the node.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'
import { el, setText } from '../lib/dom.js'
import { widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { deletePreset, getPresets, savePreset } from '../lib/server.js'
import { NONE } from './texts.js'

const NODE = 'StrataLoraBlockWeights'

export class PresetMenu {
  /** @param {any} desk */
  constructor(desk) {
    this.desk = desk
    this.presets = []
    this.search = /** @type {HTMLInputElement} */ (el('input', { class: 'strata-search', placeholder: t('search'), 'aria-label': t('search'), on: { input: () => this.list() } }))
    this.items = el('div', { class: 'strata-items', role: 'listbox', 'aria-label': t('presets') })
    this.name = /** @type {HTMLInputElement} */ (el('input', { class: 'strata-search', placeholder: t('saveAs'), 'aria-label': t('saveAs'), maxlength: 100,
      on: { keydown: (event) => event.key === 'Enter' && this.save() } }))
    this.message = el('div', { class: 'strata-note wrong', role: 'alert' })
    this.element = el('div', { class: 'strata-menu', role: 'dialog', 'aria-label': t('presets'), on: {
      keydown: (event) => this.key(event),
      focusout: (event) => this.left(event.relatedTarget),
      pointerdown: (event) => event.stopPropagation(),
      wheel: (event) => event.stopPropagation()
    }, 'data-capture-wheel': 'true' }, this.search, this.items,
      el('div', { class: 'strata-saving' }, this.name, el('button', { type: 'button', class: 'strata-button', 'data-act': 'save', text: t('save'), on: { click: () => this.save() } })),
      this.message)
  }

  get isOpen() {
    return this.element.parentNode !== null
  }

  contains(target) {
    return this.element.contains(target)
  }

  toggle() {
    if (this.isOpen) this.close(true)
    else this.open()
  }

  async open() {
    this.search.value = this.name.value = ''
    this.items.replaceChildren()
    setText(this.message, '')
    this.desk.element.append(this.element)
    this.search.focus({ preventScroll: true })
    this.take(await getPresets(this.desk.layout?.family))
  }

  /** The focus went elsewhere; to the button, which then closes the menu itself, or out of the page, which leaves it open. */
  left(to) {
    if (to && !this.element.contains(to) && to !== this.desk.bar.openMenu) this.close()
  }

  close(back = false) {
    this.element.remove()
    if (back) this.desk.bar.openMenu.focus({ preventScroll: true })
  }

  take(answer) {
    if (answer.error) {
      setText(this.message, answer.error)
      return
    }
    setText(this.message, '')
    this.presets = answer.presets
    offer(answer.names)
    this.list()
  }

  list() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean)
    const found = this.presets.filter((preset) => words.every((word) => `${preset.name} ${preset.about}`.toLowerCase().includes(word)))
    this.items.replaceChildren(...found.map((preset) => this.item(preset)))
    if (!found.length) this.items.append(el('div', { class: 'strata-empty', text: t('noPresets') }))
  }

  item(preset) {
    const choose = el('button', { type: 'button', class: 'strata-item', role: 'option', title: preset.weights, on: { click: () => this.choose(preset) } },
      el('span', { text: preset.name }), el('small', { text: preset.user ? t('yours') : preset.about }))
    if (!preset.user) return choose
    const remove = el('button', { type: 'button', class: 'strata-button', 'data-act': 'delete', text: '×', title: t('deletePreset', { name: preset.name }),
      'aria-label': t('deletePreset', { name: preset.name }), on: { click: () => this.remove(preset) } })
    return el('div', { class: 'strata-own' }, choose, remove)
  }

  choose(preset) {
    this.close(true)
    this.desk.texts.usePreset(preset.name)
  }

  async save() {
    const name = this.name.value.trim()
    if (!name) return this.name.focus()
    const family = this.desk.layout?.family ?? null
    const answer = await savePreset({ name, weights: this.desk.texts.copyable() || 'default=1', family })
    this.take(answer)
    if (!answer.error) {
      this.close(true)
      await this.desk.texts.usePreset(name)
    }
  }

  async remove(preset) {
    this.take(await deletePreset({ name: preset.name, family: this.desk.layout?.family ?? null }))
  }

  key(event) {
    event.stopPropagation()
    const items = /** @type {HTMLElement[]} */ ([...this.items.querySelectorAll('.strata-item')])
    const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement))
    if (event.key === 'Escape') this.close(true)
    else if (event.key === 'ArrowDown') (items[at + 1] ?? items[0])?.focus()
    else if (event.key === 'ArrowUp') (items[at - 1] ?? this.search).focus()
    else if (event.key === 'Enter' && document.activeElement === this.search && items.length) items[0].click()
    else return
    event.preventDefault()
  }
}

/** Every node's list of presets, open subgraphs included, offers these from now on. */
function offer(names, graph = app.rootGraph ?? app.graph) {
  for (const node of graph?.nodes ?? []) {
    if (node.subgraph) offer(names, node.subgraph)
    const combo = node.type === NODE ? widgetOf(node, 'preset') : null
    if (combo?.options) combo.options.values = [NONE, ...names]
  }
}
