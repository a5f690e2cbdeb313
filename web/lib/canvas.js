// @ts-check
// Manners of a node's own element towards the canvas behind it.
import { app, isVue } from './comfy.js'

/**
 * Over a node drawn on the canvas the wheel has to be handed to it; nodes in the page hand it on themselves.
 *
 * @param {WheelEvent} event
 * @param {boolean} [claimed] the element has kept the wheel from the page, but has no use for it
 */
export function passWheel(event, claimed = false) {
  if (isVue() && !claimed) return
  event.preventDefault()
  app.canvas?.processMouseWheel(event)
}

/** The middle button drags the canvas. @param {PointerEvent} event */
export function passMiddle(event) {
  if (event.button === 1) app.canvas?.processMouseDown(event)
}
