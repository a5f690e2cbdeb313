// @ts-check
// The cells of sweeps as they are drawn: the server tells of each at once, and of all at the end of a run.
import { api, app } from '../lib/comfy.js'
import { pathsOf } from '../lib/graph.js'
import { outputOf } from '../lib/runs.js'
import { lookSoon } from '../lib/watch.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {{name: string, model: number, clip: number, blocks: string | null, time: string | null, tag: string}} Row */
/** @typedef {{filename: string, subfolder: string, type: string}} File */
/**
 * @typedef {object} Cell
 * @property {number} index in reading order
 * @property {number[]} at its place on each axis
 * @property {File[]} files of its batch, none where it failed
 * @property {string} error why
 * @property {number | null} difference
 * @property {string} tags
 * @property {Row[]} rows
 */
/**
 * @typedef {object} Sweep
 * @property {{name: string, kind: string, labels: string[]}[]} axes
 * @property {number} count
 * @property {Row[]} rows the LoRAs without any axis
 * @property {Cell[]} cells those that are there
 * @property {string} [against]
 */

const EVENT = 'strata.sweep'

/** Node by its path -> what its run has told so far. @type {Map<string, {sweep: Sweep, workflow: unknown}>} */
const running = new Map()
let listening = false

const workflowNow = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker

/** Hears of cells from now on. */
export function listen() {
  if (listening) return
  listening = true
  api.addEventListener(EVENT, (event) => {
    const { detail } = /** @type {CustomEvent} */ (event)
    const path = String(detail.node)
    if (detail.what === 'begin') {
      const { axes, count, rows } = detail
      running.set(path, { sweep: { axes, count, rows, cells: [] }, workflow: workflowNow() })
    } else running.get(path)?.sweep.cells.push(detail.cell)
    lookSoon()
  })
}

/** What there is of a node's sweep: that of the run that goes on or was stopped, else that of the last one. @param {GraphNode} node @returns {Sweep | null} */
export function sweepOf(node) {
  const last = /** @type {Sweep | undefined} */ (outputOf(node)?.strata_sweep?.[0])
  for (const path of pathsOf(node)) {
    const found = running.get(path)
    if (!found || found.workflow !== workflowNow()) continue
    // All of it was told again at the end; from then on ComfyUI keeps it.
    if (last && found.sweep.cells.length === found.sweep.count && last.count === found.sweep.count) running.delete(path)
    else return found.sweep
  }
  return last ?? null
}

/** @param {File} file @param {boolean} small as it may be shown in a grid */
export function addressOf({ filename, subfolder, type }, small) {
  const query = new URLSearchParams({ filename, subfolder, type })
  if (small) query.set('preview', 'webp;80')
  return api.apiURL(`/view?${query}`)
}

/** What a cell is, in words. @param {Sweep} sweep @param {Cell} cell */
export const titleOf = (sweep, cell) =>
  sweep.axes.map(({ name, labels }, at) => `${name} ${labels[cell.at[at]]}`).join(', ')
