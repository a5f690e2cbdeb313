// @ts-check
// Which colours a picture has: those that were chosen, or for "auto" those that go with the editor.

/** @param {unknown} chosen @param {HTMLElement} element whose text has the editor's colour @returns {'dark' | 'light'} */
export function themeFor(chosen, element) {
  if (chosen === 'light' || chosen === 'dark') return chosen
  return isBright(getComputedStyle(element).color) ? 'dark' : 'light'
}

/** Whether a computed colour is nearer to white than to black. @param {string} colour */
function isBright(colour) {
  const [red, green, blue] = [...colour.matchAll(/[\d.]+(?:e-?\d+)?/g)].map(Number)
  const most = colour.startsWith('rgb') ? 255 : 1
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > most / 2
}
