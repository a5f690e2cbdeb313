// @ts-check
// What a node's last run came to, whole, under its widgets. ComfyUI's own text under a node is gone from 1.58 on as soon as the run has ended.
import { passWheel } from './canvas.js'
import { chain } from './comfy.js'
import { attribute, el, setText } from './dom.js'
import { addElement } from './element.js'
import { t } from './i18n.js'
import { leave, takePlace } from './place.js'
import { Room } from './room.js'
import { failureOf, outputOf } from './runs.js'
import { unwatch, watch } from './watch.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/** Px around the text, and its height at which it scrolls. */
const MARGIN = 6
const TALLEST = 200

class Result {
  #shown = ''
  #height = 0
  #placed = false

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
    this.room = new Room(node)
    this.text = el('div', { class: 'strata-result-text' })
    this.element = el(
      'div',
      { class: 'strata strata-result', role: 'status', on: { wheel: (event) => this.#wheel(event) } },
      this.text,
    )
    this.observer = new ResizeObserver(() => this.#fit())
    this.observer.observe(this.text)
  }

  tick() {
    const { node } = this
    if (!node.graph) return
    if (this.#placed) takePlace(node, this.element)
    const failure = failureOf(node)?.text ?? ''
    const output = outputOf(node)
    const text = failure || String(output?.strata_verdict?.[0] ?? '')
    const isWrong = Boolean(failure || output?.strata_warned?.[0])
    const shown = JSON.stringify([text, isWrong])
    if (shown === this.#shown || (!text && !this.#placed)) return
    this.#shown = shown
    setText(this.text, text)
    attribute(this.text, 'title', failure ? null : String(output?.strata_report?.[0] ?? '') || null)
    this.text.classList.toggle('wrong', isWrong)
    this.#place()
    this.#fit()
  }

  /** A node that has not run yet has no empty place for it. */
  #place() {
    if (this.#placed) return
    this.#placed = true
    addElement(this.node, 'strata_result', this.element, {
      label: t('report'),
      margin: MARGIN,
      height: () => this.#height,
      grows: () => false,
      told: true,
    })
    // ComfyUI has made room for it, and puts it there when it draws.
    this.node.graph?.setDirtyCanvas?.(true, true)
  }

  #fit() {
    // Far away, off the screen or collapsed it is not drawn, and has no height to go by.
    if (!this.#placed || (this.text.textContent && !this.text.offsetHeight)) return
    const height = Math.min(TALLEST, this.text.scrollHeight)
    if (!this.element.isConnected || height === this.#height) return
    this.#height = height
    this.element.style.minHeight = `${height}px`
    this.room.fit(true)
  }

  /** Only what is too long for the node has a use for the wheel. @param {WheelEvent} event */
  #wheel(event) {
    if (this.text.scrollHeight <= this.text.clientHeight + 1) passWheel(event)
  }

  dispose() {
    this.observer.disconnect()
    leave(this.node, this.element)
  }
}

/** @param {GraphNode} node */
export function showResult(node) {
  const result = new Result(node)
  chain(node, 'onExecuted', () => result.tick())
  chain(node, 'onAdded', () => watch(result))
  chain(node, 'onRemoved', () => {
    unwatch(result)
    result.dispose()
  })
  watch(result)
}
