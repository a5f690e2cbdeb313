// @ts-check
// Steps of ComfyUI's undo. What happens between the beginning and the end of a step is taken back by one Ctrl+Z.
import { app } from './comfy.js'
import { LAID_OUT } from './room.js'

const trackerNow = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker

/**
 * A step that may last: a drag, a key that is held. Whoever begins one ends it in every case, its own removal included, because ComfyUI
 * records nothing before that.
 */
export class UndoStep {
  isOpen = false
  /** @type {ReturnType<typeof trackerNow>} */
  #tracker = undefined

  begin() {
    if (this.isOpen) return
    this.isOpen = true
    this.#tracker = trackerNow()
    // Newer editors add to the last step, once and some ms later, whatever has come since: what is to be a step of its own comes after that.
    this.#tracker?.squashState?.flush?.()
    app.canvas?.emitBeforeChange?.()
  }

  end() {
    if (!this.isOpen) return
    this.isOpen = false
    const tracker = this.#tracker
    // The event reaches the workflow on the screen. A step that began in another one is ended there, or that one's undo is dead.
    if (!tracker || tracker === trackerNow()) app.canvas?.emitAfterChange?.()
    else tracker.changeCount--
  }
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
export const oneStepLaidOut = (run) => oneStep(run, (step) => endLater(step, LAID_OUT))

/**
 * Ends a step when the page has been laid out, or before the next key or press: that is another step, or takes this one back.
 *
 * @param {UndoStep} step
 * @param {number} rest ms after two frames, which on a busy machine take long themselves; a page that is not shown has none
 */
export function endLater(step, rest) {
  const listening = new AbortController()
  const end = () => {
    listening.abort()
    cancelAnimationFrame(frame)
    clearTimeout(waiting)
    step.end()
  }
  let waiting = setTimeout(end, 10 * rest)
  let frame = requestAnimationFrame(() => {
    frame = requestAnimationFrame(() => {
      clearTimeout(waiting)
      waiting = setTimeout(end, rest)
    })
  })
  for (const kind of ['keydown', 'pointerdown']) {
    addEventListener(kind, end, { capture: true, signal: listening.signal })
  }
}
