// @ts-check
// The strengths of a loader as bars, in place of ComfyUI's own sliders, which cut what is typed to what they show and cannot be set to a
// given value at usual widths. The values stay in ComfyUI's widgets: those are saved, sent, promoted and wired as ever.
import { passWheel } from '../lib/canvas.js'
import { app } from '../lib/comfy.js'
import { attribute, el, flag, icon, setText } from '../lib/dom.js'
import { isLinked, keeperOf, showWidget, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { leave, takePlace } from '../lib/place.js'
import { setHeight } from '../lib/room.js'
import { Strength } from '../lib/strength.js'
import { oneStep } from '../lib/undo.js'
import { linkOf, reachFor, setLink, setStrength, strengthOf, STRENGTHS } from './strengths.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('./strengths.js').Link} Link */

/** Px of a bar. */
const ROW = 26
/** Px of what is said about a text that is no strength. */
const MESSAGE = 30
const CHAIN =
  'M10 14a4 4 0 0 0 5.7 0l3.6-3.6a4 4 0 0 0-5.7-5.7l-1.2 1.2M14 10a4 4 0 0 0-5.7 0l-3.6 3.6a4 4 0 0 0 5.7 5.7l1.2-1.2'
/** What a click on the link makes of it. @type {Record<Link, Link>} */
const NEXT = { '': 'ratio', ratio: 'equal', equal: '' }

export class StrengthPanel {
  #signature = ''
  #message = ''
  /** The node's height, in px, before a message made it taller. */
  #before = 0

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
    this.bars = new Map(STRENGTHS.map((name) => [name, this.#bar(name)]))
    this.link = el('button', {
      type: 'button',
      class: 'strata-button strata-chain',
      'data-act': 'link',
      on: { click: () => this.#nextLink() },
    })
    this.note = el('div', { class: 'strata-note wrong', role: 'alert' })
    this.rows = el('div', { class: 'strata-bars' }, ...[...this.bars.values()].map((bar) => bar.element))
    this.element = el(
      'div',
      { class: 'strata strata-strengths', on: { keydown: shield, wheel: (event) => passWheel(event) } },
      el('div', { class: 'strata-pair' }, this.rows, this.link),
      this.note,
    )
  }

  /** @param {string} name */
  #bar(name) {
    const bar = new Strength({
      label: widgetOf(this.node, name)?.label || name,
      set: (value) => setStrength(this.node, name, value),
      refuse: (message) => this.#say(message),
    })
    bar.element.dataset.strength = name
    return bar
  }

  /** The strengths that no wire decides. */
  get #own() {
    return STRENGTHS.filter((name) => !isLinked(this.node, name))
  }

  get minHeight() {
    return Math.max(1, this.#own.length) * ROW + (this.#message ? MESSAGE : 0)
  }

  /** Looks whether anything that the bars show is another. */
  tick() {
    const { node } = this
    if (!node.graph) return
    takePlace(node, this.element)
    const mode = app.extensionManager?.workflow?.activeWorkflow?.activeMode ?? 'graph'
    // One that has a wire keeps ComfyUI's own row, where the wire ends; so have both where apps are built and used.
    const shown = STRENGTHS.filter((name) => mode !== 'graph' || hasWire(node, name))
    const values = STRENGTHS.map((name) => strengthOf(node, name))
    const signature = JSON.stringify([values, values.map(reachFor), this.#own, shown, linkOf(node), this.#message])
    if (signature === this.#signature) return
    this.#signature = signature
    for (const name of STRENGTHS) showWidget(node, name, shown.includes(name))
    this.#draw()
  }

  #draw() {
    const { node } = this
    for (const [name, bar] of this.bars) {
      const value = strengthOf(node, name)
      attribute(bar.element, 'hidden', this.#own.includes(name) ? null : true)
      bar.show({ value, reach: reachFor(value), enabled: keeperOf(node, name) !== null })
    }
    const link = linkOf(node)
    attribute(this.link, 'hidden', this.#own.length === STRENGTHS.length ? null : true)
    this.link.replaceChildren(link === 'equal' ? '=' : icon(CHAIN))
    flag(this.link, 'aria-pressed', link !== '')
    const words = { '': t('linkNone'), equal: t('linkEqual'), ratio: t('linkRatio') }[link]
    attribute(this.link, 'title', words)
    attribute(this.link, 'aria-label', words)
    setText(this.note, this.#message)
    this.#fit()
  }

  #fit() {
    const height = `${this.minHeight}px`
    if (this.element.style.minHeight === height) return
    this.element.style.minHeight = height
    const { node } = this
    if (!node.graph || node.flags?.collapsed) return
    const tall = node.size[1]
    const needed = node.computeSize()[1]
    // A message gives back the room that it took.
    const wanted = (!this.#message && this.#before) || Math.max(needed, tall)
    this.#before = this.#message && wanted > tall ? tall : 0
    setHeight(node, wanted)
  }

  /** @param {string} message */
  #say(message) {
    this.#message = message
    this.tick()
  }

  #nextLink() {
    oneStep(() => setLink(this.node, NEXT[linkOf(this.node)]))
    this.tick()
  }

  dispose() {
    for (const bar of this.bars.values()) bar.dispose()
    leave(this.node, this.element)
  }
}

/** @param {GraphNode} node @param {string} name */
function hasWire(node, name) {
  const link = node.inputs?.find((slot) => slot.name === name)?.link
  return link !== null && link !== undefined
}
