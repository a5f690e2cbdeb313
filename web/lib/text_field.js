// @ts-check
// Where a multiline text's caret is, and putting things there.
import { valueOf, widgetOf } from './graph.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/**
 * @template {{line: string}} T
 * @typedef {{pieces: string[], tags: T[], caret: number}} Tagged a text as its tags and what stands before, between and behind them
 */

/** The field that a person types a widget's text into, in either renderer. @param {GraphNode} node @param {string} name */
function fieldOf(node, name) {
  const own = widgetOf(node, name)?.element
  if (own instanceof HTMLTextAreaElement && own.isConnected) return own
  const value = String(valueOf(node, name) ?? '')
  const fields = document.querySelectorAll(`[data-node-id="${node.id}"] textarea`)
  for (const field of fields) if (field instanceof HTMLTextAreaElement && field.value === value) return field
  return null
}

/** Where a text's caret is or was last; null where that is unknown. @param {GraphNode} node @param {string} name */
export function caretOf(node, name) {
  const field = fieldOf(node, name)
  return field && field.value === String(valueOf(node, name) ?? '') ? field.selectionEnd : null
}

/**
 * A text with one more tag, as near to a place as can be: behind the tag that the place lies in, and with a space to its sides.
 *
 * @template {{line: string}} T
 * @param {string[]} pieces
 * @param {T[]} tags
 * @param {T} tag
 * @param {number} place
 * @returns {Tagged<T>}
 */
export function withTag(pieces, tags, tag, place) {
  let [at, start] = [0, 0]
  while (at < tags.length && place > start + pieces[at].length) {
    start += pieces[at].length + tags[at].line.length
    at++
  }
  const cut = Math.max(0, Math.min(place - start, pieces[at].length))
  const [before, behind] = [pieces[at].slice(0, cut), pieces[at].slice(cut)]
  const gap = before ? !/\s$/.test(before) : at > 0
  const left = before + (gap ? ' ' : '')
  const right = (behind ? !/^[\s,.;]/.test(behind) : at < tags.length) ? ` ${behind}` : behind
  return {
    pieces: [...pieces.slice(0, at), left, right, ...pieces.slice(at + 1)],
    tags: [...tags.slice(0, at), tag, ...tags.slice(at)],
    caret: start + left.length + tag.line.length,
  }
}

/**
 * A text without one of its tags, and without what only that needed: a comma too many, a second space.
 *
 * @template {{line: string}} T
 * @param {string[]} pieces
 * @param {T[]} tags
 * @param {number} at
 * @returns {{pieces: string[], tags: T[]}}
 */
export function withoutTag(pieces, tags, at) {
  const left = pieces[at].replace(/[ \t]+$/, '')
  let right = pieces[at + 1].replace(/^[ \t]+/, '')
  const [starts, ends] = [at === 0 && !left, at === tags.length - 1 && !right]
  if (right.startsWith(',') && (starts || left.endsWith(','))) right = right.slice(1).replace(/^[ \t]+/, '')
  const joint = starts || ends || left.endsWith('\n') || /^[,\n]/.test(right) ? '' : ' '
  const joined = ends ? left.replace(/,$/, '') : left + joint + right
  return {
    pieces: [...pieces.slice(0, at), joined, ...pieces.slice(at + 2)],
    tags: tags.filter((_, index) => index !== at),
  }
}
