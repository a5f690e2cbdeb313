// @ts-check
// The strength sliders: how far they reach, and the link between them.
import { app, follow } from '../lib/comfy.js'
import { keeperOf, setWidget, valueOf, widgetOf } from '../lib/graph.js'
import { bounded, LIMIT } from '../lib/numbers.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

export const RANGE_SETTING = 'Strata.SliderRange'
export const DEFAULT_RANGE = 2
export const STRENGTHS = ['strength_model', 'strength_clip']

/**
 * Lets each slider span the chosen range, or more where its value lies outside. Any value up to the limit stays valid.
 *
 * @param {GraphNode} node
 */
export function fitRange(node) {
  const chosen = Number(app.extensionManager?.setting?.get(RANGE_SETTING)) || DEFAULT_RANGE
  for (const name of STRENGTHS) {
    const widget = keeperOf(node, name)?.widget
    if (!widget?.options) continue
    const reach = Math.min(LIMIT, Math.max(chosen, Math.ceil(Math.abs(Number(widget.value) || 0))))
    if (widget.options.max === reach) continue
    widget.options.min = -reach
    widget.options.max = reach
    node.graph?.setDirtyCanvas?.(true, false)
  }
}

/** How far a strength's slider goes, to both sides; Infinity where there is nothing beyond. @param {GraphNode} node @param {string} name */
export function reachOf(node, name) {
  const reach = keeperOf(node, name)?.widget.options?.max ?? LIMIT
  return reach < LIMIT ? reach : Infinity
}

/** Sets a strength beyond the slider's reach too. @param {GraphNode} node @param {string} name @param {number} value */
export function setStrength(node, name, value) {
  const widget = keeperOf(node, name)?.widget
  const wanted = bounded(value)
  if (widget?.options) {
    widget.options.max = Math.max(widget.options.max ?? 0, Math.ceil(Math.abs(wanted)))
    widget.options.min = -widget.options.max
  }
  setWidget(node, name, wanted)
  fitRange(node)
}

/** @param {GraphNode} node */
export const isLinkedPair = (node) => node.properties?.strata_link === true

/** @param {GraphNode} node @param {boolean} linked */
export function linkPair(node, linked) {
  node.properties ??= {}
  if (linked) node.properties.strata_link = true
  else delete node.properties.strata_link
  if (linked) setStrength(node, 'strength_clip', Number(valueOf(node, 'strength_model')))
}

/** A moved slider takes the other along while they are linked. @param {GraphNode} node */
export function followStrengths(node) {
  let moving = false
  STRENGTHS.forEach((name, at) =>
    follow(widgetOf(node, name), (value) => {
      if (!moving && isLinkedPair(node)) {
        moving = true
        setStrength(node, STRENGTHS[1 - at], Number(value))
        moving = false
      }
      fitRange(node)
    })
  )
}
