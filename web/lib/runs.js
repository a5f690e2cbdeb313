// @ts-check
// What runs told: outputs that ComfyUI keeps, and failures and notices, which it keeps nowhere that a node could ask.
import { app } from './comfy.js'
import { pathsOf, sourceOf, valueOf } from './graph.js'
import { getGraphOfRun } from './server.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */
/**
 * @typedef {object} Failure
 * @property {string} text
 * @property {{graph?: string}} run whose it is: nodes of other workflows have the same ids
 * @property {unknown} workflow on the screen at the time, for servers that do not tell of which graph a run is
 * @property {string} [met] what it was about: the values of the node and of those before it
 */

/** Node by its path ("3", or "7:3" inside a subgraph) -> what the run that failed there said. @type {Map<string, Failure>} */
const failures = new Map()

/** The same for what a node had to say after it had run, while some later node sampled. @type {Map<string, Failure>} */
const notices = new Map()

/** Name of an output for the page -> how many nodes have ended with one since the page was loaded. @type {Map<string, number>} */
const ended = new Map()

/** The run that goes on. @type {{graph?: string}} graph: its id, once the server has told */
let run = {}

/** What stays the same through the undo of a workflow, and is another in another tab. */
const workflowNow = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker

/** The events of ComfyUI's socket that tell of runs. */
export const RUN_EVENTS = ['execution_start', 'executed', 'execution_error', 'progress_text']

/** @param {Event} event one of them @param {() => void} changed called where more is known later */
export function note(event, changed) {
  const { detail } = /** @type {CustomEvent} */ (event)
  const told = (/** @type {unknown} */ text) => ({ text: String(text).trim(), run, workflow: workflowNow() })
  if (event.type === 'execution_start') {
    failures.clear()
    notices.clear()
    learnGraph(run = {}, String(detail.prompt_id)).then(changed)
  } else if (event.type === 'progress_text') {
    notices.set(String(detail.nodeId), told(detail.text))
  } else if (event.type === 'executed') {
    failures.delete(String(detail.node))
    for (const name of Object.keys(detail.output ?? {})) ended.set(name, endedWith(name) + 1)
  } else if (event.type === 'execution_error') {
    failures.set(String(detail.node_id), told(detail.exception_message))
  }
}

/** @param {{graph?: string}} started @param {string} id of the prompt */
async function learnGraph(started, id) {
  started.graph = await getGraphOfRun(id)
  // A node of another workflow may have been taken for the one that failed.
  for (const failure of failures.values()) delete failure.met
}

/** How many nodes have ended with such an output: each may have made something known. @param {string} name */
export const endedWith = (name) => ended.get(name) ?? 0

/** What stopped the last run, where it was this node, as long as what it met is still so. @param {GraphNode} node */
export function failureOf(node) {
  const failure = ofNode(failures, node)
  if (!failure) return null
  const met = metBy(node)
  failure.met ??= met
  return failure.met === met ? failure : null
}

/** The values that a run meets in a node and in all before it. @param {GraphNode} node */
function metBy(node) {
  const before = new Set([node])
  // A set goes on with what is added while it is gone through.
  for (const one of before) {
    for (const slot of one.inputs ?? []) {
      const source = sourceOf(one, slot.name)
      if (source) before.add(source.node)
    }
  }
  return JSON.stringify([...before].map((one) => {
    const saved = one.widgets?.filter((widget) => widget.serialize !== false) ?? []
    return [one.id, one.type, one.mode, saved.map(({ name }) => valueOf(one, name))]
  }))
}

/** What this node said while the last run sampled, the last of it. @param {GraphNode} node */
export const noticeOf = (node) => ofNode(notices, node)

/** @param {Map<string, Failure>} told @param {GraphNode} node @returns {Failure | null} */
function ofNode(told, node) {
  if (!told.size) return null
  const graph = node.graph?.rootGraph ?? node.graph
  for (const path of pathsOf(node)) {
    const found = told.get(path)
    if (found && (found.run.graph ? found.run.graph === graph?.id : found.workflow === workflowNow())) return found
  }
  return null
}

/** What a node's last run told the browser. ComfyUI keeps it through undo, other tabs and the history. @param {GraphNode} node */
export function outputOf(node) {
  const { graph } = node
  return app.nodeOutputs?.[!graph || graph === graph.rootGraph ? String(node.id) : `${graph.id}:${node.id}`]
}
