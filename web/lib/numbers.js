// @ts-check
// Weights and strengths as people type and read them.

/** No strength and no weight lies beyond this, to either side. */
export const LIMIT = 100

/** The shortest text of a number that reads back as the same number. @param {number} value */
export const formatNumber = (value) => String(Object.is(value, -0) ? 0 : value)

/**
 * To a step, without the dust of binary fractions, and within the limit.
 *
 * @param {number} value
 * @param {number} step
 */
export const snapTo = (value, step) => bounded(Number((Math.round(value / step) * step).toFixed(4)))

/** @param {number} value */
export const bounded = (value) => Math.min(LIMIT, Math.max(-LIMIT, value))

/**
 * A typed number; a comma is a decimal point, and the minus sign of typography one of arithmetic.
 *
 * @param {string} text
 * @param {number} [limit]
 * @returns {number | null} null for what is no number within the limit
 */
export function readNumber(text, limit = LIMIT) {
  const plain = text.trim().replace(',', '.').replace(/^[\u2212\u2013]/, '-')
  if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain)) return null
  const value = Number(plain)
  return Number.isFinite(value) && Math.abs(value) <= limit ? value : null
}
