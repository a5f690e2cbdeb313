// @ts-check
// What the picker leaves out: by family, by size, and all but copies or files that no model can use. Copies need every file to be read, which is
// started, watched and stopped here.
import { attribute, el, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { compareContents } from '../lib/server.js'

/** @typedef {import('../lib/server.js').FoundPage} FoundPage */
/** @typedef {import('../lib/server.js').Reading} Reading */

const SIZES = /** @type {const} */ (['small', 'middle', 'large', 'huge'])
const SHOWN = /** @type {const} */ (['all', 'copies', 'unusable'])
/** What the server calls files of no family that is known. */
const UNKNOWN = '?'

export class Filters {
  #families = ''

  /** @param {() => void} changed what is asked for is another, or may be */
  constructor(changed) {
    this.changed = changed
    this.shown = this.#select('pickerShown', SHOWN.map((name) => [name, t(`shown_${name}`)]))
    this.family = this.#select('family', [['', t('anyFamily')]])
    this.size = this.#select('size', [['', t('anySize')], ...SIZES.map((name) => [name, t(`size_${name}`)])])
    this.element = el('div', { class: 'strata-lead strata-filters' }, this.shown, this.family, this.size)
    this.said = el('span', { role: 'status' })
    this.go = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'compare',
      on: { click: () => this.#press() },
    })
    this.reading = el('div', { class: 'strata-lead strata-reading', hidden: true }, this.said, this.go)
    /** @type {Reading | null} */
    this.state = null
  }

  /** @param {'pickerShown' | 'family' | 'size'} label @param {string[][]} options */
  #select(label, options) {
    return el(
      'select',
      {
        class: 'strata-select',
        'aria-label': t(label),
        title: t(label),
        'data-filter': label,
        on: { change: () => this.changed() },
      },
      ...options.map(([value, text]) => el('option', { value, text })),
    )
  }

  /** For the next who chooses a file. */
  clear() {
    this.shown.value = 'all'
    this.family.value = this.size.value = ''
    this.#draw()
  }

  /** As a question to the server. */
  get asked() {
    return { shown: this.shown.value, family: this.family.value, size: this.size.value }
  }

  get isBusy() {
    return Boolean(this.state?.stage)
  }

  /** @param {FoundPage} answer */
  show({ families, contents }) {
    const key = JSON.stringify(families)
    if (key !== this.#families) {
      this.#families = key
      const before = this.family.value
      this.family.replaceChildren(
        el('option', { value: '', text: t('anyFamily') }),
        ...families.map(([name, count]) =>
          el('option', { value: name, text: `${name === UNKNOWN ? t('noFamily') : name} (${count})` })
        ),
      )
      // One that has gone is shown as what it is: nothing is of it.
      if (before && !families.some(([name]) => name === before)) {
        this.family.append(el('option', { value: before, text: before }))
      }
      this.family.value = before
    }
    this.#take(contents)
  }

  /** @param {Reading} state */
  #take(state) {
    this.state = state
    this.#draw()
  }

  #draw() {
    const { state } = this
    attribute(this.reading, 'hidden', state && (this.shown.value === 'copies' || state.stage) ? null : true)
    if (!state) return
    const { stage, waiting, done, total, problem, known } = state
    const numbers = { done, total }
    setText(
      this.said,
      stage && waiting ?
        t('readingWaits', numbers) :
        stage === 'read' ?
        t('readingFiles', numbers) :
        stage ?
        t('comparingFiles', numbers) :
        problem ?
        t('readingFailed', { problem }) :
        known ?
        t('filesCompared', { known }) :
        t('filesNotCompared'),
    )
    this.said.classList.toggle('wrong', !stage && problem !== '')
    setText(this.go, t(stage ? 'stopReading' : known ? 'compareAgain' : 'compareFiles'))
    attribute(this.go, 'title', t(stage ? 'stopReadingHint' : 'compareFilesHint'))
  }

  async #press() {
    const state = await compareContents(!this.isBusy)
    if ('error' in state) return setText(this.said, String(state.error))
    this.#take(state)
    this.changed()
  }
}

/** Of which file another is a copy, and in which way. @param {NonNullable<import('../lib/server.js').Found['copy']>} copy @param {string} name @param {(name: string) => string} short */
export function copyText({ first, count, how, cosine, scale }, name, short) {
  if (first === name) return t(count === 2 ? 'copyFirst' : 'copyFirstOf', { count: count - 1 })
  if (how === 'data') return t('copyData', { first: short(first) })
  const alike = cosine === undefined ? '' : t('copyAlike', { percent: (100 * Math.abs(cosine)).toFixed(1) })
  const times = (scale ?? 1) * ((cosine ?? 1) < 0 ? -1 : 1)
  const strength = Math.abs(times - 1) < 0.005 ? '' : t('copyStrength', { times: Number(times.toPrecision(3)) })
  return [t('copyContent', { first: short(first) }), alike, strength].filter(Boolean).join(' \u00b7 ')
}
