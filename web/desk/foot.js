// @ts-check
// The line under the faders: the fader that is pointed at, its weight as a number to type, mute and solo, and what there is to say.
import { attribute, el, flag, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { NumberField } from '../lib/number_field.js'

/** @typedef {import('./desk.js').DeskView} DeskView */

export class Foot {
  /** What to say about no fader in particular. */
  #hint = ''
  /** What a hand's last wish failed with. */
  #complaint = ''
  /** What a hand's last wish came to, where that needs more words than a line has. */
  #news = ''
  /** The fader whose number is being typed: the pointer may be over another by now. @type {string | null} */
  #typing = null

  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
    this.field = new NumberField({
      label: t('desk'),
      take: (value) => {
        const name = this.#typing
        if (name && desk.enabled) desk.change(desk.at(name, value))
      },
      refuse: (message) => this.complain(message),
      left: (key) => this.#left(key),
    })
    this.field.element.addEventListener('focus', () => (this.#typing ??= desk.target()))
    this.field.element.addEventListener('blur', () => (this.#typing = null))
    this.name = el('b', { class: 'strata-name' })
    this.mute = this.#button('mute')
    this.solo = this.#button('solo')
    this.readout = el('span', { class: 'strata-readout' })
    this.note = el('div', { class: 'strata-note', role: 'status' })
    this.element = el(
      'div',
      { class: 'strata-foot' },
      this.name,
      this.field.element,
      this.mute,
      this.solo,
      this.readout,
      this.note,
    )
  }

  /** @param {'mute' | 'solo'} act */
  #button(act) {
    const run = () => {
      const name = this.desk.target()
      if (name && this.desk.enabled) this.desk[act](this.desk.members(name))
    }
    return el('button', { type: 'button', class: `strata-${act}`, 'data-act': act, text: t(act), on: { click: run } })
  }

  /** @param {string} text */
  say(text) {
    setText(this.readout, text)
  }

  /** Says why a wish was not granted, until the next one; an empty text: it is granted now. @param {string} message */
  complain(message) {
    if (message === this.#complaint && !this.#news) return
    this.#complaint = message
    this.#news = ''
    this.draw()
  }

  /** Says what a wish came to, until the next one. @param {string} message */
  tell(message) {
    this.#complaint = ''
    this.#news = message
    this.draw()
  }

  /** What is wrong or worth knowing, then whatever concerns the fader pointed at. */
  draw() {
    const { linked, error, profile, lora, settings } = this.desk
    const { inverted } = this.desk.widgets
    const wrong = this.#complaint || (linked ? '' : error) || profile?.error || ''
    let note = settings?.notes[0] ?? ''
    if (linked) note = t('linked')
    else if (wrong) note = wrong
    else if (this.#news) note = this.#news
    else if (inverted) note = t('inverted', { text: settings?.text || 'default=1' })
    else if (!lora) note = t('noLora')
    this.#hint = note ? '' : t('hint')
    setText(this.note, note)
    attribute(this.note, 'title', settings?.notes.join('\n') || note)
    const isWrong = note !== '' && note === wrong
    this.note.classList.toggle('wrong', isWrong)
    this.element.classList.toggle('talking', isWrong || (note !== '' && note === this.#news) || (inverted && !linked))
    this.point()
    this.desk.height.fit()
  }

  /** Shows the fader that is pointed at. */
  point() {
    const { desk } = this
    const name = this.#typing ?? desk.target()
    const members = name ? desk.members(name) : []
    const usable = Boolean(name && desk.enabled)
    this.element.classList.toggle('pointing', Boolean(name))
    setText(this.name, name ? (name.endsWith('*') ? t('all', { name: name.slice(0, -1) }) : name) : '')
    attribute(this.name, 'title', name)
    this.field.show(name ? desk.valueOf(name) : null)
    attribute(this.field.element, 'aria-label', name ? t('weight', { name }) : t('desk'))
    attribute(this.field.element, 'disabled', usable ? null : true)
    for (const button of [this.mute, this.solo]) {
      const act = button === this.mute ? 'mute' : 'solo'
      const lit = act === 'mute' ? desk.silence.muted : desk.silence.soloed
      flag(button, 'aria-pressed', members.length > 0 && members.every((member) => lit.has(member)))
      attribute(button, 'title', name ? t(`${act}Hint`, { name }) : null)
      attribute(button, 'disabled', usable ? null : true)
    }
    if (name || !this.#hint) this.say(name ? this.#describe(name, members) : '')
    else if (this.readout.textContent !== this.#hint) this.readout.replaceChildren(...sentences(this.#hint))
    this.element.classList.toggle('pictured', desk.picture.bars !== null)
    this.readout.classList.toggle('whole', !name && this.#hint !== '')
    attribute(this.readout, 'title', this.readout.textContent)
  }

  /** @param {string} name @param {string[]} members */
  #describe(name, members) {
    const { settings, amounts, picture } = this.desk
    const rules = settings?.fine[name]
    const carried = picture.bars?.describe(members)
    return [
      carried,
      amounts?.describe(members, Boolean(carried)),
      rules && t('finer', { rules: rules.join(', ') }),
    ].filter(Boolean).join(' · ')
  }

  /** Starts typing the weight of a fader. @param {string} name @param {string} first the key that was pressed on it */
  type(name, first) {
    this.#typing = name
    this.point()
    this.field.start(first)
  }

  /** @param {'Enter' | 'Escape' | 'Tab' | ''} key */
  #left(key) {
    const name = this.#typing
    this.#typing = null
    if (key !== 'Tab' && name) this.desk.strips.sliders.get(name)?.focus({ preventScroll: true })
  }
}

/** One by one, so that a narrow desk shows those that fit whole. @param {string} text */
const sentences = (text) =>
  text.match(/[^.\u3002]+[.\u3002]?\s*/g)?.map((sentence) => el('span', { text: sentence })) ?? []
