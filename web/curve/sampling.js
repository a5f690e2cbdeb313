// @ts-check
// What the nodes behind a strength over time say of the sampling that it acts in: a sampler's steps, and the family's noise.
import { isLinked, loaderBehind, nodesBehind, sourceOf, valueOf, widgetOf } from '../lib/graph.js'
import { getLora } from '../lib/server.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/**
 * @param {GraphNode} node
 * @param {number | null} counted the steps that the server has counted; those that the widgets say where it has not
 * @param {string | null} [lora] the file that it is about; of the loader behind the node without
 * @returns {Promise<{steps: number | null, noise: number[] | null, family: string}>}
 */
export async function samplingOf(node, counted, lora = loaderBehind(node)?.lora) {
  const profile = lora ? await getLora(lora) : null
  return { steps: counted ?? stepsBehind(node), noise: profile?.noise ?? null, family: profile?.family ?? '' }
}

/** The steps of the first sampler behind a node, or of the scheduler whose noise that takes. @param {GraphNode} node @returns {number | null} */
export function stepsBehind(node) {
  for (const found of nodesBehind(node)) {
    const steps = stepsOf(found)
    if (steps) return steps
    const scheduler = found.inputs?.some((slot) => slot.name === 'sigmas') ? sourceOf(found, 'sigmas')?.node : null
    const theirs = scheduler && stepsOf(scheduler)
    if (theirs) return theirs
  }
  return null
}

/** @param {GraphNode} node */
function stepsOf(node) {
  const steps = widgetOf(node, 'steps') && !isLinked(node, 'steps') ? Number(valueOf(node, 'steps')) : 0
  return steps > 0 ? steps : null
}
