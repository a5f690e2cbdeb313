// @ts-check
// The picture: rows of groups of faders, from a layout, and their state, from settings. Knows nothing of nodes or of hands.
import { attribute, el, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'

/** @typedef {import('../lib/server.js').Layout} Layout @typedef {import('../lib/server.js').Settings} Settings */

const NARROWEST = 8 // px between neighbouring faders before another row begins
const WIDEST = 38
const MASTER = 1.3 // a master is this much wider than a fader
const GAP = 10 // px between groups
const LABELLED = 14 // px that a number of two digits under a fader needs
const ALONE = 1.8 // a group of one fader has at least this many faders' room, for its name
/** Px that so many rows need. */
export const rowsHeight = (rows) => (rows === 1 ? 148 : rows * 110)
/** Weights that are always in reach; more where a weight lies outside. */
const USUAL = [-0.5, 1.5]

export class Strips {
  constructor() {
    this.element = el('div', { class: 'strata-rows' })
    /** @type {Map<string, HTMLElement>} faders and masters by name ("IN04", "IN*") */
    this.sliders = new Map()
    /** @type {Map<string, {mute: HTMLElement, solo: HTMLElement}>} */
    this.buttons = new Map()
    /** @type {Layout | null} */
    this.layout = null
    /** Until a layout says how many: as many as any needs in a new node, so that the node need not grow then. */
    this.rows = 2
    this.width = 0
    this.range = USUAL
    /** @type {[number, number]} */
    this.shown = [NaN, NaN]
  }

  /** Builds the faders of a layout for a width; cheap where nothing changed. @param {Layout} layout */
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

  rebuild(rows) {
    const focused = this.nameOf(document.activeElement)
    this.sliders.clear()
    this.buttons.clear()
    this.element.replaceChildren(
      ...rows.map((row) => el('div', { class: 'strata-row' }, ...row.pieces.map((piece) => this.group(piece))))
    )
    this.fit(rows)
    this.shown = [NaN, NaN]
    if (focused) this.sliders.get(focused)?.focus({ preventScroll: true })
  }

  group({ group, blocks, first }) {
    const many = group.blocks.length > 1
    const sliders = blocks.map((block, at) => this.fader(group, block, at))
    if (many && first) sliders.unshift(this.master(group))
    const head = el('div', { class: 'strata-head' }, el('span', { text: group.name === 'OTHER' ? '···' : group.name, title: group.name }))
    if (many && first && blocks.length > 3) {
      const name = t('all', { name: group.name })
      const mute = button('mute', group.name, t('muteHint', { name }))
      const solo = button('solo', group.name, t('soloHint', { name }))
      head.append(mute, solo)
      this.buttons.set(group.name, { mute, solo })
    }
    return el('div', { class: 'strata-group', role: 'group', 'aria-label': group.name, 'data-group': group.name }, head,
      el('div', { class: 'strata-faders' }, ...sliders))
  }

  fader(group, block, at) {
    const number = block.name.startsWith('TE:') ? block.name.slice(3).replace('clip_', '').slice(0, 2) : /\d+$/.exec(block.name)?.[0] ?? ''
    const label = number && /^\d+$/.test(number) ? String(Number(number)) : number
    const slider = el('div', { class: 'strata-fader', role: 'slider', tabindex: 0, 'aria-orientation': 'vertical',
      'aria-label': t('weight', { name: block.name }), 'data-name': block.name, 'data-fifth': Number(label) % 5 === 0 || at === 0 },
      el('div', { class: 'strata-track' }, el('i', { class: 'strata-energy' }), el('i', { class: 'strata-fill' }), el('i', { class: 'strata-cap' })),
      el('span', { class: 'strata-number', text: label }))
    this.sliders.set(block.name, slider)
    return slider
  }

  master(group) {
    const name = `${group.name}*`
    const slider = el('div', { class: 'strata-fader strata-master', role: 'slider', tabindex: 0, 'aria-orientation': 'vertical',
      'aria-label': t('weight', { name: t('all', { name: group.name }) }), 'data-name': name },
      el('div', { class: 'strata-track' }, el('i', { class: 'strata-fill' }), el('i', { class: 'strata-cap' })),
      el('span', { class: 'strata-number', text: '∗' }))
    this.sliders.set(name, slider)
    return slider
  }

  /** Widths of groups in proportion to what they hold. */
  fit(rows) {
    rows.forEach((row, at) => {
      const element = /** @type {HTMLElement} */ (this.element.children[at])
      row.pieces.forEach((piece, index) => {
        const group = /** @type {HTMLElement} */ (element.children[index])
        group.style.width = `${(piece.units * row.pitch).toFixed(2)}px`
        group.style.setProperty('--pitch', `${row.pitch.toFixed(2)}px`)
        group.classList.toggle('sparse', row.pitch < LABELLED)
        group.classList.toggle('narrow', piece.units * row.pitch < 74)
      })
    })
  }

  /**
   * @param {Settings} settings
   * @param {import('./amounts.js').Amounts | null} amounts of the LoRA in each block; null where no LoRA is known
   * @param {{muted: Set<string>, soloed: Set<string>, frozen: boolean}} state frozen: a hand holds a fader, so the scale stays
   */
  draw(settings, amounts, state) {
    if (!state.frozen) this.range = rangeOf(Object.values(settings.values))
    const [low, high] = this.range
    if (this.shown[0] !== low || this.shown[1] !== high) {
      this.shown = [low, high]
      this.element.style.setProperty('--zero', `${(100 * -low) / (high - low)}%`)
      this.element.style.setProperty('--one', `${(100 * (1 - low)) / (high - low)}%`)
    }
    for (const group of this.layout?.groups ?? []) {
      for (const block of group.blocks) {
        const slider = this.sliders.get(block.name)
        if (!slider) continue
        const value = settings.values[block.name] ?? 1
        this.place(slider, value)
        slider.classList.toggle('absent', amounts !== null && !amounts.has(block.name))
        slider.classList.toggle('fine', block.name in settings.fine)
        slider.classList.toggle('muted', state.muted.has(block.name))
        slider.style.setProperty('--energy', (amounts?.height(block.name) ?? 0).toFixed(4))
      }
      const names = group.blocks.map((block) => block.name)
      const master = this.sliders.get(`${group.name}*`)
      if (master) {
        this.place(master, peak(names.map((name) => settings.values[name] ?? 1)))
        master.classList.toggle('mixed', new Set(names.map((name) => settings.values[name])).size > 1)
      }
      const buttons = this.buttons.get(group.name)
      if (buttons) {
        attribute(buttons.mute, 'aria-pressed', names.every((name) => state.muted.has(name)))
        attribute(buttons.solo, 'aria-pressed', state.soloed.size === names.length && names.every((name) => state.soloed.has(name)))
      }
    }
  }

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

  /** @param {any} element @returns {string | undefined} the fader that an element is or lies in */
  nameOf(element) {
    const slider = element?.closest?.('[role=slider]')
    return slider && this.element.contains(slider) ? slider.dataset.name : undefined
  }

  /** Where the faders are on the screen right now, for hands. */
  geometry() {
    return [...this.sliders].map(([name, slider]) => {
      const strip = slider.getBoundingClientRect()
      const track = slider.firstElementChild?.getBoundingClientRect() ?? strip
      return { name, left: strip.left, right: strip.right, top: track.top, bottom: track.bottom }
    })
  }
}

function button(kind, group, title) {
  return el('button', { type: 'button', class: `strata-${kind}`, 'data-act': kind, 'data-names': group, title, 'aria-label': title,
    'aria-pressed': false, tabindex: -1, text: kind === 'mute' ? 'M' : 'S' })
}

/** The weight of greatest size: what a group's master shows and scales. */
export const peak = (values) => values.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0)

/** Half steps beyond whatever lies outside the usual. */
function rangeOf(values) {
  const low = Math.min(USUAL[0], ...values.map((value) => Math.floor(value * 2) / 2))
  const high = Math.max(USUAL[1], ...values.map((value) => Math.ceil(value * 2) / 2))
  return [Math.max(low, -100), Math.min(high, 100)]
}

/**
 * Which groups stand in which row. A group too long for a row is cut into equal parts; each part goes into the first row with room.
 * @param {Layout} layout
 * @returns {{pieces: {group: any, blocks: any[], first: boolean, units: number}[], pitch: number}[]}
 */
export function plan(layout, width) {
  const room = Math.max(width, 160)
  const rows = /** @type {any[]} */ ([])
  for (const group of layout.groups) {
    const many = group.blocks.length > 1 ? MASTER : 0
    const parts = Math.ceil((group.blocks.length + many) / Math.max(8, room / NARROWEST))
    const size = Math.ceil(group.blocks.length / parts)
    for (let from = 0; from < group.blocks.length; from += size) {
      const blocks = group.blocks.slice(from, from + size)
      const piece = { group, blocks, first: from === 0, units: Math.max(ALONE, blocks.length + (from === 0 ? many : 0)) }
      const fits = (row) => row.units + piece.units <= (room - GAP * row.pieces.length) / NARROWEST
      let row = rows.find(fits)
      if (!row) rows.push((row = { pieces: [], units: 0 }))
      row.pieces.push(piece)
      row.units += piece.units
    }
  }
  for (const row of rows) row.pitch = Math.min(WIDEST, (room - GAP * (row.pieces.length - 1)) / row.units)
  return rows
}
