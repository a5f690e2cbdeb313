// @ts-check
// The strength sliders: how far they reach, and the link between them.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'
import { keeperOf, setWidget, valueOf, widgetOf } from '../lib/graph.js'

export const RANGE_SETTING = 'Strata.SliderRange'
export const DEFAULT_RANGE = 2
export const STRENGTHS = ['strength_model', 'strength_clip']
const HARD = 100

/** Lets each slider span the chosen range, or more where its value lies outside. Any value up to the hard limit stays valid. */
export function fitRange(node) {
  const chosen = Number(app.extensionManager?.setting?.get(RANGE_SETTING)) || DEFAULT_RANGE
  for (const name of STRENGTHS) {
    const widget = keeperOf(node, name)?.widget
    if (!widget?.options) continue
    const reach = Math.min(HARD, Math.max(chosen, Math.ceil(Math.abs(Number(widget.value) || 0))))
    if (widget.options.max === reach) continue
    widget.options.min = -reach
    widget.options.max = reach
    node.graph?.setDirtyCanvas?.(true, false)
  }
}

/** How far a strength's slider goes, to both sides; Infinity where there is nothing beyond. */
export function reachOf(node, name) {
  const reach = keeperOf(node, name)?.widget.options?.max ?? HARD
  return reach < HARD ? reach : Infinity
}

/** Sets a strength beyond the slider's reach too. */
export function setStrength(node, name, value) {
  const widget = keeperOf(node, name)?.widget
  const wanted = Math.min(HARD, Math.max(-HARD, value))
  if (widget?.options) {
    widget.options.max = Math.max(widget.options.max, Math.ceil(Math.abs(wanted)))
    widget.options.min = -widget.options.max
  }
  setWidget(node, name, wanted)
  fitRange(node)
}

export const isLinkedPair = (node) => node.properties?.strata_link === true

export function linkPair(node, linked) {
  node.properties ??= {}
  if (linked) node.properties.strata_link = true
  else delete node.properties.strata_link
  if (linked) setStrength(node, 'strength_clip', Number(valueOf(node, 'strength_model')))
}

/** A moved slider takes the other along while they are linked. */
export function follow(node) {
  let moving = false
  STRENGTHS.forEach((name, at) => {
    const widget = widgetOf(node, name)
    if (!widget) return
    const before = widget.callback
    widget.callback = function (...values) {
      const result = before?.apply(this, values)
      if (!moving && isLinkedPair(node)) {
        moving = true
        setStrength(node, STRENGTHS[1 - at], Number(widget.value))
        moving = false
      }
      fitRange(node)
      return result
    }
  })
}
