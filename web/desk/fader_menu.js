// @ts-check
// What a right click on a fader offers: the things that keys do too.
import { el } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { shield, walk } from '../lib/keys.js'
import { menuItem } from '../lib/menu.js'
import { Popup } from '../lib/popup.js'

/** @typedef {import('./desk.js').DeskView} DeskView */

export class FaderMenu {
  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
    this.element = el('div', {
      class: 'strata-menu strata-choices',
      role: 'menu',
      on: { keydown: (event) => this.#key(event) },
    })
    this.popup = new Popup(this.element)
  }

  /** @param {string} name of a fader or a master @param {number} x @param {number} y in px of the page */
  open(name, x, y) {
    const { desk } = this
    const members = desk.members(name)
    const isIn = (/** @type {Set<string>} */ lit) => members.every((member) => lit.has(member))
    const item = (/** @type {string} */ text, /** @type {() => void} */ run, /** @type {string} */ key) =>
      menuItem(this.popup, text, run, key)
    this.element.setAttribute('aria-label', name)
    this.element.replaceChildren(
      item(isIn(desk.silence.muted) ? t('unmute') : t('mute'), () => desk.mute(members), 'M'),
      item(isIn(desk.silence.soloed) ? t('unsolo') : t('solo'), () => desk.solo(members), 'S'),
      item(t('toOne'), () => desk.change(Object.fromEntries(members.map((member) => [member, 1]))), '⌫'),
      item(t('typeWeight'), () => desk.type(name, ''), '↵'),
    )
    const opener = desk.strips.sliders.get(name) ?? null
    this.popup.open({ host: desk.element, opener })
    this.popup.moveTo(x, y)
    this.#items()[0].focus({ preventScroll: true })
  }

  #items() {
    return /** @type {HTMLElement[]} */ ([...this.element.children])
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    shield(event)
    walk(event, this.#items())
  }
}
