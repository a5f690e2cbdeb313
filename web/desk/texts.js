// @ts-check
// Whole weights texts: reset, invert, presets, and the clipboard. Each puts one text into the node, as one step of undo.
import { app } from '../lib/comfy.js'
import { copyText } from '../lib/dom.js'
import { setWidget } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { getSettings } from '../lib/server.js'
import { NONE } from './widgets.js'

/** @typedef {import('./desk.js').DeskView} DeskView */

export class Texts {
  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
  }

  /** Everything back to what an untouched node has. */
  reset() {
    const { desk } = this
    desk.edit(() => {
      desk.silence.forget()
      desk.masters.forget()
      setWidget(desk.node, 'preset', NONE)
      desk.widgets.write('')
    })
  }

  /** 1 minus each weight that acts now. A node that says so by its switch gets its own text back instead of a second turn. */
  async invert() {
    const { desk } = this
    const question = desk.question()
    if (question.invert) {
      desk.edit(() => setWidget(desk.node, 'invert', false))
      return
    }
    const settings = await getSettings({ ...question, invert: true })
    if (settings.error) desk.foot.complain(settings.error)
    else if (same(question, desk.question())) desk.edit(() => desk.widgets.write(settings.text))
  }

  /** A preset, by name: its text goes into the node, so that the workflow outlives the preset. @param {string} name */
  async usePreset(name) {
    const { desk } = this
    const settings = await getSettings({ ...desk.question(), text: name, invert: false })
    if (settings.error) {
      desk.foot.complain(settings.error)
      return
    }
    desk.edit(() => {
      setWidget(desk.node, 'preset', name)
      desk.widgets.write(settings.text)
    })
  }

  /** Whatever can be read becomes names; whatever cannot stays as it is, with its error. @param {string} text */
  async useText(text) {
    const { desk } = this
    const line = text.trim().replace(/\s*\n\s*/g, ' ')
    if (!line) return
    const settings = await getSettings({ ...desk.question(), text: line, invert: false })
    desk.edit(() => desk.widgets.write(settings.error ? text : settings.text))
  }

  /** The text of what acts. */
  copyable() {
    return (this.desk.error ? this.desk.question().text : this.desk.settings?.text) ?? ''
  }

  /** @param {ClipboardEvent} event */
  copied(event) {
    if (event.target instanceof HTMLInputElement) return
    event.clipboardData?.setData('text/plain', this.copyable())
    event.preventDefault()
    event.stopPropagation()
  }

  /** @param {ClipboardEvent} event */
  pasted(event) {
    if (event.target instanceof HTMLInputElement) return
    event.preventDefault()
    event.stopPropagation()
    if (!this.desk.linked) this.useText(event.clipboardData?.getData('text/plain') ?? '')
  }

  async copyAll() {
    if (await copyText(this.copyable())) this.desk.foot.say(t('copied'))
  }

  async pasteFromClipboard() {
    let text = null
    try {
      text = await navigator.clipboard.readText()
    } catch {
      const question = { title: t('desk'), message: t('pasteHere'), defaultValue: '' }
      text = await app.extensionManager?.dialog.prompt(question)
    }
    if (text) this.useText(text)
  }
}

/** @param {object} one @param {object} other */
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other)
