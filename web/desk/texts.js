// @ts-check
// Whole weights texts: reset, invert, presets, and the clipboard. Each puts one text into the node, as one step of undo.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'
import { copyText, setWidget } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { getSettings } from '../lib/server.js'

export const NONE = 'none'

export class Texts {
  /** @param {any} desk */
  constructor(desk) {
    this.desk = desk
    this.choosing = false // the preset combo is being set from here
  }

  reset() {
    const { desk } = this
    desk.silence.forget()
    desk.together(() => {
      setWidget(desk.node, 'preset', NONE)
      desk.writeText('')
    })
  }

  async invert() {
    const settings = await getSettings({ ...this.desk.question(), invert: true })
    if (!settings.error) this.desk.together(() => this.desk.writeText(settings.text))
  }

  /** A preset, by name: its text goes into the node, so that the workflow outlives the preset. */
  async usePreset(name) {
    const { desk } = this
    const settings = await getSettings({ ...desk.question(), text: name })
    this.choosing = true
    desk.together(() => {
      setWidget(desk.node, 'preset', name)
      if (!settings.error) desk.writeText(settings.text)
    })
    this.choosing = false
  }

  /** Whatever can be read becomes names; whatever cannot stays as it is, with its error. */
  async useText(text) {
    const { desk } = this
    const line = text.trim().replace(/\s*\n\s*/g, ' ')
    if (!line) return
    const settings = await getSettings({ ...desk.question(), text: line })
    desk.together(() => desk.writeText(settings.error ? text : settings.text))
  }

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
      text = await app.extensionManager.dialog.prompt({ title: t('desk'), message: t('pasteHere'), defaultValue: '' })
    }
    if (text) this.useText(text)
  }
}
