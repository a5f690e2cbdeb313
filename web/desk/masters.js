// @ts-check
// The wide fader of a group scales the group. What its proportions are is remembered while it is at zero, and while small steps round them
// off; it lives in the node's properties, and so in the workflow and its undo.
import { keepIn, kept } from '../lib/comfy.js'
import { bounded } from '../lib/numbers.js'
import { peak } from './strips.js'

/** @typedef {import('./desk.js').DeskView} DeskView */
/** @typedef {Record<string, number>} Weights fader -> weight */

const MEMORY = 'strata_desk'
/** Two steps of the last digit that a scaled weight has. */
const CLOSE = 0.0011

export class Masters {
  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
  }

  /** Group -> its weights when something else than its master set them last. */
  get #memory() {
    return kept({ properties: kept(this.desk.node, MEMORY) }, 'masters')
  }

  /**
   * The group's weights with the master at a value.
   *
   * @param {string} master its name, such as "IN*"
   * @param {number} value
   * @returns {Weights}
   */
  scaled(master, value) {
    const names = this.desk.members(master)
    const now = Object.fromEntries(names.map((name) => [name, this.desk.valueOf(name)]))
    const group = master.slice(0, -1)
    const shape = this.#shapeOf(group, now)
    keepIn(this.desk.node, MEMORY, { masters: { ...this.#memory, [group]: shape ?? undefined } })
    if (!shape) {
      return Object.fromEntries(names.map((name) => [name, value]))
    }
    const from = peak(Object.values(shape))
    return Object.fromEntries(names.map((name) => [name, bounded(Number(((shape[name] * value) / from).toFixed(3)))]))
  }

  forget() {
    keepIn(this.desk.node, MEMORY, { masters: undefined })
  }

  /** The remembered weights, where today's are those, scaled; else today's; null where all are zero and nothing is remembered. */
  #shapeOf(/** @type {string} */ group, /** @type {Weights} */ now) {
    const before = this.#memory[group]
    const most = peak(Object.values(now))
    if (isWeights(before, Object.keys(now))) {
      const from = peak(Object.values(before))
      const same = Object.keys(now).every((name) => Math.abs(now[name] - (before[name] * most) / from) < CLOSE)
      if (from !== 0 && same) return before
    }
    return most === 0 ? null : now
  }
}

/**
 * A workflow may come from anywhere.
 *
 * @param {unknown} value
 * @param {string[]} names
 * @returns {value is Weights}
 */
function isWeights(value, names) {
  if (typeof value !== 'object' || value === null) return false
  const weights = /** @type {Record<string, unknown>} */ (value)
  return names.every((name) => typeof weights[name] === 'number' && Number.isFinite(weights[name]))
}
