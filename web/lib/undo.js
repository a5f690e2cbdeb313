// @ts-check
// Steps of ComfyUI's undo. What happens between the beginning and the end of a step is taken back by one Ctrl+Z.
import { app } from './comfy.js'

/** Frames without another size anywhere after which the page is laid out. */
const STILL = 10
/** Frames after which nobody waits for that any more. */
const MOST = 120

/** Ends of steps that wait until the page is laid out. @type {Set<() => void>} */
const waiting = new Set()

/** Whether a hand holds something: a node's corner, maybe. */
let isHeld = false
addEventListener('pointerdown', () => (isHeld = true), { capture: true })
for (const kind of ['pointerup', 'pointercancel']) addEventListener(kind, () => (isHeld = false), { capture: true })
addEventListener('blur', () => (isHeld = false))

const trackerNow = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker

/**
 * A step that may last: a drag, a key that is held. Whoever begins one ends it in every case, its own removal included, because ComfyUI
 * records nothing before that.
 */
export class UndoStep {
  isOpen = false
  /** @type {ReturnType<typeof trackerNow>} */
  #tracker = undefined
  /** What ComfyUI had recorded when it began. @type {Recorded | undefined} */
  #before = undefined

  begin() {
    if (this.isOpen) return
    for (const end of [...waiting]) end()
    this.isOpen = true
    const tracker = trackerNow()
    this.#tracker = tracker
    // Newer editors add to the last step, once and some ms later, whatever has come since: what is to be a step of its own comes after that.
    tracker?.squashState?.flush?.()
    this.#before = tracker && recorded(tracker)
    app.canvas?.emitBeforeChange?.()
  }

  end() {
    if (!this.isOpen) return
    this.isOpen = false
    const tracker = this.#tracker
    if (tracker && this.#before) takeBackAdded(tracker, this.#before)
    // The event reaches the workflow on the screen. A step that began in another one is ended there, or that one's undo is dead.
    if (!tracker || tracker === trackerNow()) app.canvas?.emitAfterChange?.()
    else tracker.changeCount--
  }
}

/** @typedef {import('../comfyui.d.ts').ChangeTracker} ChangeTracker */
/** @typedef {{state?: object, first?: object, steps?: number, last?: object}} Recorded */

/** What an editor does not call so any more is undefined: then it is left alone. @param {Partial<ChangeTracker>} tracker @returns {Recorded} */
const recorded = ({ activeState, initialState, undoQueue }) => ({
  state: activeState,
  first: initialState,
  steps: undoQueue?.length,
  last: undoQueue?.at(-1),
})

/**
 * Editors that add to the last step, and cannot be told to do it now (1.49 is one), do so in the middle of this step if it lasts longer than
 * those ms: what is recorded becomes what it was before this step, so that all of it is this one's. What an undo, a redo or another workflow
 * recorded in between stays.
 *
 * @param {ChangeTracker} tracker
 * @param {Recorded} before
 */
function takeBackAdded(tracker, before) {
  const { first, steps, last } = recorded(tracker)
  const isSame = first === before.first && steps === before.steps && last === before.last
  // Where it is read only the assignment says so by false, and throws nothing.
  if (isSame && before.state && steps !== undefined) Reflect.set(tracker, 'activeState', before.state)
}

/**
 * Makes one step of whatever a function does before it returns.
 *
 * @param {() => void} run
 * @param {(step: UndoStep) => void} [end]
 */
export function oneStep(run, end = (step) => step.end()) {
  const step = new UndoStep()
  step.begin()
  try {
    run()
  } finally {
    end(step)
  }
}

/** As ``oneStep``, for whatever makes nodes: the sizes that the page gives them are part of it. @param {() => void} run */
export const oneStepLaidOut = (run) => oneStep(run, endLaidOut)

/**
 * Ends a step when the page has been laid out: after some frames without another size, however long a frame takes on a busy machine. The next
 * key, press or step ends it too: that is another one, or takes this one back. A page that nobody sees has no frames.
 *
 * @param {UndoStep} step
 */
export function endLaidOut(step) {
  const listening = new AbortController()
  const end = () => {
    waiting.delete(end)
    listening.abort()
    cancelAnimationFrame(frame)
    step.end()
  }
  let [sizes, still, frames] = ['', 0, 0]
  const look = () => {
    const now = sizesNow()
    still = now === sizes ? still + 1 : 0
    sizes = now
    if (still === STILL || ++frames === MOST) end()
    else frame = requestAnimationFrame(look)
  }
  let frame = requestAnimationFrame(look)
  if (document.hidden) return end()
  waiting.add(end)
  for (const kind of ['keydown', 'pointerdown', 'visibilitychange']) {
    addEventListener(kind, end, { capture: true, signal: listening.signal })
  }
}

/**
 * A node that grows or shrinks with what it shows makes no step of that: what is recorded last gets the new height. Another width is a hand's,
 * and so is whatever happens while a hand holds something.
 *
 * @param {GraphNode} node
 * @param {boolean} [always] whether what is recorded of earlier gets it too, where it had the same height: what a run told is there at all
 * times, and makes no other workflow
 * @param {(height: number) => void} [seen] hears of each height that the node gets until it is laid out
 */
export function heightWithoutStep(node, always = false, seen = undefined) {
  const tracker = trackerNow()
  let [height, still, frames] = [NaN, 0, 0]
  // In Nodes 2.0 the page has the last word, some frames later.
  const look = () => {
    if (!tracker || tracker !== trackerNow() || !node.graph || isHeld) return
    // While a state is loaded, what is recorded is still the one that is left.
    if (!tracker._restoringState && tracker.changeCount <= 0) {
      still = node.size[1] === height ? still + 1 : 0
      height = node.size[1]
      if (!still) {
        takeHeight(tracker, node, always)
        seen?.(height)
      }
    }
    if (still < STILL && ++frames < MOST) requestAnimationFrame(look)
  }
  look()
}

/** @typedef {import('./comfy.js').GraphNode} GraphNode */
/** @typedef {{id: number | string, size?: ArrayLike<number>}} Saved a node */
/** @typedef {{nodes?: Saved[], definitions?: {subgraphs?: {id: string, nodes?: Saved[]}[]}}} State */

/** @param {ChangeTracker} tracker @param {GraphNode} node @param {boolean} always */
function takeHeight({ activeState, initialState, undoQueue, redoQueue }, node, always) {
  const last = savedIn(activeState, node)?.size
  const [width, height] = node.size
  if (!last || last[0] !== width || last[1] === height) return
  const before = last[1]
  const others = always ? [initialState, ...(undoQueue ?? []), ...(redoQueue ?? [])] : []
  for (const state of [activeState, ...others]) {
    const saved = savedIn(state, node)
    if (saved?.size?.[0] === width && saved.size[1] === before) saved.size = [width, height]
  }
}

/** @param {State | null} state as ComfyUI records it @param {GraphNode} node */
function savedIn(state, { id, graph }) {
  const isWithin = graph?.rootGraph && graph.rootGraph !== graph
  const within = isWithin ? state?.definitions?.subgraphs?.find((subgraph) => subgraph.id === graph.id) : state
  return within?.nodes?.find((saved) => String(saved.id) === String(id))
}

const sizesNow = () => (app.canvas?.graph ?? app.graph)?.nodes.map(({ size }) => [...size].join()).join(' ') ?? ''
