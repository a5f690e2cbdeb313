// @ts-check
// A text field for one number. What is no number within the limit is refused, and said, never cut to something else.
import { attribute, el } from './dom.js'
import { t } from './i18n.js'
import { formatNumber, LIMIT, readNumber } from './numbers.js'

/**
 * @typedef {object} Wishes
 * @property {string} label for screen readers
 * @property {(value: number) => void} take a number was typed that is another than the one shown
 * @property {(message: string) => void} [refuse] what is wrong with the text, or an empty text when nothing is any more
 * @property {(key: 'Enter' | 'Escape' | 'Tab' | '') => void} [left] typing has ended; by which key
 * @property {string} [class]
 * @property {number} [low] the least number that is taken; -limit unless said
 * @property {number} [limit] the greatest, and its opposite the least; 100 unless said
 */

export class NumberField {
  /** The number that the field shows while nobody types. @type {number | null} */
  #value = null
  #typing = false
  /** What may stand behind the number, in small letters: it changes nothing. */
  unit = ''

  /** @param {Wishes} wishes */
  constructor(wishes) {
    this.wishes = wishes
    this.element = el('input', {
      class: wishes.class ?? 'strata-input',
      inputmode: 'decimal',
      autocomplete: 'off',
      spellcheck: 'false',
      'aria-label': wishes.label,
      on: {
        focus: () => (this.#typing = true),
        input: () => this.#say(''),
        keydown: (event) => this.#key(event),
        blur: () => this.#end(true, ''),
      },
    })
  }

  get isTyping() {
    return this.#typing
  }

  /** What stands there; nothing for null. While somebody types the field is theirs. @param {number | null} value */
  show(value) {
    this.#value = value
    if (!this.#typing) this.element.value = value === null ? '' : formatNumber(value)
  }

  /** Begins typing. @param {string} [first] the key that was pressed elsewhere to begin with */
  start(first = '') {
    this.element.focus({ preventScroll: true })
    if (first) this.element.value = first
    else this.element.select()
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    event.stopPropagation()
    const { key } = event
    if (key !== 'Enter' && key !== 'Escape' && key !== 'Tab') return
    if (this.#end(key !== 'Escape', key) ? key !== 'Tab' : true) event.preventDefault()
  }

  /**
   * Takes what was typed. A text that cannot be taken stays, with the focus, unless the focus has gone already.
   *
   * @param {boolean} keep
   * @param {'Enter' | 'Escape' | 'Tab' | ''} key
   * @returns {boolean} whether typing is over
   */
  #end(keep, key) {
    if (!this.#typing) return true
    const text = this.element.value.trim()
    const { unit = '' } = this
    const bare = unit && text.toLowerCase().endsWith(unit) ? text.slice(0, -unit.length) : text
    const { limit = LIMIT, low = -limit } = this.wishes
    const read = readNumber(bare, limit)
    const value = read !== null && read >= low ? read : null
    const refused = keep && value === null && text !== ''
    const why = t('notANumber', { text: text.slice(0, 20), low, limit })
    if (refused && key) {
      this.#say(why)
      this.element.select()
      return false
    }
    this.#typing = false
    const before = this.#value
    this.show(before)
    this.#say(refused ? why : '')
    if (keep && value !== null && value !== before) this.wishes.take(value)
    if (key) this.wishes.left?.(key)
    return true
  }

  /** @param {string} message */
  #say(message) {
    attribute(this.element, 'aria-invalid', message && this.#typing ? true : null)
    attribute(this.element, 'title', message || null)
    this.wishes.refuse?.(message)
  }
}
