// @ts-check
// Which colours a picture has that the server draws: those that were chosen, or for "auto" those that go with the editor.
import { widgetOf } from './graph.js'

/** @param {unknown} chosen @returns {'dark' | 'light'} */
export function themeFor(chosen) {
  if (chosen === 'light' || chosen === 'dark') return chosen
  // The editor's colour of text, whatever nodes are on the page.
  return isBright(getComputedStyle(document.body).getPropertyValue('--input-text')) ? 'dark' : 'light'
}

/** What is sampled without an editor has no colours of its own: the prompt says which. @param {import('./comfy.js').GraphNode} node */
export function sendTheme(node) {
  const theme = widgetOf(node, 'theme')
  if (theme) theme.serializeValue = () => theme.value === 'auto' ? themeFor('auto') : theme.value
}

/** Whether a colour is nearer to white than to black. @param {string} colour in any spelling; what is none counts as bright */
function isBright(colour) {
  const pen = document.createElement('canvas').getContext('2d')
  if (!pen) return true
  pen.fillStyle = '#ddd'
  pen.fillStyle = colour.trim()
  pen.fillRect(0, 0, 1, 1)
  const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 127
}
