// @ts-check
// Rows as text, to the clipboard and from it: rows, a prompt with tags, or another pack's node.
import { copyText, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { getImported } from '../lib/server.js'

/** @typedef {import('./stack.js').StackView} StackView */

export class Clipboard {
  /** @param {StackView} stack */
  constructor(stack) {
    this.stack = stack
  }

  copyAll() {
    return copyText(this.stack.text)
  }

  /** Behind what is there. @param {string} text */
  async add(text) {
    const { stack } = this
    const answer = await getImported(text)
    if (answer.error) return stack.complain(answer.error)
    await stack.replaceAll([...(stack.text.trim() ? [stack.text] : []), answer.text].join('\n'))
  }

  /** Reads the clipboard, or says by which keys it can be read. */
  async paste() {
    try {
      await this.add(await navigator.clipboard.readText())
    } catch {
      this.stack.element.focus({ preventScroll: true })
      setText(this.stack.note, t('pasteWithKeys'))
    }
  }

  /** The row that has the focus, or all. @param {ClipboardEvent} event */
  copied(event) {
    const { stack } = this
    if (isTyping(event) || String(getSelection())) return
    const view = stack.shownViews().find((one) => event.target instanceof Node && one.element.contains(event.target))
    event.clipboardData?.setData('text/plain', view ? stack.rows[view.at].line : stack.text)
    event.preventDefault()
    event.stopPropagation()
  }

  /** @param {ClipboardEvent} event */
  pasted(event) {
    if (isTyping(event)) return
    const text = event.clipboardData?.getData('text/plain') ?? ''
    if (!text.trim()) return
    event.preventDefault()
    event.stopPropagation()
    void this.add(text)
  }
}

/** @param {Event} event */
const isTyping = ({ target }) => target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement
