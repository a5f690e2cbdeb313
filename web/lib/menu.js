// @ts-check
// A list of things to do, under the button that opened it.
import { el } from './dom.js'
import { t } from './i18n.js'
import { shield, walk } from './keys.js'
import { Popup } from './popup.js'

/**
 * One thing to do; the list closes first, so that what is done may open another.
 *
 * @param {Popup} popup
 * @param {string} text
 * @param {() => void} run
 * @param {string} [key] that does the same without the list
 */
export function menuItem(popup, text, run, key) {
  const choose = () => {
    popup.close(true)
    run()
  }
  return el(
    'button',
    { type: 'button', class: 'strata-item', role: 'menuitem', on: { click: choose } },
    el('span', { text }),
    key ? el('kbd', { text: key }) : null,
  )
}

/** The button at the end of a row, for what else can be done with it. @param {(button: HTMLElement) => void} opened */
export function rowMenuButton(opened) {
  /** @type {HTMLButtonElement} */
  const button = el('button', {
    type: 'button',
    class: 'strata-button strata-dots',
    'data-act': 'row',
    text: '⋯',
    title: t('rowMenu'),
    'aria-label': t('rowMenu'),
    'aria-haspopup': 'menu',
    on: { click: () => opened(button) },
  })
  return button
}

export class Menu {
  /** @param {string} label */
  constructor(label) {
    this.element = el('div', {
      class: 'strata strata-menu strata-choices strata-free',
      role: 'menu',
      'aria-label': label,
      on: { keydown: (event) => this.#key(event) },
    })
    this.popup = new Popup(this.element)
  }

  /** @param {HTMLElement} opener @param {Node[]} items */
  show(opener, items) {
    this.element.replaceChildren(...items)
    this.popup.open({ host: document.body, opener })
    const { left, bottom } = opener.getBoundingClientRect()
    this.popup.moveTo(left, bottom + 2)
    this.items()[0]?.focus({ preventScroll: true })
  }

  /** @param {string} text @param {() => void} run */
  item(text, run) {
    return menuItem(this.popup, text, run)
  }

  items() {
    return /** @type {HTMLElement[]} */ ([...this.element.querySelectorAll('.strata-item')])
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    if (!(event.target instanceof HTMLInputElement)) walk(event, this.items())
  }
}
