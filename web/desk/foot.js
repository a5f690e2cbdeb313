// @ts-check
// The line under the faders: the fader that is pointed at, its weight as a number to type, mute and solo, and what there is to say.
import { attribute, el, setText } from '../lib/dom.js'
import { beginChange, endChange, valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { formatNumber } from './text.js'

export class Foot {
  /** @param {any} desk */
  constructor(desk) {
    this.desk = desk
    this.hint = ''
    /** The fader whose number is being typed: the pointer may be over another by now. @type {string | null} */
    this.typing = null
    this.input = /** @type {HTMLInputElement} */ (el('input', { class: 'strata-input', inputmode: 'decimal', autocomplete: 'off', spellcheck: 'false',
      on: { keydown: (event) => this.typed(event), blur: () => this.endTyping(true) } }))
    this.name = el('b', { class: 'strata-name' })
    this.muteButton = this.button('mute', 'M')
    this.soloButton = this.button('solo', 'S')
    this.readout = el('span', { class: 'strata-readout' })
    this.note = el('div', { class: 'strata-note', role: 'status' })
    this.element = el('div', { class: 'strata-foot' }, this.name, this.input, this.muteButton, this.soloButton, this.readout, this.note)
  }

  /** @param {'mute' | 'solo'} act */
  button(act, text) {
    const run = () => {
      const name = this.desk.target()
      if (name) this.desk[act](this.desk.members(name))
    }
    return el('button', { type: 'button', class: `strata-${act}`, 'data-act': act, text, on: { click: run } })
  }

  say(text) {
    setText(this.readout, text)
  }

  /** What is wrong or worth knowing, then whatever concerns the fader pointed at. */
  draw() {
    const { linked, error, profile, node, lora, settings } = this.desk
    let note = settings?.notes?.[0] ?? ''
    if (linked) note = t('linked')
    else if (error) note = error
    else if (profile?.error) note = profile.error
    else if (valueOf(node, 'invert')) note = t('seeInput')
    else if (!lora) note = t('noLora')
    this.hint = note ? '' : t('hint')
    setText(this.note, note)
    attribute(this.note, 'title', settings?.notes?.join('\n') || note)
    this.note.classList.toggle('wrong', Boolean(error || profile?.error))
    this.point()
  }

  point() {
    const { desk } = this
    const name = desk.target()
    const members = name ? desk.members(name) : []
    desk.element.classList.toggle('pointing', Boolean(name))
    setText(this.name, name ? (name.endsWith('*') ? t('all', { name: name.slice(0, -1) }) : name) : '')
    if (document.activeElement !== this.input) this.input.value = name ? formatNumber(desk.valueOf(name)) : ''
    attribute(this.input, 'aria-label', name ? t('weight', { name }) : t('desk'))
    attribute(this.input, 'disabled', name && desk.enabled ? null : true)
    for (const [button, lit, hint] of [
      [this.muteButton, desk.silence.muted, 'muteHint'],
      [this.soloButton, desk.silence.soloed, 'soloHint']
    ]) {
      attribute(button, 'aria-pressed', members.length > 0 && members.every((member) => lit.has(member)))
      attribute(button, 'title', name ? t(hint, { name }) : null)
      attribute(button, 'disabled', name && desk.enabled ? null : true)
    }
    this.say(name ? this.describe(name, members) : this.hint)
  }

  describe(name, members) {
    const { settings, amounts } = this.desk
    const rules = settings?.fine[name]
    return [amounts?.describe(members), rules && t('finer', { rules: rules.join(', ') })].filter(Boolean).join(' · ')
  }

  // Numbers by keyboard

  /** Starts typing the weight of a fader; first: the key that was pressed on it. */
  type(name, first) {
    this.input.value = first || this.input.value
    this.typing = name
    this.input.focus({ preventScroll: true })
    if (!first) this.input.select()
  }

  typed(event) {
    event.stopPropagation()
    if (event.key !== 'Enter' && event.key !== 'Escape' && event.key !== 'Tab') return
    const name = this.typing ?? this.desk.target()
    this.endTyping(event.key !== 'Escape')
    if (event.key !== 'Tab' && name) {
      event.preventDefault()
      this.desk.strips.sliders.get(name)?.focus({ preventScroll: true })
    }
  }

  endTyping(keep) {
    const { desk } = this
    const name = this.typing ?? desk.target()
    this.typing = null
    const value = Number(this.input.value.replace(',', '.'))
    const wanted = keep && name && desk.enabled && this.input.value.trim() !== '' && Number.isFinite(value)
    if (wanted && value !== desk.valueOf(name)) {
      beginChange()
      desk.change(Object.fromEntries(desk.members(name).map((member) => [member, value])))
      endChange()
    } else this.input.value = name ? formatNumber(desk.valueOf(name)) : ''
  }
}
