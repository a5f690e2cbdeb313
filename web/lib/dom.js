// @ts-check
// Elements from text and properties. Never from markup: file headers are strangers' words.

/** @typedef {{[name: string]: unknown} & {on?: {[K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => unknown}}} Properties */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Properties} [properties] class, text, title, on (events), style, data-*, aria-* and other attributes
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue
    if (name === 'class') element.className = String(value)
    else if (name === 'text') element.textContent = String(value)
    else if (name === 'on') {
      for (const [event, run] of Object.entries(/** @type {object} */ (value))) element.addEventListener(event, run)
    } else element.setAttribute(name, value === true ? '' : String(value))
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

/**
 * Sets an attribute or takes it away, and touches the page only where that changes something.
 *
 * @param {Element} element
 * @param {string} name
 * @param {string | number | boolean | null | undefined} value null, undefined and false take it away
 */
export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name)
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value))
}

/** A state that is said in both cases, such as aria-pressed. @param {Element} element @param {string} name @param {boolean} value */
export const flag = (element, name, value) => attribute(element, name, value ? 'true' : 'false')

/** @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/**
 * A line drawing of 24 units.
 *
 * @param {string} path
 */
export function icon(path) {
  const drawing = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  drawing.setAttribute('viewBox', '0 0 24 24')
  drawing.setAttribute('aria-hidden', 'true')
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  line.setAttribute('d', path)
  drawing.append(line)
  return drawing
}

/** Writes text to the clipboard; false where the browser forbids it. @param {string} text */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return false
  }
}

/** In the order in which they overrule each other. */
const SHEETS = [
  '../strata.css',
  '../desk/desk.css',
  '../desk/fader.css',
  './popup.css',
  '../loader/loader.css',
  './result.css',
  './strength.css',
  '../picker/picker.css',
  '../stack/stack.css',
  '../stack/details.css',
  '../stack/pair.css',
  '../curve/curve.css',
  '../inspect/inspect.css',
  '../sweep/sweep.css',
]

/** Loads this pack's style sheets, for whatever document they are in. */
export async function loadStyles() {
  const load = async (/** @type {string} */ path) => {
    const sheet = new CSSStyleSheet()
    document.adoptedStyleSheets.push(sheet)
    await sheet.replace(await (await fetch(new URL(path, import.meta.url))).text())
  }
  await Promise.all(SHEETS.map(load))
}
