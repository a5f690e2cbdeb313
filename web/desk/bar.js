// @ts-check
// The bar over the faders: presets, which model and LoRA they are about, what the bars behind them show, and the tools.
import { attribute, el, flag, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'

/** @typedef {import('./desk.js').DeskView} DeskView */

export class Bar {
  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
    const { texts } = desk
    /** @param {'reset' | 'invert' | 'paste' | 'copy' | 'carries'} name @param {() => void} run */
    const tool = (name, run) =>
      el('button', {
        type: 'button',
        class: 'strata-button',
        'data-act': name,
        title: t(`${name}Hint`),
        text: t(name),
        on: { click: run },
      })
    this.openMenu = el('button', {
      type: 'button',
      class: 'strata-button strata-preset',
      'data-act': 'presets',
      'aria-haspopup': 'dialog',
      on: { click: () => desk.menu.toggle() },
    })
    this.about = el('span', { class: 'strata-about' })
    this.legend = el('span', { class: 'strata-legend' })
    this.pictured = el('span', { class: 'strata-legend strata-legend-picture' })
    this.invert = tool('invert', () => texts.invert())
    this.reset = tool('reset', () => texts.reset())
    this.paste = tool('paste', () => texts.pasteFromClipboard())
    this.carries = tool('carries', () => desk.picture.make())
    this.element = el(
      'div',
      { class: 'strata-bar' },
      this.openMenu,
      this.about,
      this.legend,
      this.pictured,
      el(
        'div',
        { class: 'strata-tools' },
        this.reset,
        this.invert,
        this.paste,
        tool('copy', () => texts.copyAll()),
        this.carries,
      ),
    )
  }

  draw() {
    const { layout, profile, lora, linked, amounts, picture } = this.desk
    const { inverted } = this.desk.widgets
    const parts = [layout?.family ?? '']
    const name = lora?.split(/[\\/]/).pop()?.replace(/\.\w+$/, '') ?? ''
    if (profile && !profile.error) {
      const other = profile.family && profile.layout?.family !== layout?.family
      parts.push(other ? t('otherFamily', { lora: name, family: profile.family ?? '' }) : name)
    }
    setText(this.about, parts.filter(Boolean).join(' · '))
    attribute(this.about, 'title', [lora, profile?.about].filter(Boolean).join('\n'))
    setText(this.legend, amounts?.word ?? '')
    attribute(this.legend, 'title', amounts?.hint)
    setText(this.pictured, picture.bars?.word ?? '')
    attribute(this.pictured, 'title', picture.bars?.hint)
    // It keeps its place without a loader: the desk would be of another height once there is one.
    const used = picture.usedAs() !== null
    attribute(this.carries, 'disabled', used ? null : true)
    attribute(this.carries, 'title', t(used ? 'carriesHint' : 'carriesNoLoader'))
    setText(this.openMenu, `${this.#preset()} ▾`)
    attribute(this.openMenu, 'title', this.#preset())
    flag(this.invert, 'aria-pressed', inverted)
    for (const button of [this.reset, this.invert, this.paste, this.openMenu]) {
      attribute(button, 'disabled', linked ? true : null)
    }
  }

  /** The preset that the weights came from, with a star once they are others. */
  #preset() {
    const { preset } = this.desk.widgets
    if (!preset || this.desk.presetState === 'unknown') return t('presets')
    return this.desk.presetState === 'edited' ? `${preset}*` : preset
  }
}
