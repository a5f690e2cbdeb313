// @ts-check
// A LoRA file's name as it is read: short, its folder in grey, its picture while the pointer rests on it.
import { el, setText } from '../lib/dom.js'
import { picture } from './pictures.js'

/** Ms that the pointer rests before a picture comes. */
const SHOWN = 350
/** Letters of a long name that are never cut away: they tell versions and epochs apart. Of those as wide as two it is half of them. */
const TAIL = 9
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uff60]/
/** How far back they reach to tell halves of a pair and epochs apart. */
const FAR = 24
const HALF = /(?<![a-z])(?:high|low)(?:[-_ .]?noise)?(?![a-z])/i
const COUNT = /(?<=(?:epoch|step|ep|[-_ .]e|[-_ .]s)[-_ .]?)\d+|\d{4,}/i
/** Px that a picture needs. */
const HEIGHT = 270

/** A name as it is shown: its folder, and the name without its ending. @param {string} name */
export function parts(name) {
  const plain = name.replaceAll('\\', '/')
  const at = plain.lastIndexOf('/') + 1
  return {
    folder: plain.slice(0, Math.max(0, at - 1)),
    short: plain.slice(at).replace(/\.(safetensors|pt|pth|ckpt|bin)$/i, ''),
  }
}

/**
 * A message without the name that it begins with.
 *
 * @param {string} text
 * @param {string | null} lora as the node names it
 */
export function withoutName(text, lora) {
  if (!lora) return text
  const base = lora.split(/[\\/]/).pop() ?? lora
  for (const name of [`LoRA '${lora}'`, `LoRA '${base}'`, lora, base]) {
    if (!text.startsWith(name)) continue
    let rest = text.slice(name.length)
    // What stands in brackets is its size.
    if (rest.startsWith(' (')) rest = rest.slice(rest.indexOf(')') + 1)
    const said = [': ', ' is '].find((joint) => rest.startsWith(joint))
    const short = said ? rest.slice(said.length) : rest.startsWith(' ') ? rest.slice(1) : ''
    return short ? short[0].toUpperCase() + short.slice(1) : text
  }
  return text
}

/** Where the end of a long name begins that is never cut away. @param {string} text */
export function tailOf(text) {
  const widths = [...text].map((letter) => ({ letter, wide: WIDE.test(letter) || letter.length > 1 ? 2 : 1 }))
  if (widths.reduce((sum, { wide }) => sum + wide, 0) <= 2 * TAIL) return text.length
  let usual = text.length
  for (let room = TAIL; room > 0;) {
    const { letter, wide } = widths[widths.length - 1]
    room -= wide
    if (room < 0) break
    widths.pop()
    usual -= letter.length
  }
  const first = Math.max(TAIL, text.length - FAR)
  const found = [HALF, COUNT].map((kind) => text.slice(first).search(kind)).find((at) => at >= 0)
  return found === undefined ? usual : Math.min(usual, first + found)
}

/** A name that is cut in its middle where the room is short. */
export class ShortName {
  constructor() {
    this.start = el('span', {})
    this.end = el('span', {})
    this.element = el('span', { class: 'strata-short' }, this.start, this.end)
  }

  /** @param {string} text */
  show(text) {
    const at = tailOf(text)
    setText(this.start, text.slice(0, at))
    const end = text.slice(at)
    if (this.end.textContent === end) return
    // The first of them go where even these have no room, and go whole: laid out from the last one, on one line.
    const letters = [...end]
    this.end.replaceChildren(...letters.map((text, at) => el('span', { text, style: `order: ${letters.length - at}` })))
  }
}

export class FileName {
  /** @type {import('../lib/server.js').Preview | null} */
  #preview = null
  #waiting = 0
  /** @type {HTMLElement | null} */
  #picture = null

  /** @param {(button: HTMLElement) => void} pressed */
  constructor(pressed) {
    this.short = new ShortName()
    this.folder = el('small', {})
    /** @type {HTMLButtonElement} */
    this.element = el(
      'button',
      {
        type: 'button',
        class: 'strata-file',
        on: {
          click: () => pressed(this.element),
          pointerenter: () => this.#wait(),
          pointerleave: () => this.hide(),
          pointerdown: () => this.hide(),
        },
      },
      this.short.element,
      this.folder,
    )
  }

  /** @param {string} short @param {string} [folder] @param {import('../lib/server.js').Preview | null} [preview] */
  show(short, folder = '', preview = null) {
    this.short.show(short)
    setText(this.folder, folder)
    this.#preview = preview
  }

  #wait() {
    clearTimeout(this.#waiting)
    if (this.#preview) this.#waiting = window.setTimeout(() => this.#show(), SHOWN)
  }

  #show() {
    if (!this.#preview || !this.element.isConnected) return
    const { right, top } = (this.element.parentElement ?? this.element).getBoundingClientRect()
    const shown = picture(this.#preview, { moves: true, failed: () => this.hide() })
    this.#picture = el('div', {
      class: 'strata strata-preview',
      popover: 'manual',
      style: `left: ${Math.min(right + 8, innerWidth - HEIGHT)}px; top: ${
        Math.max(0, Math.min(top, innerHeight - HEIGHT))
      }px`,
    }, shown)
    // A popover is drawn above the page, unscaled and uncut, wherever it hangs.
    this.element.after(this.#picture)
    this.#picture.showPopover()
  }

  hide() {
    clearTimeout(this.#waiting)
    this.#picture?.remove()
    this.#picture = null
  }
}
