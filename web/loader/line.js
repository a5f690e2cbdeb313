// @ts-check
// The loader's quiet line: what the file is before the first run, what the loader did after it; and the details behind it.
import { passWheel } from '../lib/canvas.js'
import { isVue } from '../lib/comfy.js'
import { attribute, el, flag, icon, setText } from '../lib/dom.js'
import { isLinked, NO_LORA, setWidget, valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { leave, takePlace } from '../lib/place.js'
import { Room, roomBelow, setHeight } from '../lib/room.js'
import { failureOf, noticeOf, outputOf } from '../lib/runs.js'
import { forget, getLora, knownLora } from '../lib/server.js'
import { TriggerWords } from '../lib/trigger_words.js'
import { oneStep, oneStepLaidOut } from '../lib/undo.js'
import { chooseLora } from '../picker/picker.js'
import { picture } from '../picker/pictures.js'
import { withoutName } from '../picker/file_name.js'
import { describe } from './verdict.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../lib/server.js').Profile} Profile */
/** @typedef {{verdict: string, report: string, wrong: boolean}} Run what the last run of this LoRA told */

const SEARCH = 'M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13ZM15.5 15.5 20 20'
/** Its height in px. */
const LINE = 26
/** Px of a message that is longer than the line, with its padding: two lines of it, and ten. Less by a part of a px has a scroll bar. */
const SHORTEST = 34
const TALLEST = 150
const DETAILS = 230

export class LoaderLine {
  /** @type {string | null} */
  lora = null
  /** @type {Profile | null} */
  profile = null
  /** @type {Run | null} */
  ran = null

  #round = 0
  #signature = ''
  #lead = LINE

  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node
    this.room = new Room(node)
    this.words = new TriggerWords(node)
    this.text = el('span', { class: 'strata-verdict', role: 'status', on: { scroll: () => this.#fade() } })
    this.more = el('button', {
      type: 'button',
      class: 'strata-button',
      'data-act': 'details',
      title: t('details'),
      'aria-label': t('details'),
      text: '▸',
      on: { click: () => this.toggle() },
    })
    flag(this.more, 'aria-expanded', false)
    this.sheet = el('div', { class: 'strata-sheet' })
    this.details = el(
      'div',
      { class: 'strata-details', hidden: true, 'data-capture-wheel': 'true', tabindex: -1 },
      this.sheet,
    )
    const words = { title: t('chooseLora'), 'aria-label': t('chooseLora') }
    /** @type {HTMLButtonElement} */
    this.find = el(
      'button',
      { type: 'button', class: 'strata-button', 'data-act': 'choose', ...words, on: { click: () => this.#choose() } },
      icon(SEARCH),
    )
    this.lead = el('div', { class: 'strata-lead' }, this.more, this.text, this.find)
    this.element = el(
      'div',
      { class: 'strata strata-line', on: { keydown: shield, wheel: (event) => this.#wheel(event) } },
      this.lead,
      this.details,
    )
    this.observer = new ResizeObserver(() => this.#fit())
    this.observer.observe(this.element)
  }

  /** Opens the picker, by words, folders and pictures; ComfyUI's own list stays. */
  #choose() {
    const { node } = this
    if (isLinked(node, 'lora_name')) return
    chooseLora({
      opener: this.find,
      fits: this.profile?.fits?.family ?? null,
      choose: (found) => oneStep(() => setWidget(node, 'lora_name', found.name)),
    })
  }

  get open() {
    return this.node.properties?.strata_details === true
  }

  get minHeight() {
    return this.#lead + (this.open ? DETAILS : 0)
  }

  /** Looks whether anything that the line depends on is another. */
  tick() {
    const { node } = this
    if (!node.graph) return
    takePlace(node, this.element)
    const name = valueOf(node, 'lora_name')
    const linked = isLinked(node, 'lora_name')
    const lora = typeof name === 'string' && name && name !== NO_LORA && !linked ? name : null
    const ran = lastRun(node, lora)
    const known = lora !== null && knownLora(lora) !== undefined
    const signature = JSON.stringify([lora, linked, this.open, known, ran])
    if (signature === this.#signature) return
    this.#signature = signature
    this.lora = lora
    this.ran = ran
    this.#refresh()
  }

  async #refresh() {
    const round = ++this.#round
    this.profile = this.lora ? knownLora(this.lora) ?? this.profile : null
    this.#draw()
    if (!this.lora || knownLora(this.lora)) return
    const found = await getLora(this.lora)
    if (round !== this.#round) return
    this.profile = found
    this.#draw()
  }

  /** After a run the file has met a model, maybe another one than before: what is known of it is asked for anew. */
  executed() {
    if (this.lora) forget(this.lora)
    this.#signature = ''
    this.tick()
  }

  #draw() {
    const { profile, ran } = this
    const wrong = profile?.error || profile?.problem || ''
    const passes = !this.lora && !isLinked(this.node, 'lora_name')
    const told = passes ? t('noneChosen') : profile && !profile.error ? describe(profile) : ''
    const isWrong = ran ? ran.wrong : Boolean(wrong)
    setText(this.text, ran ? ran.verdict : wrong ? withoutName(wrong, this.lora) : told)
    attribute(this.text, 'title', ran ? ran.report : wrong || told)
    this.text.classList.toggle('wrong', isWrong)
    flag(this.more, 'aria-expanded', this.open)
    setText(this.more, this.open ? '▾' : '▸')
    attribute(this.details, 'hidden', this.open ? null : true)
    this.sheet.replaceChildren(...(this.open ? this.#sections(isWrong ? ran?.report || wrong : '') : []))
    this.#fit()
  }

  /** Room for a message that is longer than the line: whole on the node, as long as no other node lies under it. There it scrolls. */
  #fit() {
    const { node, text } = this
    const grown = this.#lead - LINE
    const room = LINE - 2 + roomBelow(node, (isVue() ? node.size[1] : node.computeSize()[1]) - grown)
    text.style.setProperty('--most', `${Math.max(SHORTEST, Math.min(TALLEST, room))}px`)
    this.#fade()
    if (this.lead.offsetHeight) this.#lead = Math.max(LINE, this.lead.offsetHeight + 2)
    const height = `${this.minHeight}px`
    if (this.element.style.minHeight === height) return
    this.element.style.minHeight = height
    // Lines come and go by themselves; the details are opened and closed within a step.
    this.room.fit(true)
  }

  /** What goes on below fades out; a click or Tab takes hold of it, and then it has the wheel and the arrow keys. */
  #fade() {
    const { text } = this
    const scrolls = text.classList.contains('wrong') && text.scrollHeight > text.clientHeight + 1
    text.classList.toggle('goes-on', scrolls && text.scrollTop + text.clientHeight < text.scrollHeight - 2)
    attribute(text, 'data-capture-wheel', scrolls ? 'true' : null)
    attribute(text, 'tabindex', scrolls ? 0 : null)
  }

  /** @param {string} wrong */
  #sections(wrong) {
    const { profile, ran } = this
    const parts = []
    if (wrong) parts.push(section(t('problem'), [el('pre', { class: 'wrong', text: wrong })]))
    if (profile?.preview) parts.push(picture(profile.preview, { class: 'strata-picture', moves: true }))
    if (profile && !profile.error) parts.push(section(t('triggers'), this.#words(profile.trigger_words)))
    if (ran?.report && !wrong) parts.push(section(t('report'), [el('pre', { text: ran.report })]))
    if (profile?.leftovers?.length) {
      parts.push(section(t('leftovers', { count: profile.leftover_count }), [table(profile.leftovers)]))
    }
    if (profile?.metadata?.length) parts.push(section(t('metadata'), [table(profile.metadata)]))
    return parts
  }

  // What is in the file

  /** @param {string[]} words */
  #words(words) {
    if (!words?.length) return [el('em', { text: t('none') })]
    this.words.show(words)
    return [this.words.element]
  }

  toggle() {
    const { node } = this
    const [before, height] = [this.minHeight, node.size[1]]
    oneStepLaidOut(() => {
      node.properties ??= {}
      if (this.open) delete node.properties.strata_details
      else node.properties.strata_details = true
      this.tick()
      if (!node.graph || node.flags?.collapsed) return
      setHeight(node, Math.max(height + this.minHeight - before, node.computeSize()[1]))
    })
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    const inside = event.target instanceof Node && this.details.contains(event.target)
    const scrolls = inside && this.details.scrollHeight > this.details.clientHeight
    const reads = event.target === this.text && document.activeElement === this.text
    if (reads || (scrolls && this.details.contains(document.activeElement))) event.stopPropagation()
    else passWheel(event)
  }

  dispose() {
    this.#round++
    this.observer.disconnect()
    leave(this.node, this.element)
  }
}

/**
 * What the last run told, as long as it was of the LoRA that is chosen now; a name by wire is nobody's choice.
 *
 * @param {GraphNode} node
 * @param {string | null} lora
 * @returns {Run | null}
 */
function lastRun(node, lora) {
  const failure = failureOf(node)
  if (failure) return { verdict: withoutName(failure.text, lora), report: failure.text, wrong: true }
  const output = outputOf(node)
  const verdict = output?.strata_verdict?.[0]
  if (verdict === undefined || (lora !== null && output?.strata_lora?.[0] !== lora)) return null
  const report = String(output?.strata_report?.[0] ?? '')
  // What came while the model sampled corrects what the loader could say before.
  const notice = noticeOf(node)
  if (notice) {
    return { verdict: withoutName(notice.text, lora), report: `${notice.text}\n\n${report}`, wrong: true }
  }
  return { verdict: withoutName(String(verdict), lora), report, wrong: Boolean(output?.strata_warned?.[0]) }
}

/** @param {string} title @param {Node[]} children */
const section = (title, children) => el('section', {}, el('h4', { text: title }), ...children)

/** @param {[string, string][]} rows */
const table = (rows) =>
  el('dl', {}, ...rows.flatMap(([name, value]) => [el('dt', { text: name }), el('dd', { text: value })]))
