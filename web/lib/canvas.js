// @ts-check
// Manners of a node's own element towards the canvas behind it.
import { app, isVue } from './comfy.js'

/**
 * When ComfyUI selects the node and brings it to the front. Its own choice, the click, comes after the hand's edit is done: inside a
 * subgraph, where the order of the nodes is kept as such, the new order would then be a step of undo after the edit's own.
 */
export const SELECT_ON = ['mousedown']

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
