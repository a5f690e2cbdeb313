// @ts-check
// Which colours a picture has that the server draws: those that were chosen, or for "auto" those that go with the editor.
import { el } from './dom.js'
import { widgetOf } from './graph.js'

/** It has the editor's colour of text, whatever nodes are on the page. @type {HTMLElement | null} */
let probe = null

/** @param {unknown} chosen @returns {'dark' | 'light'} */
export function themeFor(chosen) {
  if (chosen === 'light' || chosen === 'dark') return chosen
  probe ??= el('span', { hidden: true, style: 'color: var(--input-text, #ddd)' })
  if (!probe.isConnected) document.body.append(probe)
  return isBright(getComputedStyle(probe).color) ? 'dark' : 'light'
}

/** What is sampled without an editor has no colours of its own: the prompt says which. @param {import('./comfy.js').GraphNode} node */
export function sendTheme(node) {
  const theme = widgetOf(node, 'theme')
  if (theme) theme.serializeValue = () => theme.value === 'auto' ? themeFor('auto') : theme.value
}

/** Whether a computed colour is nearer to white than to black. @param {string} colour */
function isBright(colour) {
  const [red, green, blue] = [...colour.matchAll(/[\d.]+(?:e-?\d+)?/g)].map(Number)
  const most = colour.startsWith('rgb') ? 255 : 1
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > most / 2
}
