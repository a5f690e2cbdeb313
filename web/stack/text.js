// @ts-check
// The lines of a LoRA stack as they are written. The server reads them (lora_math/rows_text.py); the browser only writes.
import { formatNumber } from '../lib/numbers.js'

/**
 * @typedef {object} Row one line, as the server describes it
 * @property {string} line as it is written
 * @property {'lora' | 'heading' | 'note' | 'prompt' | 'version' | 'blank' | 'unread'} kind
 * @property {boolean} on its own switch, whatever its heading says
 * @property {boolean} locked
 * @property {boolean} pick
 * @property {string} title of a heading
 * @property {string} note
 * @property {string} problem
 * @property {string} [name] as the tag has it
 * @property {string} [head] the tag up to its strengths
 * @property {number} [model]
 * @property {number | null} [model_low] of the low-noise model where the row is for a pair of models
 * @property {number} [clip]
 * @property {string} [tail] the tag behind its strengths, without its >
 * @property {string} [front] the tail before its block weights
 * @property {string | null} [mask] the mask that the front chooses
 * @property {string | null} [blocks] the block weights in the tail
 * @property {string} [rest] the tail behind those
 * @property {string | null} [time] the strength over time in the tail
 * @property {string | null} [file] what the name stands for here, null where it stands for nothing
 * @property {string} [missing] why
 * @property {{name: string, tag: string}[]} [near] files of almost that name
 * @property {string | null} [other] the file of the other half of a pair
 * @property {'high' | 'low' | null} [expert] which model of a pair its file is for
 * @property {number} [count] of the files that a row picks from
 * @property {string | null} [family]
 * @property {string[]} [words]
 * @property {number | null} [strength] recommended
 * @property {number | null} [low]
 * @property {number | null} [high]
 * @property {import('../lib/server.js').Preview | null} [preview]
 * @property {string[]} [lines] of a prompt's tags
 */

/** @param {Row[]} rows */
export const textOf = (rows) => rows.map((row) => row.line).join('\n')

/** The row with some things changed, and its line written anew. @param {Row} row @param {Partial<Row>} changes @returns {Row} */
export function changed(row, changes) {
  const found = { ...row, ...changes }
  return { ...found, line: lineOf(found) }
}

/** @param {Row} row */
function lineOf(row) {
  const words = `${row.on ? '' : 'off '}${row.locked ? 'lock ' : ''}${row.pick ? 'pick ' : ''}`
  if (row.kind === 'heading') return `${words}# ${oneLine(row.title)}`.trimEnd()
  if (row.kind !== 'lora') return row.line
  const note = oneLine(row.note)
  return `${words}${tagOf(row)}${note ? ` // ${note}` : ''}`
}

/** @param {Partial<Row>} row @param {boolean} [clipFirst] in which order two different strengths are written */
export function tagOf({ head = '', tail = '', model = 1, model_low = null, clip = model }, clipFirst = false) {
  const low = model_low === null ? '' : `;${formatNumber(model_low)}`
  const strengths = [formatNumber(model) + low, formatNumber(clip)].slice(0, model === clip ? 1 : 2)
  if (clipFirst) strengths.reverse()
  return `${head}:${strengths.join(':')}${tail}>`
}

/** @param {string} text */
const oneLine = (text) => text.replace(/\s+/g, ' ').trim()

/** @type {Row} */
const PLAIN = { line: '', kind: 'lora', on: true, locked: false, pick: false, title: '', note: '', problem: '' }

/**
 * A row for a file that was chosen, at the strength that is recommended for it.
 *
 * @param {import('../lib/server.js').Found} found
 */
export function rowOf(found) {
  const { name, tag, family, words, strength = null, low = null, high = null, preview } = found
  const model = strength ?? 1
  const known = {
    name,
    head: tag,
    model,
    clip: model,
    tail: '',
    file: name,
    family,
    words,
    strength,
    low,
    high,
    preview,
  }
  return changed(PLAIN, known)
}

/** @param {string} title */
export const headingOf = (title) => changed({ ...PLAIN, kind: 'heading' }, { title })

/** Which rows a row's heading switches: itself, or for a heading those under it. @param {Row[]} rows @param {number} at */
export function groupAt(rows, at) {
  let end = at + 1
  if (rows[at].kind === 'heading') { while (end < rows.length && rows[end].kind !== 'heading') end++ }
  return [at, end]
}

/** Whether each row acts, its heading heard. @param {Row[]} rows */
export function acting(rows) {
  let on = true
  return rows.map((row) => {
    if (row.kind === 'heading') on = row.on
    return row.on && on
  })
}

/** Block weights whose text needs no escapes in a tag: the server is asked about all others. @param {string} text */
export const isPlainWeights = (text) => /^(?:[\w*.,=+ -]|TE:[a-z]+[\d_])*$/.test(text)

/** A strength over time whose text needs no escapes in a tag. @param {string} text */
export const isPlainTime = (text) => /^(?:[a-z]+: )?[\w@%., +-]*$/.test(text)

/** A strength over time in a few letters: a preset's name, or what it goes through. @param {string} time */
export function shortTime(time) {
  const values = [...time.matchAll(/(-?[\d.]+(?:e-?\d+)?)@/g)].map((match) => match[1])
  if (!values.length) return time
  if (time.includes('again@')) return `${values.join('\u2192')} \u21bb`
  return values.length > 3 ? `${values[0]}→…→${values[values.length - 1]}` : values.join('→')
}
