// @ts-check
// How much of a LoRA lies in each block: as its share of the whole, or, once a loaded model has told, as how far it changes that block's
// own weights.
import { t } from '../lib/i18n.js'

/** @typedef {import('../lib/server.js').Row} Row */

export class Amounts {
  /** @param {Record<string, Row>} rows by block; blocks in which the LoRA has nothing are missing */
  constructor(rows) {
    this.rows = rows
    /** Whether all is known relative to the model's own weights; half of it would be no picture. */
    this.relative = Object.keys(rows).length > 0 &&
      Object.values(rows).every((row) => Number.isFinite(row.relative))
    this.most = Math.max(0, ...Object.keys(rows).map((name) => this.#size(name)))
  }

  /** @param {string} name */
  has(name) {
    return name in this.rows
  }

  /** A norm, on a scale of its own. @param {string} name */
  #size(name) {
    const row = this.rows[name]
    return row ? (this.relative ? row.relative ?? 0 : Math.sqrt(row.share)) : 0
  }

  /** 0 to 1, of the largest. @param {string} name */
  height(name) {
    return this.most ? this.#size(name) / this.most : 0
  }

  /** One word for what the bars are. */
  get word() {
    return this.relative ? t('barsRelative') : t('barsShare')
  }

  /** What the highest bar stands for, in percent; empty where there is none. */
  get top() {
    return this.most ? percent(this.relative ? this.most : this.most ** 2) : ''
  }

  get hint() {
    return (this.relative ? t('barsRelativeHint') : t('barsShareHint')) +
      (this.top ? `\n${t('barsTop', { top: this.top })}` : '')
  }

  /** In words, of one block or of several together. @param {string[]} names @param {boolean} [brief] beside other words */
  describe(names, brief = false) {
    const rows = names.filter((name) => this.has(name)).map((name) => this.rows[name])
    if (!rows.length) return t('nothing')
    const share = sum(rows.map((row) => row.share))
    if (!this.relative) return t(brief ? 'shareBrief' : 'share', { share: percent(share) })
    // Squared norms add up: the change's is the share, and the weights' is the change's over relative squared.
    const own = sum(rows.map((row) => (row.relative ? row.share / row.relative ** 2 : 0)))
    return t(brief ? 'relativeBrief' : 'relative', { relative: percent(own ? Math.sqrt(share / own) : 0) })
  }
}

/** @param {number[]} numbers */
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0)

/** Two digits: nobody hears more. @param {number} part */
const percent = (part) =>
  part > 0 && part < 0.0001 ? '< 0.01' : String(Number((100 * part).toPrecision(part < 0.995 ? 2 : 3)))
