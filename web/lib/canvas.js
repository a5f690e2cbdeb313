// @ts-check
// Manners of a node's own element towards the canvas behind it.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'

/**
 * Over a node drawn on the canvas the wheel has to be handed to it; nodes in the page hand it on themselves.
 *
 * @param {boolean} [claimed] the element has kept the wheel from the page, but has no use for it
 */
export function passWheel(event, claimed = false) {
  if (globalThis.LiteGraph?.vueNodesMode && !claimed) return
  event.preventDefault()
  app.canvas?.processMouseWheel(event)
}

/** The middle button drags the canvas. */
export function passMiddle(event) {
  if (event.button === 1) app.canvas?.processMouseDown(event)
}

/** Keys that mean something here must not reach the canvas: Delete would remove the node. */
export function shield(event) {
  const copying = (event.ctrlKey || event.metaKey) && ['c', 'v', 'x', 'a'].includes(event.key.toLowerCase())
  if (copying || ['Delete', 'Backspace'].includes(event.key)) event.stopPropagation()
}
