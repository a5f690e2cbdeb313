// @ts-check
// The desk of one row: the block weights of its LoRA as faders, under the row. What a BLOCK_WEIGHTS node has as widgets stands in for the row.
import { el } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { DeskView } from '../desk/desk.js'
import { NONE } from '../desk/widgets.js'
import { acting } from './text.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../lib/comfy.js').Widget} Widget */
/** @typedef {import('./stack.js').StackView} StackView */

export class RowDesk {
  /** Whether a row has one. @param {import('./text.js').Row | undefined} row */
  static takes = (row) => Boolean(row?.file)

  /** @param {StackView} stack @param {number} at */
  constructor(stack, at) {
    this.stack = stack
    this.at = at
    const weights = widget('weights', '')
    Object.defineProperty(weights, 'value', {
      get: () => stack.rows[at]?.blocks ?? '',
      set: (text) => stack.edits.setBlocks(at, String(text)),
    })
    const own = [weights, widget('preset', NONE), widget('layout', 'auto'), widget('seed', 0), widget('invert', false)]
    const node = /** @type {GraphNode} */ (/** @type {unknown} */ ({
      id: `${stack.node.id}.${at}`,
      type: stack.node.type,
      get graph() {
        return stack.node.graph
      },
      widgets: own,
      properties: {},
      size: [0, 0],
      setSize() {},
      computeSize: () => [0, 0],
    }))
    this.desk = new DeskView(node, () => stack.rows[at]?.file ?? null, () => usedRow(stack, at))
    this.element = el('div', { class: 'strata-under' }, this.desk.element)
    this.element.addEventListener('keydown', (event) => this.#key(event), true)
    watch(this)
  }

  tick() {
    this.desk.tick()
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key !== 'Escape' || event.target instanceof HTMLInputElement) return
    event.preventDefault()
    event.stopPropagation()
    this.stack.opened.toggle('desk', this.at)
  }

  dispose() {
    unwatch(this)
    this.desk.dispose()
    this.element.remove()
  }
}

/**
 * How a row's LoRA acts; null for a row that stands for several.
 *
 * @param {StackView} stack
 * @param {number} at
 * @returns {import('../sweep/making.js').Used | null}
 */
function usedRow({ node, rows }, at) {
  const row = rows[at]
  if (!row?.file || row.pick) return null
  const others = acting(rows).some((acts, place) => acts && place !== at && rows[place].kind === 'lora')
  const beside = [others && t('otherRows'), row.time && t('timeLabel')].filter((words) => typeof words === 'string')
  return { node, lora: row.file, model: row.model ?? 1, clip: row.clip ?? row.model ?? 1, beside }
}

/** @param {string} name @param {unknown} value @returns {Widget} */
const widget = (name, value) => ({ name, type: 'text', value, y: 0 })
