// @ts-check
// LoRAs that take turns: one acts for some steps, then the next one, round and round (LoRA Switch, Zhong et al. 2024, arXiv 2402.16843).
import { t } from '../lib/i18n.js'
import { formatNumber } from '../lib/numbers.js'
import { acting, changed } from './text.js'

/** @typedef {import('./text.js').Row} Row */
/** @typedef {import('./stack.js').StackView} StackView */

const TURN = /\bagain@/

/**
 * The rows that act, are not locked and have no strength over time of their own take turns; 0 ends that.
 *
 * @param {StackView} stack
 * @param {number} steps of each turn
 */
export function takeTurns(stack, steps) {
  const { rows } = stack
  const free = freeRows(rows).map((isFree, at) => isFree && !isOwn(rows[at]))
  if (steps === 0) {
    return stack.write(rows.map((row, at) => (free[at] && TURN.test(row.time ?? '') ? withTime(row, '') : row)))
  }
  const count = free.filter(Boolean).length
  if (steps < 1 || !Number.isInteger(steps) || count < 2) return stack.complain(t('turnsNeed'))
  let turn = 0
  stack.write(rows.map((row, at) => (free[at] ? withTime(row, timeOf(turn++, count, steps)) : row)))
}

/** The rows that take no turn, as their strength over time is their own. @param {StackView} stack */
export const keptRows = ({ rows }) =>
  freeRows(rows).flatMap((isFree, at) => (isFree && isOwn(rows[at]) ? [rows[at]] : []))

/** @param {Row[]} rows */
function freeRows(rows) {
  const acts = acting(rows)
  return rows.map((row, at) => acts[at] && row.kind === 'lora' && !row.locked)
}

/** @param {Row} row */
const isOwn = ({ time }) => Boolean(time) && !TURN.test(time ?? '')

/** @param {number} turn from 0 @param {number} count @param {number} steps */
function timeOf(turn, count, steps) {
  const points = [
    ...(turn ? ['0@0s'] : []),
    `1@${formatNumber(turn * steps)}s`,
    ...(turn < count - 1 ? [`0@${formatNumber((turn + 1) * steps)}s`] : []),
  ]
  return `hold: ${points.join(', ')}, again@${formatNumber(count * steps)}s`
}

/** @param {Row} row @param {string} time */
function withTime(row, time) {
  const { tail = '', rest = '' } = row
  const told = time && `:at=${time.replace(': ', ':')}`
  return changed(row, { tail: tail.slice(0, tail.length - rest.length) + told, rest: told, time: time || null })
}
