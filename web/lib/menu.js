// @ts-check
// A list of things to do, under the button that opened it.
import { el } from './dom.js'
import { shield, walk } from './keys.js'
import { Popup } from './popup.js'

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
    const choose = () => {
      this.popup.close(true)
      run()
    }
    return el(
      'button',
      { type: 'button', class: 'strata-item', role: 'menuitem', on: { click: choose } },
      el('span', { text }),
    )
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
