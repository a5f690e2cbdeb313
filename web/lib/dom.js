// @ts-check
// Elements from text and properties. Never from markup: file headers are strangers' words.

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties] class, text, title, on (events), style, data-*, aria-* and other attributes
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElement}
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue
    if (name === 'class') element.className = value
    else if (name === 'text') element.textContent = value
    else if (name === 'on') for (const [event, run] of Object.entries(value)) element.addEventListener(event, run)
    else element.setAttribute(name, value === true ? '' : String(value))
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

/** Sets an attribute or takes it away, and touches the page only where that changes something. */
export function attribute(element, name, value) {
  if (value === null || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name)
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value))
}

/** @param {HTMLElement} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** A line drawing of 24 units. @param {string} path */
export function icon(path) {
  const drawing = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  drawing.setAttribute('viewBox', '0 0 24 24')
  drawing.setAttribute('aria-hidden', 'true')
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  line.setAttribute('d', path)
  drawing.append(line)
  return drawing
}

/** Loads this pack's style sheet into the page, once. */
export function loadStyles() {
  const href = new URL('../strata.css', import.meta.url).href
  if (![...document.styleSheets].some((sheet) => sheet.href === href)) {
    document.head.append(el('link', { rel: 'stylesheet', href }))
  }
}
