// @ts-check
// Which groups of faders stand in which row, for a width.

/** @typedef {import('../lib/server.js').Layout} Layout */
/** @typedef {import('../lib/server.js').Group} Group */
/** @typedef {import('../lib/server.js').Block} Block */
/** @typedef {{group: Group, blocks: Block[], first: boolean, units: number}} Piece a group, or a part of one; units: widths of a fader */
/** @typedef {{pieces: Piece[], units: number, pitch: number}} PlannedRow pitch: px between neighbouring faders */

/** Px at the left of a row, for the weights' axis. */
export const AXIS = 10
/** Px at the right of a row, for the bars' scale; only where the desk is at least so wide. */
export const SCALE = { width: 24, from: 300 }

/** The fader of a text encoder is this much wider than another, for its name. */
export const ENCODER = 2.2

/** Px between neighbouring faders before another row begins. */
const NARROWEST = 8
/** The same where that saves a row. */
const TIGHTEST = 6.5
const WIDEST = 38
/** A master is this much wider than a fader. */
const MASTER = 1.3
/** Px between groups. */
const GAP = 10
/** A group of one fader has at least this many faders' room, for its name. */
const ALONE = 1.8
/** Pieces beyond which nobody sees the difference, and finding the best rows would take long. */
const MANY = 12
/** Less than this part of a row looks lost alone in the last one. */
const ORPHAN = 0.25

/**
 * A group too long for a row is cut into equal parts; each part goes into the first row with room. A last row that would hold next to
 * nothing is saved by standing closer, or else filled from the row before.
 *
 * @param {Layout} layout
 * @param {number} width px
 * @returns {PlannedRow[]}
 */
export function plan(layout, width) {
  const room = Math.max(width - AXIS - (width < SCALE.from ? 0 : SCALE.width), 140)
  const pieces = cut(layout, room)
  let rows = packed(pieces, room, NARROWEST)
  const tight = packed(pieces, room, TIGHTEST)
  if (tight.length < rows.length) rows = tight
  const last = rows[rows.length - 1]
  const lost = rows.length > 1 && last.units * NARROWEST < ORPHAN * room
  if (lost && pieces.length <= MANY) rows = balanced(pieces, rows.length)
  for (const row of rows) row.pitch = Math.min(WIDEST, (room - GAP * (row.pieces.length - 1)) / row.units)
  return rows
}

/** @param {Layout} layout @param {number} room @returns {Piece[]} */
function cut(layout, room) {
  const found = []
  for (const group of layout.groups) {
    const own = group.name === 'TE' ? ENCODER : 1
    const master = group.blocks.length > 1 ? MASTER : 0
    const parts = Math.ceil((group.blocks.length * own + master) / Math.max(8, room / NARROWEST))
    const size = Math.ceil(group.blocks.length / parts)
    for (let from = 0; from < group.blocks.length; from += size) {
      const blocks = group.blocks.slice(from, from + size)
      const units = Math.max(ALONE, blocks.length * own + (from === 0 ? master : 0))
      found.push({ group, blocks, first: from === 0, units })
    }
  }
  return found
}

/** @param {Piece[]} pieces @param {number} room @param {number} narrowest @returns {PlannedRow[]} */
function packed(pieces, room, narrowest) {
  /** @type {PlannedRow[]} */
  const rows = []
  for (const piece of pieces) {
    const row = rows.find(({ units, pieces }) => units + piece.units <= (room - GAP * pieces.length) / narrowest)
    if (row) {
      row.pieces.push(piece)
      row.units += piece.units
    } else rows.push({ pieces: [piece], units: piece.units, pitch: 0 })
  }
  return rows
}

/** The pieces in their order, in so many rows of which the fullest is as empty as can be. @param {Piece[]} pieces @param {number} count */
function balanced(pieces, count) {
  const total = (/** @type {Piece[]} */ some) => some.reduce((sum, piece) => sum + piece.units, 0)
  /** @type {(from: number, count: number) => {rows: Piece[][], fullest: number}} */
  const best = (from, count) => {
    if (count === 1) return { rows: [pieces.slice(from)], fullest: total(pieces.slice(from)) }
    let found = { rows: /** @type {Piece[][]} */ ([]), fullest: Infinity }
    for (let to = from + 1; to <= pieces.length - count + 1; to++) {
      const own = pieces.slice(from, to)
      const rest = best(to, count - 1)
      const fullest = Math.max(total(own), rest.fullest)
      if (fullest < found.fullest) found = { rows: [own, ...rest.rows], fullest }
    }
    return found
  }
  return best(0, count).rows.map((row) => ({ pieces: row, units: total(row), pitch: 0 }))
}
