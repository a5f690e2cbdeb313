// @ts-check
// What the node's own widgets say, and how a text is written into them.
import { isLinked, setWidget, valueOf, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { example } from './text.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../lib/server.js').Layout} Layout */
/** @typedef {import('../lib/server.js').Question} Question */

const AUTO = 'auto'
/** What the list of presets says where none is chosen. */
export const NONE = 'none'
/** Those that decide the weights. */
const DECIDING = ['weights', 'preset', 'layout', 'invert']

export class Widgets {
  /** What ComfyUI calls the text. @type {string | null} */
  #label = null

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
  }

  /** The name of the preset that the node has, if any. @returns {string | null} */
  get preset() {
    const name = valueOf(this.node, 'preset')
    return typeof name === 'string' && name && name !== NONE ? name : null
  }

  /** Whether 1 minus each weight of the text acts. */
  get inverted() {
    return valueOf(this.node, 'invert') === true
  }

  get text() {
    return String(valueOf(this.node, 'weights') ?? '')
  }

  /** Whether a wire decides the weights. */
  get linked() {
    return DECIDING.some((name) => isLinked(this.node, name))
  }

  /** @param {string | null} lora that the weights are for @returns {Question} */
  question(lora) {
    const family = valueOf(this.node, 'layout')
    return {
      text: this.text.trim() ? this.text : this.preset ?? '',
      family: typeof family === 'string' && family && family !== AUTO ? family : null,
      lora,
      seed: Number(valueOf(this.node, 'seed') ?? 0),
      invert: this.inverted,
    }
  }

  /** Puts a text into the node that acts as it is written. Within the desk's ``edit``. @param {string} text */
  write(text) {
    setWidget(this.node, 'weights', text)
    setWidget(this.node, 'invert', false)
  }

  /**
   * An example of a text for this model, in the empty field; the Vue renderer has no such place, so there it stands behind the label.
   *
   * @param {Layout} layout
   */
  drawExample(layout) {
    const widget = widgetOf(this.node, 'weights')
    if (!widget) return
    this.#label ??= widget.label || widget.name
    const text = example(layout)
    if (widget.element instanceof HTMLTextAreaElement) widget.element.placeholder = text
    const label = text && !this.text.trim() ? t('exampleFor', { label: this.#label, example: text }) : this.#label
    if (widget.label !== label) widget.label = label
  }
}
