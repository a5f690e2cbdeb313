// @ts-check
// Rows for a pair of models: a strength for each, and the two files that are halves of one LoRA.
import { t } from '../lib/i18n.js'
import { getRows } from '../lib/server.js'
import { changed } from './text.js'

/** @typedef {import('./text.js').Row} Row */
/** @typedef {import('./stack.js').StackView} StackView */

/** A row for a file that was chosen: with its other half where there are two models. @param {StackView} stack @param {Row} made */
export async function paired(stack, made) {
  if (!stack.hasPair) return made
  const answer = await getRows(made.line)
  const read = answer.error ? null : answer.rows[0]
  if (!read?.other) return made
  return changed(made, { other: read.other, expert: read.expert, model_low: made.model })
}

/** Whether a strength for each model means something. @param {StackView} stack @param {Row} row */
export const canPair = (stack, row) => stack.hasPair || Boolean(row.other) || row.model_low != null

/** A strength for each model, or the one of its file alone. @param {StackView} stack @param {number} at */
export function togglePair(stack, at) {
  const { model = 1, model_low } = stack.rows[at]
  stack.edits.change(at, { model_low: model_low == null ? model : null })
}

/** Which file is for which model, or an empty text where a row is for one. @param {Row} row */
export function pairOf({ file, name = '', other, expert, model_low }) {
  if (model_low == null) return ''
  const own = file ?? name
  const [high, low] = !other ? [own, own] : expert === 'low' ? [other, own] : [own, other]
  return t('pairOf', { high, low })
}
