// @ts-check
// What hands do to the rows of a stack. Each edit makes other rows of those that are there, and has the stack write them: one step of undo.
import { t } from '../lib/i18n.js'
import { getTag } from '../lib/server.js'
import { chooseLora } from '../picker/picker.js'
import { paired } from './pair.js'
import { acting, changed, groupAt, headingOf, isPlainTime, isPlainWeights, rowOf } from './text.js'

/** @typedef {import('./text.js').Row} Row */
/** @typedef {import('./stack.js').StackView} StackView */

export class Edits {
  /** @param {StackView} stack */
  constructor(stack) {
    this.stack = stack
  }

  // Of one row

  /** @param {number} at @param {Partial<Row>} changes */
  change(at, changes) {
    const { stack } = this
    stack.write(stack.rows.map((row, other) => (other === at ? changed(row, changes) : row)))
  }

  /** @param {number} at */
  toggle(at) {
    this.change(at, { on: !this.stack.rows[at].on })
  }

  /** @param {number} at @param {'model' | 'model_low' | 'clip'} which @param {number} value */
  setStrength(at, which, value) {
    const { model, clip } = this.stack.rows[at]
    const both = which === 'model' && model === clip && !this.stack.clips.has(at)
    this.change(at, both ? { model: value, clip: value } : { [which]: value })
  }

  /** The text encoders' strength on its own, or the model's again. @param {number} at */
  separate(at) {
    const { rows, clips } = this.stack
    const { model, clip } = rows[at]
    if (model !== clip) {
      clips.delete(at)
      this.change(at, { clip: model })
    } else {
      if (!clips.delete(at)) clips.add(at)
      this.stack.draw()
    }
  }

  /** @param {number} at @param {string} value @returns {Promise<string>} what is wrong with it, or an empty text: then it is written */
  async setBlocks(at, value) {
    const row = this.stack.rows[at]
    const text = value.trim()
    let tail = text && `:lbw=${text}`
    if (!isPlainWeights(text)) {
      const answer = await getTag('x', text)
      if (answer.error) return answer.error
      if (this.stack.rows[at] !== row) return ''
      tail = answer.tail
    }
    this.change(at, { tail: (row.front ?? '') + tail + (row.rest ?? ''), blocks: text || null })
    return ''
  }

  /** A strength over time as text. @param {number} at @param {string} value @returns {Promise<string>} as of block weights */
  async setTime(at, value) {
    const row = this.stack.rows[at]
    const { tail, error } = await getTag('x', row.blocks ?? null, value.trim() || null, row.mask ?? null)
    if (error) return error
    if (this.stack.rows[at] !== row) return ''
    this.change(at, { tail, rest: tail.slice(blocksOf(row).length), time: value.trim() || null })
    // It is always written so.
    this.stack.refresh()
    return ''
  }

  /** Which of the connected masks says where the row acts. @param {number} at @param {string} value @returns {Promise<string>} as of block weights */
  async setMask(at, value) {
    const row = this.stack.rows[at]
    const { tail: front, error } = await getTag('x', null, null, value.trim() || null)
    if (error) return error
    if (this.stack.rows[at] !== row) return ''
    const { tail = '', front: before = '' } = row
    this.change(at, { tail: front + tail.slice(before.length), front, mask: front.slice(':mask='.length) || null })
    return ''
  }

  /** A strength over time as the curve writes it, at once: it may be in the middle of a drag. @param {number} at @param {string} time */
  setCurve(at, time) {
    if (!isPlainTime(time)) return void this.setTime(at, time)
    const rest = time && `:at=${time.replace(': ', ':')}`
    this.change(at, { tail: blocksOf(this.stack.rows[at]) + rest, rest, time: time || null })
  }

  /** Another file for a row, of which only the name is known yet. @param {number} at @param {string} name @param {string} head of its tag */
  useFile(at, name, head) {
    this.change(at, { head, name, file: name, missing: '', near: [] })
    this.stack.refresh()
  }

  /** @param {number} at */
  async pickFolder(at) {
    const row = this.stack.rows[at]
    if (row.pick) return this.change(at, { pick: false })
    const name = (row.file ?? row.name ?? '').replaceAll('\\', '/')
    const pattern = `${name.slice(0, name.lastIndexOf('/') + 1)}*`
    const { head } = await getTag(pattern, null)
    if (this.stack.rows[at] !== row) return
    this.change(at, { pick: true, head, name: pattern })
    this.stack.refresh()
  }

  /** @param {number | null} at the row to change, null to add @param {HTMLElement} opener */
  choose(at, opener) {
    const { stack } = this
    if (!stack.enabled) return
    chooseLora({
      opener,
      fits: stack.family(),
      several: at === null,
      choose: (found) => {
        const made = rowOf(found)
        if (at === null) return void paired(stack, made).then((row) => this.#append(row))
        const { head, name, file, family, words, strength, low, high, preview } = made
        const known = { head, name, file, family, words, strength, low, high, preview, other: null, expert: null }
        this.change(at, { ...known, pick: false, missing: '', near: [], problem: '' })
        // Whether the file is half of a pair is not known yet.
        if (stack.hasPair) stack.refresh()
      },
    })
  }

  /** A line that is no LoRA, written anew; may become several. @param {number} at @param {string} line */
  rewrite(at, line) {
    const { stack } = this
    stack.opened.close()
    stack.replaceAll(stack.rows.map((row, other) => (other === at ? line : row.line)).join('\n'))
  }

  // Of which rows there are, and in what order

  addHeading() {
    this.#append(headingOf(t('newHeading')))
    // It is there to be named.
    this.stack.shownViews().at(-1)?.rename()
  }

  /** A row behind all others; the empty line that a text may end with stays no line between them. @param {Row} row */
  #append(row) {
    const { rows } = this.stack
    this.stack.write([...rows.filter(({ kind }, at) => kind !== 'blank' || at < rows.length - 1), row])
  }

  /** @param {number} at */
  duplicate(at) {
    const { rows, opened } = this.stack
    const [from, end] = groupAt(rows, at)
    opened.closeUnder()
    this.stack.write([...rows.slice(0, end), ...rows.slice(from, end), ...rows.slice(end)])
  }

  /** @param {number} at */
  remove(at) {
    const { stack } = this
    stack.opened.close()
    stack.write(stack.rows.filter((_, other) => other !== at))
    const views = stack.shownViews()
    const next = views[Math.min(at, views.length - 1)]
    if (next) next.focus()
    else stack.add.focus({ preventScroll: true })
  }

  /** A row one place up or down. @param {number} at @param {number} by */
  move(at, by) {
    const { rows } = this.stack
    const [from, end] = groupAt(rows, at)
    if (by < 0 ? from === 0 : end >= rows.length) return
    const moved = this.moveTo(at, by < 0 ? from - 1 : end + 1)
    this.stack.viewOf(moved)?.focus()
  }

  /** Moves a row, or a group with its heading, in front of another row. Gives its new place. @param {number} at @param {number} to */
  moveTo(at, to) {
    const { rows, opened } = this.stack
    const [from, end] = groupAt(rows, at)
    const part = rows.slice(from, end)
    const rest = [...rows.slice(0, from), ...rows.slice(end)]
    const place = to > from ? to - part.length : to
    opened.close()
    this.stack.write([...rest.slice(0, place), ...part, ...rest.slice(place)])
    return place
  }

  someOn() {
    const { rows } = this.stack
    return acting(rows).some((acts, at) => acts && rows[at].kind === 'lora' && !rows[at].locked)
  }

  /** @param {boolean} on */
  switchAll(on) {
    const stays = (/** @type {Row} */ row) => row.locked || (row.kind !== 'lora' && !(on && row.kind === 'heading'))
    this.stack.write(this.stack.rows.map((row) => (stays(row) ? row : changed(row, { on }))))
  }
}

/** The tail of a row's tag up to what stands behind its block weights. @param {Row} row */
const blocksOf = ({ tail = '', rest = '' }) => tail.slice(0, tail.length - rest.length)
