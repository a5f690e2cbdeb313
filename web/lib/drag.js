// @ts-check
// A pointer that holds something: it is followed wherever it goes, and everything until it lets go is one step of undo.
import { UndoStep } from './undo.js'

/** Px before a press becomes a drag. */
export const SLACK = 3

/** Sends the rest of a pointer's way to an element. @param {Element} element @param {number} id of the pointer */
export function capture(element, id) {
  try {
    element.setPointerCapture(id)
  } catch {
    // A pointer that is gone already cannot be captured: its release follows.
  }
}

export class Drag {
  /** @type {{id: number, x: number, y: number, moved: boolean} | null} */
  #hold = null
  #step = new UndoStep()

  get held() {
    return this.#hold !== null
  }

  /**
   * Before the first change that the press makes itself.
   *
   * @param {PointerEvent} event its press
   * @param {boolean} [moved] whether the shortest way counts from now on
   */
  begin(event, moved = false) {
    this.#hold = { id: event.pointerId, x: event.clientX, y: event.clientY, moved }
    this.#step.begin()
  }

  /** Whether this event drags what is held; it then concerns nobody else. @param {PointerEvent} event */
  follows(event) {
    const hold = this.#hold
    if (!hold || event.pointerId !== hold.id) return false
    event.stopPropagation()
    hold.moved ||= Math.max(Math.abs(event.clientX - hold.x), Math.abs(event.clientY - hold.y)) >= SLACK
    return hold.moved
  }

  /**
   * Lets go if it is the pointer that holds, and says so. The click that may follow is not stopped.
   *
   * @param {PointerEvent} event its release, or the end of its capture
   */
  ends(event) {
    const hold = this.#hold
    if (!hold || event.pointerId !== hold.id) return false
    if (event.type === 'pointerup') event.stopPropagation()
    this.stop()
    const element = event.currentTarget
    if (element instanceof Element && element.hasPointerCapture(hold.id)) element.releasePointerCapture(hold.id)
    return true
  }

  /** Lets go, whoever holds. */
  stop() {
    this.#hold = null
    this.#step.end()
  }
}
