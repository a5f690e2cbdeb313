// @ts-check
// The picture: rows of groups of faders, from a layout, and their state, from settings. Knows nothing of nodes or of hands.
import { attribute, el, flag, icon, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { AXIS, ENCODER, plan, SCALE } from './plan.js'
import { groupName, shortName } from './names.js'

/** @typedef {import('../lib/server.js').Layout} Layout */
/** @typedef {import('../lib/server.js').Group} Group */
/** @typedef {import('../lib/server.js').Block} Block */
/** @typedef {import('../lib/server.js').Settings} Settings */
/** @typedef {import('./amounts.js').Amounts} Amounts */
/** @typedef {import('./picture.js').Carried} Carried */
/** @typedef {import('./plan.js').PlannedRow} PlannedRow */
/** @typedef {import('./plan.js').Piece} Piece */
/** @typedef {{name: string, left: number, right: number, top: number, bottom: number}} Place where a fader's track is on the screen, in px */

/** Px that a number of two digits under a fader needs. */
const LABELLED = 14
/** Px that the name of a text encoder needs. */
const NAMED = 27
/** Px that a group's head needs for more than one word. */
const ROOMY = 74
const SPEAKER = 'M11 5 6 9H3v6h3l5 4zM22 9l-6 6M16 9l6 6'
const HEADPHONES = 'M4 18v-6a8 8 0 0 1 16 0v6M4 18v-3h3v5H6a2 2 0 0 1-2-2zM20 18v-3h-3v5h1a2 2 0 0 0 2-2z'
/** Px that so many rows need. @param {number} rows */
export const rowsHeight = (rows) => (rows === 1 ? 148 : rows * 110)
/** Weights that are always in reach; more where a weight lies outside. @type {[number, number]} */
const USUAL = [-0.5, 1.5]

export class Strips {
  constructor() {
    this.element = el('div', { class: 'strata-rows' })
    /** Faders and masters by name ("IN04", "IN*"). @type {Map<string, HTMLElement>} */
    this.sliders = new Map()
    /** @type {Map<string, {mute: HTMLElement, solo: HTMLElement}>} */
    this.buttons = new Map()
    /** @type {Layout | null} */
    this.layout = null
    /** Until a layout says how many: as many as any needs in a new node, so that the node need not grow then. */
    this.rows = 2
    this.width = 0
    this.shape = ''
    /** The weights at the lower and the upper end of a fader. @type {[number, number]} */
    this.range = USUAL
    /** The range for which the page has its lines. @type {[number, number]} */
    this.shown = [NaN, NaN]
  }

  /**
   * Builds the faders of a layout for a width; cheap where nothing changed.
   *
   * @param {Layout} layout
   * @param {number} width
   */
  build(layout, width) {
    if (layout === this.layout && width === this.width) return false
    const rows = plan(layout, width)
    const shape = JSON.stringify(rows.map((row) => row.pieces.map((piece) => [piece.group.name, piece.blocks.length])))
    const same = layout === this.layout && shape === this.shape
    this.layout = layout
    this.width = width
    this.shape = shape
    this.rows = rows.length
    if (same) this.fit(rows)
    else this.rebuild(rows)
    return !same
  }

  /** @param {PlannedRow[]} rows */
  rebuild(rows) {
    const focused = this.nameOf(document.activeElement)
    this.sliders.clear()
    this.buttons.clear()
    this.element.replaceChildren(...rows.map((row) => this.row(row)))
    this.fit(rows)
    this.shown = [NaN, NaN]
    if (focused) this.sliders.get(focused)?.focus({ preventScroll: true })
  }

  /** Groups between two axes: of the weights at their left, of the bars at their right. @param {PlannedRow} row */
  row(row) {
    return el(
      'div',
      { class: 'strata-row' },
      el('div', { class: 'strata-axis', 'aria-hidden': 'true' }, el('i', { text: '1' }), el('i', { text: '0' })),
      ...row.pieces.map((piece) => this.group(piece)),
      el('div', { class: 'strata-scale', 'aria-hidden': 'true' }, el('i'), el('i')),
    )
  }

  /** @param {Piece} piece */
  group({ group, blocks, first }) {
    const many = group.blocks.length > 1
    const sliders = blocks.map((block, at) => this.fader(block, at))
    if (many && first) sliders.unshift(this.master(group))
    const { code, word } = groupName(group.name)
    const full = [code, word].filter(Boolean).join(' ')
    const head = el(
      'div',
      { class: 'strata-head', title: full },
      el('b', { text: code }),
      el('span', { text: word }),
    )
    if (many && first && blocks.length > 3) {
      const name = t('all', { name: full })
      const mute = button('mute', group.name, t('muteHint', { name }))
      const solo = button('solo', group.name, t('soloHint', { name }))
      head.append(mute, solo)
      this.buttons.set(group.name, { mute, solo })
    }
    return el(
      'div',
      { class: 'strata-group', role: 'group', 'aria-label': full, 'data-group': group.name },
      head,
      el('div', { class: 'strata-faders' }, ...sliders),
    )
  }

  /** @param {Block} block @param {number} at */
  fader(block, at) {
    const { before, label } = shortName(block.name)
    const slider = el(
      'div',
      {
        class: 'strata-fader',
        role: 'slider',
        tabindex: 0,
        'aria-orientation': 'vertical',
        'aria-label': t('weight', { name: block.name }),
        'data-name': block.name,
        // The first of a part has its number too, unless the next one's would touch it.
        'data-fifth': Number(label) % 5 === 0 || (at === 0 && Number(label) % 5 < 3),
      },
      el(
        'div',
        { class: 'strata-track' },
        el('i', { class: 'strata-energy' }),
        el('i', { class: 'strata-carried' }),
        el('i', { class: 'strata-fill' }),
        el('i', { class: 'strata-cap' }),
      ),
      el('span', { class: 'strata-number' }, before && el('small', { text: before }), label),
    )
    this.sliders.set(block.name, slider)
    return slider
  }

  /** @param {Group} group */
  master(group) {
    const name = `${group.name}*`
    const slider = el(
      'div',
      {
        class: 'strata-fader strata-master',
        role: 'slider',
        tabindex: 0,
        'aria-orientation': 'vertical',
        'aria-label': t('weight', { name: t('all', { name: group.name }) }),
        'data-name': name,
      },
      el('div', { class: 'strata-track' }, el('i', { class: 'strata-fill' }), el('i', { class: 'strata-cap' })),
      el('span', { class: 'strata-number', text: t('every') }),
    )
    this.sliders.set(name, slider)
    return slider
  }

  /** Widths of groups in proportion to what they hold. @param {PlannedRow[]} rows */
  fit(rows) {
    rows.forEach((row, at) => {
      const groups = this.element.children[at].querySelectorAll('.strata-group')
      row.pieces.forEach((piece, index) => {
        const group = /** @type {HTMLElement} */ (groups[index])
        group.style.width = `${(piece.units * row.pitch).toFixed(2)}px`
        group.style.setProperty('--pitch', `${row.pitch.toFixed(2)}px`)
        const isEncoders = piece.group.name === 'TE'
        group.classList.toggle('sparse', isEncoders ? row.pitch * ENCODER < NAMED : row.pitch < LABELLED)
        group.classList.toggle('narrow', piece.units * row.pitch < ROOMY)
      })
    })
    this.element.classList.toggle('unscaled', this.width < SCALE.from)
    this.element.style.setProperty('--axis', `${AXIS}px`)
    this.element.style.setProperty('--scale', `${SCALE.width}px`)
  }

  /**
   * @param {Settings} settings
   * @param {Amounts | null} amounts of the LoRA in each block; null where no LoRA is known
   * @param {Carried | null} carried which blocks carry the picture; null where no sweep has told
   * @param {{muted: Set<string>, soloed: Set<string>, frozen: boolean}} state frozen: a hand holds a fader, so the scale stays
   */
  draw(settings, amounts, carried, state) {
    if (!state.frozen) this.range = rangeOf(Object.values(settings.values))
    const [low, high] = this.range
    if (this.shown[0] !== low || this.shown[1] !== high) {
      this.shown = [low, high]
      this.element.style.setProperty('--zero', `${(100 * -low) / (high - low)}%`)
      this.element.style.setProperty('--one', `${(100 * (1 - low)) / (high - low)}%`)
      // 0 and 1 would stand on each other.
      this.element.classList.toggle('tall', high - low > 12)
    }
    const top = amounts?.top ? `${amounts.top}%` : ''
    for (const scale of this.element.querySelectorAll('.strata-scale')) {
      setText(scale.children[0], top)
      setText(scale.children[1], top && '0')
      attribute(scale, 'title', amounts?.hint)
    }
    this.element.classList.toggle('pictured', carried !== null)
    this.element.classList.toggle('old-picture', carried?.old === true)
    for (const group of this.layout?.groups ?? []) this.#drawGroup(group, settings, amounts, carried, state)
  }

  /**
   * @param {Group} group
   * @param {Settings} settings
   * @param {Amounts | null} amounts
   * @param {Carried | null} carried
   * @param {{muted: Set<string>, soloed: Set<string>}} state
   */
  #drawGroup(group, settings, amounts, carried, { muted, soloed }) {
    for (const block of group.blocks) {
      const slider = this.sliders.get(block.name)
      if (!slider) continue
      this.place(slider, settings.values[block.name] ?? 1)
      slider.classList.toggle('absent', amounts !== null && !amounts.has(block.name))
      slider.classList.toggle('fine', block.name in settings.fine)
      slider.classList.toggle('muted', muted.has(block.name))
      slider.style.setProperty('--energy', (amounts?.height(block.name) ?? 0).toFixed(4))
      slider.style.setProperty('--picture', (carried?.height(block.name) ?? 0).toFixed(4))
    }
    const names = group.blocks.map((block) => block.name)
    const master = this.sliders.get(`${group.name}*`)
    if (master) {
      this.place(master, peak(names.map((name) => settings.values[name] ?? 1)))
      master.classList.toggle('mixed', new Set(names.map((name) => settings.values[name])).size > 1)
    }
    const buttons = this.buttons.get(group.name)
    if (buttons) {
      flag(buttons.mute, 'aria-pressed', names.every((name) => muted.has(name)))
      flag(buttons.solo, 'aria-pressed', soloed.size === names.length && names.every((name) => soloed.has(name)))
    }
  }

  /** @param {HTMLElement} slider @param {number} value */
  place(slider, value) {
    const [low, high] = this.range
    const at = Math.min(1, Math.max(0, (value - low) / (high - low)))
    slider.style.setProperty('--at', `${(100 * at).toFixed(3)}%`)
    slider.classList.toggle('negative', value < 0)
    slider.classList.toggle('zero', value === 0)
    slider.classList.toggle('unity', value === 1)
    attribute(slider, 'aria-valuemin', low)
    attribute(slider, 'aria-valuemax', high)
    attribute(slider, 'aria-valuenow', value)
    attribute(slider, 'aria-valuetext', String(value))
  }

  /** The fader that an element is or lies in. @param {EventTarget | null} target @returns {string | undefined} */
  nameOf(target) {
    const slider = target instanceof Element ? target.closest('[role=slider]') : null
    return slider instanceof HTMLElement && this.element.contains(slider) ? slider.dataset.name : undefined
  }

  /** Where the faders are on the screen right now, for hands. @returns {Place[]} */
  geometry() {
    return [...this.sliders].map(([name, slider]) => {
      const strip = slider.getBoundingClientRect()
      const track = slider.firstElementChild?.getBoundingClientRect() ?? strip
      return { name, left: strip.left, right: strip.right, top: track.top, bottom: track.bottom }
    })
  }
}

/** @param {'mute' | 'solo'} kind @param {string} group @param {string} title */
function button(kind, group, title) {
  return el('button', {
    type: 'button',
    class: `strata-${kind}`,
    'data-act': kind,
    'data-names': group,
    title,
    'aria-label': title,
    'aria-pressed': 'false',
    tabindex: -1,
  }, icon(kind === 'mute' ? SPEAKER : HEADPHONES))
}

/** The weight of greatest size: what a group's master shows and scales. @param {number[]} values */
export const peak = (values) => values.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0)

/** Half steps beyond whatever lies outside the usual. @param {number[]} values @returns {[number, number]} */
function rangeOf(values) {
  const low = Math.min(USUAL[0], ...values.map((value) => Math.floor(value * 2) / 2))
  const high = Math.max(USUAL[1], ...values.map((value) => Math.ceil(value * 2) / 2))
  return [Math.max(low, -100), Math.min(high, 100)]
}
