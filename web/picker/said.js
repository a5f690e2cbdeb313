// @ts-check
// What is wrong with a LoRA, whole, under its row; with the files that may have been meant.
import { attribute, el } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { parts } from './file_name.js'

/** @typedef {{name: string, tag: string}} Near a file, and how a tag begins that names it */

export class Said {
  #shown = ''

  /** @param {(other: Near) => void} use */
  constructor(use) {
    this.use = use
    this.element = el('div', { class: 'strata-said', role: 'note', hidden: true })
  }

  /** @param {string} text @param {boolean} wrong @param {Near[]} [near] */
  show(text, wrong, near = []) {
    const key = JSON.stringify([text, wrong, near])
    if (key === this.#shown) return
    this.#shown = key
    const sentence = text && text[0].toUpperCase() + text.slice(1)
    // Files of the same name in several folders are told apart by these.
    const shorts = near.map((other) => parts(other.name).short)
    const others = near.map((other, at) =>
      el('button', {
        type: 'button',
        class: 'strata-word',
        title: other.name,
        text: t('useInstead', {
          name: shorts.indexOf(shorts[at]) === shorts.lastIndexOf(shorts[at]) ? shorts[at] : other.name,
        }),
        on: { click: () => this.use(other) },
      })
    )
    this.element.replaceChildren(sentence, ...(others.length ? [el('div', {}, ...others)] : []))
    this.element.classList.toggle('wrong', wrong)
    attribute(this.element, 'hidden', text ? null : true)
  }
}
