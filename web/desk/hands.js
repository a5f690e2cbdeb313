// @ts-check
// Hands on the faders: drag, paint, wheel, keys. Turns them into changes of weights; what those mean is the desk's business.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'
import { beginChange, endChange } from '../lib/graph.js'
import { peak } from './strips.js'

const STEP = 0.05
const FINE = 0.01
const PAGE = 0.25
const SLACK = 4 // px before a press becomes a drag
const GRAB = 9 // px around a cap that count as the cap
const LIMIT = 100

/** To the step, without the dust of binary fractions. */
export const snap = (value, fine) => {
  const step = fine ? FINE : STEP
  return Math.min(LIMIT, Math.max(-LIMIT, Number((Math.round(value / step) * step).toFixed(2))))
}

/**
 * @typedef {object} Desk what hands need of it
 * @property {import('./strips.js').Strips} strips
 * @property {boolean} enabled
 * @property {(name: string) => number} valueOf
 * @property {(name: string) => string[]} members the faders of a master, or the fader itself
 * @property {(changes: Record<string, number>) => void} change
 * @property {(names: string[]) => void} mute
 * @property {(names: string[]) => void} solo
 * @property {(name: string | null) => void} point
 * @property {(name: string, text: string) => void} type
 * @property {(held: boolean) => void} hold
 * @property {(claimed: boolean) => void} claimWheel
 */

export class Hands {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk
    this.stroke = null
    /** The fader pressed last: clicks of a captured pointer are told of the whole surface only. */
    this.pressed = ''
    const surface = desk.strips.element
    surface.addEventListener('pointerdown', (event) => this.press(event))
    surface.addEventListener('pointermove', (event) => this.move(event))
    surface.addEventListener('pointerup', (event) => this.release(event))
    surface.addEventListener('pointercancel', (event) => this.release(event))
    surface.addEventListener('lostpointercapture', (event) => this.release(event))
    surface.addEventListener('pointerleave', () => this.leave())
    surface.addEventListener('dblclick', (event) => this.reset(event))
    surface.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    surface.addEventListener('keydown', (event) => this.key(event))
  }

  press(event) {
    const name = this.desk.strips.nameOf(event.target)
    if (event.button !== 0 || !name || !this.desk.enabled || app.canvas?.read_only) return
    event.stopPropagation()
    this.pressed = name
    const slider = this.desk.strips.sliders.get(name)
    slider?.focus({ preventScroll: true })
    if (event.altKey) {
      event.preventDefault()
      this.once(() => this.desk.solo(this.desk.members(name)))
      return
    }
    const faders = this.desk.strips.geometry()
    const held = faders.find((fader) => fader.name === name)
    if (!held) return
    const cap = held.bottom - this.share(this.desk.valueOf(name)) * (held.bottom - held.top)
    const onCap = Math.abs(event.clientY - cap) <= GRAB
    const members = this.desk.members(name)
    this.stroke = {
      id: event.pointerId, name, held, faders, x: event.clientX, y: event.clientY, lastX: event.clientX, lastY: event.clientY,
      offset: onCap ? cap - event.clientY : 0, mode: '', members, before: Object.fromEntries(members.map((m) => [m, this.desk.valueOf(m)])),
      pending: {}, frame: 0, touched: new Set(), onCap
    }
    try {
      this.desk.strips.element.setPointerCapture(event.pointerId)
    } catch {
      // A pointer that is gone already cannot be captured: its release follows.
    }
    beginChange()
    this.desk.hold(true)
  }

  move(event) {
    const stroke = this.stroke
    if (!stroke) {
      this.desk.claimWheel(event.altKey)
      this.desk.point(this.desk.strips.nameOf(event.target) ?? null)
      return
    }
    if (event.pointerId !== stroke.id) return
    event.stopPropagation()
    const dx = Math.abs(event.clientX - stroke.x)
    const dy = Math.abs(event.clientY - stroke.y)
    if (!stroke.mode) {
      if (Math.max(dx, dy) < SLACK) return
      stroke.mode = stroke.name.endsWith('*') ? 'master' : dx > 0.6 * dy ? 'paint' : 'drag'
    }
    if (stroke.mode === 'paint') this.paint(stroke, event)
    else this.queue(stroke, this.pulled(stroke, event))
    stroke.lastX = event.clientX
    stroke.lastY = event.clientY
  }

  /** What the held fader, or the group behind a held master, is dragged to. */
  pulled(stroke, event) {
    const value = snap(this.valueAt(stroke.held, event.clientY + stroke.offset), event.shiftKey)
    if (stroke.mode !== 'master') return { [stroke.name]: value }
    const from = peak(Object.values(stroke.before))
    return Object.fromEntries(stroke.members.map((m) => [m, from === 0 ? value : snap((stroke.before[m] * value) / from, true)]))
  }

  /** Every fader that the stroke crossed since the last event gets the height at which it was crossed. */
  paint(stroke, event) {
    const changes = {}
    const [left, right] = [Math.min(stroke.lastX, event.clientX), Math.max(stroke.lastX, event.clientX)]
    for (const fader of stroke.faders) {
      const inRow = event.clientY >= fader.top - 40 && event.clientY <= fader.bottom + 40 && fader.top === stroke.held.top
      if (!inRow || fader.name.endsWith('*') || fader.right <= left || fader.left > right) continue
      const middle = Math.min(right, Math.max(left, (fader.left + fader.right) / 2))
      const along = event.clientX === stroke.lastX ? 1 : (middle - stroke.lastX) / (event.clientX - stroke.lastX)
      changes[fader.name] = snap(this.valueAt(fader, stroke.lastY + along * (event.clientY - stroke.lastY)), event.shiftKey)
    }
    this.queue(stroke, changes)
  }

  /** At most one change a frame. */
  queue(stroke, changes) {
    Object.assign(stroke.pending, changes)
    for (const name of Object.keys(changes)) stroke.touched.add(name)
    stroke.frame ||= requestAnimationFrame(() => this.flush(stroke))
  }

  flush(stroke) {
    if (stroke.frame) cancelAnimationFrame(stroke.frame)
    stroke.frame = 0
    const changes = stroke.pending
    stroke.pending = {}
    if (Object.keys(changes).length) this.desk.change(changes)
    const names = Object.keys(changes)
    this.desk.point(stroke.mode === 'master' ? stroke.name : names[names.length - 1] ?? stroke.name)
  }

  release(event) {
    const stroke = this.stroke
    if (!stroke || event.pointerId !== stroke.id) return
    if (event.type === 'pointerup') {
      event.stopPropagation()
      if (!stroke.mode && !stroke.onCap) {
        stroke.mode = stroke.name.endsWith('*') ? 'master' : 'drag'
        this.queue(stroke, this.pulled(stroke, event))
      }
    }
    this.flush(stroke)
    this.stroke = null
    if (this.desk.strips.element.hasPointerCapture?.(stroke.id)) this.desk.strips.element.releasePointerCapture(stroke.id)
    this.desk.hold(false)
    endChange()
  }

  leave() {
    if (this.stroke) return
    this.desk.claimWheel(false)
    this.desk.point(null)
  }

  reset(event) {
    const name = this.desk.strips.nameOf(event.target) ?? this.pressed
    if (!name || !this.desk.enabled || event.altKey || event.target.closest?.('button')) return
    event.stopPropagation()
    event.preventDefault()
    this.once(() => this.desk.change(all(this.desk.members(name), 1)))
  }

  /** With Alt the wheel turns a fader; else it is the canvas's, as everywhere. */
  wheel(event) {
    const name = this.desk.strips.nameOf(event.target)
    if (!event.altKey || event.ctrlKey || !name || !this.desk.enabled) return
    event.preventDefault()
    event.stopPropagation()
    const up = -Math.sign(event.deltaY || event.deltaX)
    this.once(() => this.nudge(name, up * (event.shiftKey ? FINE : STEP), event.shiftKey))
    this.desk.point(name)
  }

  key(event) {
    const name = this.desk.strips.nameOf(event.target)
    if (event.key === 'Alt') this.desk.claimWheel(true)
    if (!name || event.ctrlKey || event.metaKey) return
    const run = this.action(event, name)
    if (!run) return
    event.preventDefault()
    event.stopPropagation()
    run()
  }

  /** @returns {(() => void) | null} */
  action(event, name) {
    const { desk } = this
    if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') return () => this.step(name, event.key === 'ArrowRight' ? 1 : -1)
    if (!desk.enabled || event.altKey) return null
    const up = { ArrowUp: STEP, ArrowDown: -STEP, PageUp: PAGE, PageDown: -PAGE }[event.key]
    if (up) return () => this.nudge(name, event.shiftKey ? Math.sign(up) * FINE : up, event.shiftKey)
    if (event.key === 'Home' || event.key === 'End') {
      return () => desk.change(all(desk.members(name), desk.strips.range[event.key === 'Home' ? 0 : 1]))
    }
    if (event.key === 'Delete' || event.key === 'Backspace') return () => desk.change(all(desk.members(name), 1))
    if (event.key === 'm' || event.key === 'M') return () => desk.mute(desk.members(name))
    if (event.key === 's' || event.key === 'S') return () => desk.solo(desk.members(name))
    if (event.key === 'Enter') return () => desk.type(name, '')
    if (/^[-+.,\d]$/.test(event.key)) return () => desk.type(name, event.key)
    return null
  }

  step(name, by) {
    const names = [...this.desk.strips.sliders.keys()]
    const next = names[names.indexOf(name) + by]
    if (next) this.desk.strips.sliders.get(next)?.focus({ preventScroll: true })
  }

  nudge(name, by, fine) {
    const members = this.desk.members(name)
    this.desk.change(Object.fromEntries(members.map((member) => [member, snap(this.desk.valueOf(member) + by, fine || Math.abs(by) < STEP)])))
  }

  once(run) {
    beginChange()
    run()
    endChange()
  }

  share(value) {
    const [low, high] = this.desk.strips.range
    return Math.min(1, Math.max(0, (value - low) / (high - low)))
  }

  valueAt(fader, y) {
    const [low, high] = this.desk.strips.range
    return low + ((fader.bottom - y) / (fader.bottom - fader.top)) * (high - low)
  }
}

const all = (names, value) => Object.fromEntries(names.map((name) => [name, value]))
