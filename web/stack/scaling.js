// @ts-check
// Scaling the strengths of all rows together: by a number, to a total, or by how far their LoRAs change the model. Locked rows stay.
//
// How far a row goes is the norm of its LoRA's change, its block weights and its strength in. Norms of changes that have nothing to do with
// each other add up like the sides of right angles, so that n equal LoRAs at 1 / sqrt(n) go as far as one alone.
import { t } from '../lib/i18n.js'
import { snapTo } from '../lib/numbers.js'
import { getLora, getSettings } from '../lib/server.js'
import { parts } from '../picker/file_name.js'
import { acting, changed } from './text.js'

/** @typedef {import('./text.js').Row} Row */
/** @typedef {import('./stack.js').StackView} StackView */

const FINEST = 0.0001

export class Scaling {
  /** @param {StackView} stack */
  constructor(stack) {
    this.stack = stack
  }

  /** All rows, on or off. @param {number} by */
  multiply(by) {
    this.stack.write(scaled(this.stack.rows, by))
  }

  /** The rows that act, so that their strengths add up to a total. @param {number} total */
  normalise(total) {
    const { rows } = this.stack
    const acts = acting(rows)
    const sum = (/** @type {(row: Row) => boolean} */ of) =>
      rows.reduce(
        (found, row, at) => found + (acts[at] && row.kind === 'lora' && of(row) ? Math.abs(row.model ?? 1) : 0),
        0,
      )
    const free = sum((row) => !row.locked)
    if (free) this.#scale(Math.max(0, total - sum((row) => row.locked)) / free, acts)
  }

  /** The rows that act, so that together they go as far as one of them at a strength. @param {number} goal */
  async normaliseEnergy(goal) {
    const { stack } = this
    const { rows } = stack
    const acts = acting(rows).map((on, at) => on && rows[at].kind === 'lora' && !rows[at].pick)
    const norms = await Promise.all(rows.map((row, at) => (acts[at] ? normOf(row) : 0)))
    if (rows !== stack.rows || !acts.includes(true)) return
    const unknown = rows[norms.indexOf(null)]
    if (unknown) return stack.complain(t('noEnergy', { name: parts(unknown.file ?? unknown.name ?? '').short }))
    const told = rows.map((row, at) => ({ strength: row.model ?? 1, norm: norms[at] ?? 0, free: isFree(row) }))
    // There is nothing to scale.
    if (!told.some(({ strength, norm, free }, at) => acts[at] && free && strength * norm)) return
    const by = factorFor(told.filter((_, at) => acts[at]), goal)
    if (by === null) stack.complain(t('lockedTooMuch'))
    else this.#scale(by, acts)
  }

  /** @param {number} by @param {boolean[]} which */
  #scale(by, which) {
    this.stack.write(scaled(this.stack.rows, by, which))
  }
}

/** A strength times a factor. @param {number} value @param {number} by */
export const times = (value, by) => snapTo(value * by, FINEST)

/** Rows whose strengths are multiplied; locked ones stay. @param {Row[]} rows @param {number} by @param {boolean[]} [which] all without */
export function scaled(rows, by, which) {
  return rows.map((row, at) => {
    const { model = 1, model_low = null, clip = model } = row
    const change = (!which || which[at]) && isFree(row)
    const low = model_low === null ? null : times(model_low, by)
    return change ? changed(row, { model: times(model, by), model_low: low, clip: times(clip, by) }) : row
  })
}

/** @param {Row} row */
const isFree = (row) => row.kind === 'lora' && !row.locked

/**
 * The norm of a row's change at strength 1; null where its file does not tell.
 *
 * @param {Row} row
 * @returns {Promise<number | null>}
 */
async function normOf({ file, blocks }) {
  const profile = file ? await getLora(file) : null
  if (!file || !profile || profile.error || !profile.norm) return null
  if (!blocks) return profile.norm
  const settings = await getSettings({ text: blocks, family: null, lora: file, seed: 0, invert: false })
  if (settings.error) return null
  const kept = Object.entries(profile.blocks).reduce(
    (sum, [name, { share }]) => sum + share * (settings.values[name] ?? 1) ** 2,
    0,
  )
  return profile.norm * Math.sqrt(kept)
}

/**
 * What to multiply the strengths of some rows by, so that all together change the model as far as one LoRA of their middle size does at a
 * strength: sqrt(sum (strength norm)^2) = goal * sqrt(mean norm^2).
 *
 * @param {{strength: number, norm: number, free: boolean}[]} rows those that act; free: whether this one may be changed
 * @param {number} goal
 * @returns {number | null} null where no factor does that: the others alone go further
 */
function factorFor(rows, goal) {
  const energy = (/** @type {boolean} */ free) =>
    rows.filter((row) => row.free === free).reduce((sum, { strength, norm }) => sum + (strength * norm) ** 2, 0)
  const middle = rows.reduce((sum, { norm }) => sum + norm ** 2, 0) / rows.length
  const [own, other] = [energy(true), energy(false)]
  const wanted = goal ** 2 * middle - other
  return wanted >= 0 ? Math.sqrt(wanted / own) : null
}
