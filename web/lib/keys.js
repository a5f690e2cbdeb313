// @ts-check
// Keys that belong to an element of a node, and must not reach ComfyUI.

/** @param {KeyboardEvent} event */
export const isPlain = (event) => !event.ctrlKey && !event.metaKey && !event.altKey

/**
 * Keeps keys from ComfyUI that mean something to whoever has the focus here: all without Ctrl, Command or Alt (a letter opens a side bar
 * there, Delete removes the node), and those of the clipboard. Ctrl+Z, Ctrl+Enter and the like stay ComfyUI's.
 *
 * @param {KeyboardEvent} event
 */
export function shield(event) {
  const clipboard = (event.ctrlKey || event.metaKey) && ['c', 'v', 'x', 'a'].includes(event.key.toLowerCase())
  if (clipboard || isPlain(event)) event.stopPropagation()
}

/**
 * Arrow keys, Home and End in a list of buttons or the like. The key is used up where the focus moves.
 *
 * @param {KeyboardEvent} event
 * @param {HTMLElement[]} items
 * @param {HTMLElement | null} [before] what has the focus before the first item, such as a search field
 */
export function walk(event, items, before = null) {
  const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement))
  const inField = document.activeElement instanceof HTMLInputElement
  const to = {
    ArrowDown: items[at + 1] ?? items[0],
    ArrowUp: at < 0 ? items[items.length - 1] : items[at - 1] ?? before ?? items[items.length - 1],
    Home: inField ? undefined : items[0],
    End: inField ? undefined : items[items.length - 1],
  }[event.key]
  if (!to) return
  event.preventDefault()
  to.focus()
}
