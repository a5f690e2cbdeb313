// @ts-check
// The two strengths of a loader: where their values are kept, how far their bars go, and the link between them.
import { app, follow, keepIn, kept } from '../lib/comfy.js'
import { keeperOf, setWidget, valueOf, widgetOf } from '../lib/graph.js'
import { bounded, LIMIT } from '../lib/numbers.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {'' | 'equal' | 'ratio'} Link how one strength follows the other */

export const RANGE_SETTING = 'Strata.SliderRange'
export const DEFAULT_RANGE = 2
export const STRENGTHS = ['strength_model', 'strength_clip']
const LINK = 'strata_link'
/** Digits of a strength that follows in a ratio. */
const DIGITS = 4

/** How far bars go to both sides of 0: as the setting says, or further where a value lies outside. @param {number} value */
export function reachFor(value) {
  const chosen = Number(app.extensionManager?.setting?.get(RANGE_SETTING)) || DEFAULT_RANGE
  return Math.min(LIMIT, Math.max(chosen, Math.ceil(Math.abs(value) || 0)))
}

/**
 * Lets ComfyUI's own sliders for the strengths go as far where they are seen: on a subgraph, in App mode, with a wire. ComfyUI cuts every
 * value to what its slider shows; one that nobody sees shows all.
 *
 * @param {GraphNode} node
 */
export function fitRange(node) {
  for (const name of STRENGTHS) {
    const widget = keeperOf(node, name)?.widget
    const options = widget?.options
    if (!options) continue
    // Without it ComfyUI rounds to the step of its slider.
    options.round = 0
    const reach = widget.hidden ? LIMIT : reachFor(strengthOf(node, name))
    if (options.max === reach) continue
    options.min = -reach
    options.max = reach
    node.graph?.setDirtyCanvas?.(true, false)
  }
}

/** @param {GraphNode} node @param {string} name */
export const strengthOf = (node, name) => Number(valueOf(node, name) ?? 1)

/** Sets a strength, beyond the reach of its slider too. @param {GraphNode} node @param {string} name @param {number} value */
export function setStrength(node, name, value) {
  const widget = keeperOf(node, name)?.widget
  const wanted = bounded(value)
  if (widget?.options) {
    widget.options.max = Math.max(widget.options.max ?? 0, Math.ceil(Math.abs(wanted)))
    widget.options.min = -widget.options.max
  }
  setWidget(node, name, wanted)
  // ComfyUI rounds in the widget's callback, to the step of its slider.
  if (widget && widget.value !== wanted) widget.value = wanted
  fitRange(node)
}

/** @param {GraphNode} node @returns {Link} */
export function linkOf(node) {
  const link = node.properties?.[LINK]
  // It was written so at first.
  if (link === true) return 'equal'
  return typeof link === 'object' && link !== null ? 'ratio' : ''
}

/** @param {GraphNode} node @param {Link} link */
export function setLink(node, link) {
  const [model, clip] = STRENGTHS.map((name) => strengthOf(node, name))
  node.properties ??= {}
  delete node.properties[LINK]
  if (link === 'equal') {
    node.properties[LINK] = true
    setStrength(node, STRENGTHS[1], model)
  } else if (link === 'ratio') keepIn(node, LINK, { model, clip })
}

/** A strength that is set takes the other along while they are linked. @param {GraphNode} node @param {() => void} done */
export function followStrengths(node, done) {
  let moving = false
  STRENGTHS.forEach((name, at) =>
    follow(widgetOf(node, name), (value) => {
      if (!moving) {
        moving = true
        const other = followed(node, at, Number(value))
        if (other !== null) setStrength(node, STRENGTHS[1 - at], other)
        moving = false
      }
      fitRange(node)
      done()
    })
  )
}

/**
 * What the other strength is to be, once one is set.
 *
 * @param {GraphNode} node
 * @param {number} at which was set, by its place in STRENGTHS
 * @param {number} value
 * @returns {number | null}
 */
function followed(node, at, value) {
  const link = linkOf(node)
  if (link === 'equal') return value
  if (link !== 'ratio') return null
  const { model, clip } = kept(node, LINK)
  const [own, other] = (at === 0 ? [model, clip] : [clip, model]).map(Number)
  // From 0 there is no ratio: the other stays, and from here on there is one.
  if (Number.isFinite(other) && own) return bounded(Number(((other * value) / own).toFixed(DIGITS)))
  const now = STRENGTHS.map((name) => strengthOf(node, name))
  keepIn(node, LINK, { model: now[0], clip: now[1] })
  return null
}
