// @ts-check
// A panel over a node: a menu, a list to choose from. It hangs inside the node's element, so it moves and scales with it, and it closes on
// Escape, on a press anywhere else and when the focus goes elsewhere, whatever was done in it before.
import { app } from './comfy.js'

/**
 * @typedef {object} Place
 * @property {HTMLElement} host the element that it hangs in
 * @property {HTMLElement | null} [opener] what opened it and gets the focus back; a press on it is its own business
 * @property {() => void} [closed]
 */

export class Popup {
  /** @type {Place | null} */
  #place = null
  /** @type {AbortController | null} */
  #listening = null

  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element
    element.setAttribute('data-capture-wheel', 'true')
    for (const kind of ['pointerdown', 'pointermove', 'pointerup', 'wheel', 'contextmenu', 'dblclick']) {
      element.addEventListener(kind, (event) => event.stopPropagation())
    }
  }

  get isOpen() {
    return this.#place !== null
  }

  /** @param {unknown} target */
  contains(target) {
    return target instanceof Node && this.element.contains(target)
  }

  /** @param {Place} place */
  open(place) {
    this.close()
    this.#place = place
    this.#listening = new AbortController()
    place.host.append(this.element)
    const options = { capture: true, signal: this.#listening.signal }
    addEventListener('pointerdown', (event) => this.#isElsewhere(event.target) && this.close(), options)
    addEventListener('focusin', (event) => this.#isElsewhere(event.target) && this.close(), options)
    addEventListener('keydown', (event) => this.#key(event), options)
  }

  /** @param {boolean} [back] whether the opener gets the focus */
  close(back = false) {
    const place = this.#place
    if (!place) return
    this.#place = null
    this.#listening?.abort()
    this.element.remove()
    if (back) place.opener?.focus({ preventScroll: true })
    place.closed?.()
  }

  /**
   * Moves it to a point of the page, and as far as needed to stay within its host. The host may be scaled with the canvas.
   *
   * @param {number} clientX
   * @param {number} clientY
   */
  moveTo(clientX, clientY) {
    const host = this.#place?.host
    if (!host) return
    const box = host.getBoundingClientRect()
    const scale = box.width / host.offsetWidth || app.canvas?.ds?.scale || 1
    const within = (/** @type {number} */ at, /** @type {number} */ own, /** @type {number} */ room) =>
      Math.max(0, Math.min(at / scale, room - own))
    this.element.style.left = `${within(clientX - box.left, this.element.offsetWidth, host.offsetWidth)}px`
    this.element.style.top = `${within(clientY - box.top, this.element.offsetHeight, host.offsetHeight)}px`
  }

  /** @param {EventTarget | null} target */
  #isElsewhere(target) {
    return !this.contains(target) && !(target instanceof Node && this.#place?.opener?.contains(target))
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key !== 'Escape') return
    event.preventDefault()
    event.stopPropagation()
    this.close(true)
  }
}
