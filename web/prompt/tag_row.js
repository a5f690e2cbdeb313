// @ts-check
// One tag of a prompt on the screen: the file, its family, its strengths. It draws what it is shown, and asks its panel for every change.
import { attribute, el, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { rowMenuButton } from '../lib/menu.js'
import { Strength } from '../lib/strength.js'
import { Badge, misfit } from '../picker/badge.js'
import { FileName, parts } from '../picker/file_name.js'
import { Said } from '../picker/said.js'
import { shortTime } from '../stack/text.js'

/** @typedef {import('../stack/text.js').Row} Row */
/** @typedef {import('./tags.js').TagsView} TagsView */

const REACH = 2

export class TagRow {
  #height = 0

  /** @param {TagsView} panel */
  constructor(panel) {
    this.panel = panel
    this.at = 0
    this.name = new FileName((button) => panel.choose(this.at, button))
    this.family = new Badge()
    this.time = el('span', { class: 'strata-time' })
    const bar = (/** @type {'model' | 'clip'} */ which, /** @type {string} */ label) =>
      new Strength({
        label,
        set: (value) => panel.setStrength(this.at, which, value),
        refuse: (message) => panel.refuse(message),
      })
    this.model = bar('model', t('strengths'))
    this.clip = bar('clip', 'CLIP')
    // One bar needs no name.
    this.model.name.hidden = true
    this.more = rowMenuButton((button) => panel.openMenu(this.at, button))
    this.front = el(
      'div',
      { class: 'strata-front' },
      this.name.element,
      this.time,
      this.family.element,
      this.model.element,
      this.clip.element,
      this.more,
    )
    this.said = new Said(({ name, tag }) => panel.useFile(this.at, name, tag))
    this.element = el(
      'div',
      { class: 'strata-lora', role: 'listitem', on: { keydown: shield } },
      this.front,
      this.said.element,
    )
  }

  /** @param {Row} row @param {number} at @param {{enabled: boolean, model: string | null, relatives: string[][], apart: boolean}} look */
  show(row, at, { enabled, model, relatives, apart }) {
    this.at = at
    const isRead = row.kind === 'lora'
    const wrong = isRead ? row.missing || row.problem : row.problem
    const { short, folder } = isRead ? parts(row.file ?? row.name ?? '') : { short: row.line, folder: '' }
    this.name.show(short, folder, row.preview)
    attribute(this.name.element, 'title', [row.file ?? row.name ?? row.line, wrong].filter(Boolean).join('\n'))
    this.family.show(row.family ?? '', misfit(row.family, model, relatives))
    this.element.classList.toggle('wrong', Boolean(wrong))
    attribute(this.model.element, 'hidden', isRead ? null : true)
    attribute(this.clip.element, 'hidden', isRead && (apart || row.model !== row.clip) ? null : true)
    const time = isRead ? row.time ?? '' : ''
    setText(this.time, shortTime(time))
    attribute(this.time, 'hidden', time ? null : true)
    attribute(this.time, 'title', t('timeOfTag', { time }))
    const hint = row.strength ?? undefined
    for (const [bar, value] of /** @type {const} */ ([[this.model, row.model ?? 1], [this.clip, row.clip ?? 1]])) {
      bar.show({ value, reach: Math.max(REACH, Math.ceil(Math.abs(value))), enabled, hint })
    }
    this.said.show(wrong || '', true, row.near)
  }

  /** px; as it was drawn last: far away, off the screen or collapsed it has none. */
  get height() {
    return (this.#height = this.element.offsetHeight || this.#height)
  }

  dispose() {
    this.name.hide()
    this.model.dispose()
    this.clip.dispose()
  }
}
