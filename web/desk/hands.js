// @ts-check
// Hands on the faders: drag, paint, wheel, keys. Turns them into changes of weights; what those mean is the desk's business.
import { app } from '../lib/comfy.js'
import { capture, SLACK } from '../lib/drag.js'
import { isPlain } from '../lib/keys.js'
import { snapTo } from '../lib/numbers.js'
import { oneStep, UndoStep } from '../lib/undo.js'

/** @typedef {import('./desk.js').DeskView} DeskView */
/** @typedef {import('./strips.js').Place} Place */
/** @typedef {Record<string, number>} Weights fader -> weight */
/**
 * @typedef {object} Stroke a press of the pointer, from down to up
 * @property {number} id of the pointer
 * @property {string} name the fader that is held
 * @property {Place} held
 * @property {Place[]} faders
 * @property {number} x where it began, in px of the screen
 * @property {number} y
 * @property {number} lastX
 * @property {number} lastY
 * @property {number} offset from the pointer to the middle of the cap
 * @property {boolean} onCap
 * @property {'' | 'drag' | 'paint'} mode
 * @property {Weights} pending changes that the next frame makes
 * @property {number} frame
 */

const STEP = 0.05
const FINE = 0.01
const PAGE = 0.25
/** Px around a cap that count as the cap. */
const GRAB = 9
/** Px down for each px aside with which a pointer is on its way to the foot. */
const AIM = 0.25
/** Ms that a pointer on its way to the foot rests on another fader before that one is pointed at. */
const REST = 150
/** Px above and below the faders that a stroke may stray. */
const REACH = 40

export class Hands {
  /** @type {Stroke | null} */
  #stroke = null
  /** The fader pressed last: clicks of a captured pointer are told of the whole surface only. */
  #pressed = ''
  /** One step of undo for a drag, and one for a key that is held and repeats. */
  #dragging = new UndoStep()
  #repeating = new UndoStep()
  #resting = 0

  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
    const surface = desk.strips.element
    surface.addEventListener('pointerdown', (event) => this.#press(event))
    surface.addEventListener('pointermove', (event) => this.#move(event))
    surface.addEventListener('pointerup', (event) => this.#release(event))
    surface.addEventListener('pointercancel', (event) => this.#release(event))
    surface.addEventListener('lostpointercapture', (event) => this.#release(event))
    surface.addEventListener('pointerleave', () => {
      clearTimeout(this.#resting)
      if (!this.#stroke) this.desk.claimWheel(false)
    })
    surface.addEventListener('dblclick', (event) => this.#reset(event))
    surface.addEventListener('wheel', (event) => this.#wheel(event), { passive: false })
    surface.addEventListener('keydown', (event) => this.#key(event))
    surface.addEventListener('keyup', () => this.#repeating.end())
    surface.addEventListener('focusout', () => this.#repeating.end())
  }

  /** The desk goes, perhaps in the middle of a stroke. */
  dispose() {
    clearTimeout(this.#resting)
    const stroke = this.#stroke
    this.#stroke = null
    if (stroke?.frame) cancelAnimationFrame(stroke.frame)
    this.#dragging.end()
    this.#repeating.end()
  }

  /** @param {PointerEvent} event */
  #press(event) {
    const { desk } = this
    const name = desk.strips.nameOf(event.target)
    if (event.button !== 0 || !name || app.canvas?.read_only) return
    event.stopPropagation()
    this.#pressed = name
    desk.strips.sliders.get(name)?.focus({ preventScroll: true })
    if (!desk.enabled) return
    if (event.altKey) {
      event.preventDefault()
      desk.solo(desk.members(name))
      return
    }
    const faders = desk.strips.geometry()
    const held = faders.find((fader) => fader.name === name)
    if (!held) return
    const cap = held.bottom - this.#share(desk.valueOf(name)) * (held.bottom - held.top)
    const onCap = Math.abs(event.clientY - cap) <= GRAB
    const { clientX: x, clientY: y, pointerId: id } = event
    const offset = onCap ? cap - y : 0
    const now = { x, y, lastX: x, lastY: y }
    this.#stroke = { id, name, held, faders, ...now, offset, onCap, mode: '', pending: {}, frame: 0 }
    capture(desk.strips.element, id)
    this.#dragging.begin()
    desk.hold(true)
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const stroke = this.#stroke
    if (!stroke) {
      this.desk.claimWheel(event.altKey)
      this.#hover(event)
      return
    }
    if (event.pointerId !== stroke.id) return
    event.stopPropagation()
    const dx = Math.abs(event.clientX - stroke.x)
    const dy = Math.abs(event.clientY - stroke.y)
    if (!stroke.mode) {
      if (Math.max(dx, dy) < SLACK) return
      stroke.mode = !isMaster(stroke.name) && dx > 0.6 * dy ? 'paint' : 'drag'
    }
    this.#queue(stroke, stroke.mode === 'paint' ? this.#painted(stroke, event) : this.#pulled(stroke, event))
    stroke.lastX = event.clientX
    stroke.lastY = event.clientY
  }

  /**
   * Points at the fader under the pointer; on its way down to the foot, where the pointed fader's number and buttons are, only once it
   * rests.
   *
   * @param {PointerEvent} event
   */
  #hover(event) {
    clearTimeout(this.#resting)
    const name = this.desk.strips.nameOf(event.target)
    if (!name) return
    const leaving = event.movementY > 0 && event.movementY > AIM * Math.abs(event.movementX)
    if (!leaving || !this.desk.target()) this.desk.point(name)
    else this.#resting = setTimeout(() => this.desk.point(name), REST)
  }

  /** What the held fader, or the group behind a held master, is dragged to. @param {Stroke} stroke @param {PointerEvent} event */
  #pulled(stroke, event) {
    return this.desk.at(stroke.name, snap(this.#valueAt(stroke.held, event.clientY + stroke.offset), event.shiftKey))
  }

  /**
   * Every fader that the stroke crossed since the last event gets the height at which it was crossed.
   *
   * @param {Stroke} stroke
   * @param {PointerEvent} event
   */
  #painted(stroke, event) {
    /** @type {Weights} */
    const changes = {}
    const [left, right] = [Math.min(stroke.lastX, event.clientX), Math.max(stroke.lastX, event.clientX)]
    for (const fader of stroke.faders) {
      const near = event.clientY >= fader.top - REACH && event.clientY <= fader.bottom + REACH
      if (!near || fader.top !== stroke.held.top || isMaster(fader.name)) continue
      if (fader.right <= left || fader.left > right) continue
      const middle = Math.min(right, Math.max(left, (fader.left + fader.right) / 2))
      const along = event.clientX === stroke.lastX ? 1 : (middle - stroke.lastX) / (event.clientX - stroke.lastX)
      const y = stroke.lastY + along * (event.clientY - stroke.lastY)
      changes[fader.name] = snap(this.#valueAt(fader, y), event.shiftKey)
    }
    return changes
  }

  /** At most one change a frame. @param {Stroke} stroke @param {Weights} changes */
  #queue(stroke, changes) {
    Object.assign(stroke.pending, changes)
    stroke.frame ||= requestAnimationFrame(() => this.#flush(stroke))
  }

  /** @param {Stroke} stroke */
  #flush(stroke) {
    if (stroke.frame) cancelAnimationFrame(stroke.frame)
    stroke.frame = 0
    const changes = stroke.pending
    stroke.pending = {}
    const names = Object.keys(changes)
    if (names.length) this.desk.change(changes)
    this.desk.point(stroke.mode === 'paint' ? names[names.length - 1] ?? stroke.name : stroke.name)
  }

  /** @param {PointerEvent} event */
  #release(event) {
    const stroke = this.#stroke
    if (!stroke || event.pointerId !== stroke.id) return
    if (event.type === 'pointerup') {
      event.stopPropagation()
      if (!stroke.mode && !stroke.onCap) {
        stroke.mode = 'drag'
        this.#queue(stroke, this.#pulled(stroke, event))
      }
    }
    this.#flush(stroke)
    this.#stroke = null
    const surface = this.desk.strips.element
    if (surface.hasPointerCapture?.(stroke.id)) surface.releasePointerCapture(stroke.id)
    this.desk.hold(false)
    this.#dragging.end()
  }

  /** @param {MouseEvent} event */
  #reset(event) {
    const name = this.desk.strips.nameOf(event.target) ?? this.#pressed
    if (!name || event.altKey || (event.target instanceof Element && event.target.closest('button'))) return
    event.stopPropagation()
    event.preventDefault()
    this.desk.change(all(this.desk.members(name), 1))
  }

  /** With Alt the wheel turns a fader; else it is the canvas's, as everywhere. @param {WheelEvent} event */
  #wheel(event) {
    const name = this.desk.strips.nameOf(event.target)
    if (!event.altKey || event.ctrlKey || !name || !this.desk.enabled) return
    event.preventDefault()
    event.stopPropagation()
    const up = -Math.sign(event.deltaY || event.deltaX)
    this.#nudge(name, up * (event.shiftKey ? FINE : STEP), event.shiftKey)
    this.desk.point(name)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const name = this.desk.strips.nameOf(event.target)
    if (event.key === 'Alt') this.desk.claimWheel(true)
    if (!name || !isPlain(event)) return
    const { move, edit } = this.#meaning(event, name)
    if (!move && !edit) return
    event.preventDefault()
    if (move) move()
    else if (edit && this.desk.enabled) {
      if (event.repeat) this.#repeating.begin()
      oneStep(edit)
    }
  }

  /**
   * What a key does: move the focus, which a desk that cannot be edited allows too, or edit.
   *
   * @param {KeyboardEvent} event
   * @param {string} name
   * @returns {{move?: () => void, edit?: () => void}}
   */
  #meaning(event, name) {
    const { desk } = this
    const { key, shiftKey: fine } = event
    if (key === 'ArrowLeft' || key === 'ArrowRight') {
      return { move: () => this.#step(name, key === 'ArrowRight' ? 1 : -1) }
    }
    const up = { ArrowUp: STEP, ArrowDown: -STEP, PageUp: PAGE, PageDown: -PAGE }[key]
    if (up) return { edit: () => this.#nudge(name, fine ? Math.sign(up) * FINE : up, fine) }
    if (key === 'Home') return { edit: () => desk.change(desk.at(name, desk.strips.range[0])) }
    if (key === 'End') return { edit: () => desk.change(desk.at(name, desk.strips.range[1])) }
    if (key === 'Delete' || key === 'Backspace') return { edit: () => desk.change(all(desk.members(name), 1)) }
    if (key === 'm' || key === 'M') return { edit: () => desk.mute(desk.members(name)) }
    if (key === 's' || key === 'S') return { edit: () => desk.solo(desk.members(name)) }
    if (key === 'Enter') return { edit: () => desk.type(name, '') }
    if (/^[-+.,\d]$/.test(key)) return { edit: () => desk.type(name, key) }
    return {}
  }

  /** @param {string} name @param {number} by */
  #step(name, by) {
    const names = [...this.desk.strips.sliders.keys()]
    const next = names[names.indexOf(name) + by]
    if (next) this.desk.strips.sliders.get(next)?.focus({ preventScroll: true })
  }

  /** @param {string} name @param {number} by @param {boolean} fine */
  #nudge(name, by, fine) {
    const value = snap(this.desk.valueOf(name) + by, fine || Math.abs(by) < STEP)
    this.desk.change(this.desk.at(name, value))
  }

  /** How far up a fader a weight stands, 0 to 1. @param {number} value */
  #share(value) {
    const [low, high] = this.desk.strips.range
    return Math.min(1, Math.max(0, (value - low) / (high - low)))
  }

  /** @param {Place} fader @param {number} y */
  #valueAt(fader, y) {
    const [low, high] = this.desk.strips.range
    return low + ((fader.bottom - y) / (fader.bottom - fader.top)) * (high - low)
  }
}

/** @param {number} value @param {boolean} fine */
const snap = (value, fine) => snapTo(value, fine ? FINE : STEP)

/** @param {string} name */
const isMaster = (name) => name.endsWith('*')

/** @param {string[]} names @param {number} value @returns {Weights} */
const all = (names, value) => Object.fromEntries(names.map((name) => [name, value]))
