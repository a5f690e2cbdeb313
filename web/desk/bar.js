// @ts-check
// The bar over the faders: presets, which model and LoRA they are about, what the bars behind them show, and the tools.
import { attribute, el, setText } from '../lib/dom.js'
import { valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { NONE } from './texts.js'

export class Bar {
  /** @param {any} desk */
  constructor(desk) {
    this.desk = desk
    const { texts } = desk
    /** @param {'reset' | 'invert' | 'paste' | 'copy'} name @param {() => void} run */
    const tool = (name, run) =>
      el('button', { type: 'button', class: 'strata-button', 'data-act': name, title: t(`${name}Hint`), text: t(name), on: { click: run } })
    this.openMenu = el('button', { type: 'button', class: 'strata-button', 'data-act': 'presets', 'aria-haspopup': 'dialog',
      on: { click: () => desk.menu.toggle() } })
    this.about = el('span', { class: 'strata-about' })
    this.legend = el('span', { class: 'strata-legend' })
    this.tools = [tool('reset', () => texts.reset()), tool('invert', () => texts.invert()), tool('paste', () => texts.pasteFromClipboard())]
    this.element = el('div', { class: 'strata-bar' }, this.openMenu, this.about, this.legend, ...this.tools, tool('copy', () => texts.copyAll()))
  }

  draw() {
    const { layout, profile, lora, node, linked, amounts } = this.desk
    const parts = [layout?.family ?? '']
    const name = lora?.split(/[\\/]/).pop().replace(/\.\w+$/, '')
    if (profile && !profile.error) {
      const other = profile.family && profile.layout?.family !== layout?.family
      parts.push(other ? t('otherFamily', { lora: name, family: profile.family }) : name)
    }
    setText(this.about, parts.filter(Boolean).join(' · '))
    attribute(this.about, 'title', [lora, profile?.about].filter(Boolean).join('\n'))
    setText(this.legend, amounts?.word ?? '')
    attribute(this.legend, 'title', amounts?.hint ?? null)
    const preset = valueOf(node, 'preset')
    setText(this.openMenu, `${preset && preset !== NONE ? preset : t('presets')} ▾`)
    for (const button of [...this.tools, this.openMenu]) attribute(button, 'disabled', linked ? true : null)
  }
}
