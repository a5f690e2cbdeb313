// @ts-check
// The loader's quiet line: what the file is before the first run, what the loader did after it; and the details behind it.
// @ts-ignore served by ComfyUI
import { api } from '../../../scripts/api.js'
import { passWheel } from '../lib/canvas.js'
import { attribute, el, icon, setText } from '../lib/dom.js'
import { beginChange, copyText, endChange, isLinked, outputOf, valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { leave, takePlace } from '../lib/place.js'
import { forget, getLora, knownLora } from '../lib/server.js'
import { fitRange, isLinkedPair, linkPair, reachOf, setStrength, STRENGTHS } from './strengths.js'

const CHAIN = 'M10 14a4 4 0 0 0 5.7 0l3.6-3.6a4 4 0 0 0-5.7-5.7l-1.2 1.2M14 10a4 4 0 0 0-5.7 0l-3.6 3.6a4 4 0 0 0 5.7 5.7l1.2-1.2'
const LINE = 26 // px
const DETAILS = 230

export class LoaderLine {
  constructor(node) {
    this.node = node
    this.lora = null
    this.profile = null
    /** @type {{verdict: string, report: string, warned: boolean} | null} the last run of this LoRA */
    this.ran = null
    this.round = 0
    this.signature = ''
    this.text = el('span', { class: 'strata-verdict', role: 'status' })
    this.more = el('button', { type: 'button', class: 'strata-button', 'data-act': 'details', 'aria-expanded': 'false', title: t('details'), 'aria-label': t('details'), text: '▸', on: { click: () => this.toggle() } })
    this.pair = el('button', { type: 'button', class: 'strata-button', 'data-act': 'link', 'aria-pressed': 'false', title: t('link'), 'aria-label': t('link'), on: { click: () => this.togglePair() } }, icon(CHAIN))
    this.beyond = el('button', { type: 'button', class: 'strata-button', 'data-act': 'beyond', on: { click: () => this.typeExact() } })
    this.details = el('div', { class: 'strata-details', hidden: true, 'data-capture-wheel': 'true', tabindex: -1 })
    this.element = el('div', { class: 'strata strata-line', on: {
      keydown: (event) => (event.target instanceof HTMLInputElement || ['Delete', 'Backspace'].includes(event.key)) && event.stopPropagation(),
      wheel: (event) => this.wheel(event)
    } }, el('div', { class: 'strata-lead' }, this.more, this.text, this.beyond, this.pair), this.details)
  }

  get open() {
    return this.node.properties?.strata_details === true
  }

  get minHeight() {
    return LINE + (this.open ? DETAILS : 0)
  }

  tick() {
    const { node } = this
    if (!node.graph) return
    takePlace(node, this.element)
    const name = valueOf(node, 'lora_name')
    const lora = typeof name === 'string' && name && !isLinked(node, 'lora_name') ? name : null
    const strengths = STRENGTHS.map((strength) => valueOf(node, strength))
    const ran = lastRun(node, lora)
    const signature = JSON.stringify([lora, this.open, isLinkedPair(node), strengths, lora && knownLora(lora) ? 1 : 0, ran])
    if (signature === this.signature) return
    this.signature = signature
    this.lora = lora
    this.ran = ran
    fitRange(node)
    this.refresh()
  }

  async refresh() {
    const round = ++this.round
    this.profile = this.lora ? knownLora(this.lora) ?? this.profile : null
    this.draw()
    if (!this.lora || knownLora(this.lora)) return
    const found = await getLora(this.lora)
    if (round !== this.round) return
    this.profile = found
    this.draw()
  }

  /** After a run the file has met a model, maybe another one than before: what is known of it is asked for anew. */
  executed() {
    if (this.lora) forget(this.lora)
    this.signature = ''
    this.tick()
  }

  draw() {
    const { profile, ran } = this
    const wrong = profile?.error || profile?.problem || ''
    const strange = profile?.leftover_count ? t('leftovers', { count: profile.leftover_count }) : ''
    const told = profile && !profile.error ? [profile.about, profile.fit, strange].filter(Boolean).join(' · ') : ''
    setText(this.text, ran ? ran.verdict : wrong || told)
    attribute(this.text, 'title', ran ? ran.report : wrong || told)
    this.text.classList.toggle('wrong', ran ? ran.warned : Boolean(wrong))
    const stopped = this.stopped()
    attribute(this.beyond, 'hidden', stopped && !this.open ? null : true)
    setText(this.beyond, stopped ? t('beyond', { reach: reachOf(this.node, stopped) }) : '')
    attribute(this.beyond, 'title', stopped ? t('beyondHint', { name: stopped }) : null)
    attribute(this.pair, 'aria-pressed', isLinkedPair(this.node))
    attribute(this.more, 'aria-expanded', this.open)
    setText(this.more, this.open ? '▾' : '▸')
    attribute(this.details, 'hidden', this.open ? null : true)
    this.element.style.minHeight = `${this.minHeight}px`
    if (this.open) this.drawDetails()
    else this.details.replaceChildren()
  }

  drawDetails() {
    if (this.details.contains(document.activeElement) && document.activeElement instanceof HTMLInputElement) return
    const { profile, ran } = this
    const parts = [el('section', {}, el('h4', { text: t('exact') }), ...STRENGTHS.map((name) => this.exact(name)))]
    if (profile?.preview) parts.push(this.picture(profile))
    if (profile && !profile.error) {
      const words = profile.trigger_words ?? []
      parts.push(section(t('triggers'), words.length
        ? [...words.map((word) => this.word(word, word)), ...(words.length > 1 ? [this.word(t('copyAll'), words.join(', '))] : [])]
        : [el('em', { text: t('none') })]))
    }
    if (ran?.report) parts.push(section(t('report'), [el('pre', { text: ran.report })]))
    if (profile?.leftovers?.length) parts.push(section(t('leftovers', { count: profile.leftover_count }), [table(profile.leftovers)]))
    if (profile?.metadata?.length) parts.push(section(t('metadata'), [table(profile.metadata)]))
    this.details.replaceChildren(...parts)
  }

  /** A strength whose slider can go no further: ComfyUI cuts what is typed there to what the slider spans. */
  stopped() {
    return STRENGTHS.find((name) => Math.abs(Number(valueOf(this.node, name))) >= reachOf(this.node, name))
  }

  typeExact() {
    const name = this.stopped()
    this.toggle()
    const field = /** @type {HTMLInputElement | null} */ (this.details.querySelector(`[data-strength=${name}]`))
    field?.focus({ preventScroll: true })
    field?.select()
  }

  /** A number field for a strength: the slider reaches only as far as people usually go. */
  exact(name) {
    const set = (event) => {
      const value = Number(event.target.value)
      if (event.target.value.trim() === '' || !Number.isFinite(value)) return
      beginChange()
      setStrength(this.node, name, value)
      endChange()
    }
    const input = el('input', { type: 'number', min: -100, max: 100, step: 0.01, value: valueOf(this.node, name), 'aria-label': name, 'data-strength': name,
      on: { change: set, keydown: (event) => event.key === 'Enter' && set(event) } })
    return el('label', { class: 'strata-exact' }, el('span', { text: name }), input)
  }

  word(shown, copied) {
    const button = el('button', { type: 'button', class: 'strata-word', title: t('copyWord'), text: shown, on: { click: async () => {
      if (!(await copyText(copied))) return
      setText(button, t('copied'))
      setTimeout(() => setText(button, shown), 900)
    } } })
    return button
  }

  picture(profile) {
    const { folder, file } = profile.preview
    const path = `/experiment/models/preview/loras/${folder}/${file.split('/').map(encodeURIComponent).join('/')}`
    return el('img', { class: 'strata-picture', alt: '', loading: 'lazy', src: api.apiURL(path), on: { error: (event) => event.target.remove() } })
  }

  toggle() {
    const { node } = this
    const before = this.minHeight
    node.properties ??= {}
    if (this.open) delete node.properties.strata_details
    else node.properties.strata_details = true
    this.tick()
    node.setSize([node.size[0], Math.max(node.size[1] + this.minHeight - before, node.computeSize()[1])])
    node.graph?.setDirtyCanvas?.(true, true)
  }

  togglePair() {
    beginChange()
    linkPair(this.node, !isLinkedPair(this.node))
    endChange()
    this.tick()
  }

  wheel(event) {
    const scrolls = this.details.contains(event.target) && this.details.scrollHeight > this.details.clientHeight
    if (scrolls && this.details.contains(document.activeElement)) {
      event.stopPropagation()
      return
    }
    passWheel(event)
  }

  dispose() {
    this.round++
    leave(this.node, this.element)
  }
}

/** What the last run told, as long as it was of the LoRA that is chosen now; a name by wire is nobody's choice. */
function lastRun(node, lora) {
  const output = outputOf(node)
  const verdict = output?.strata_verdict?.[0]
  if (verdict === undefined || (lora !== null && output.strata_lora?.[0] !== lora)) return null
  const shown = verdict.startsWith(`${lora}: `) ? verdict.slice(`${lora}: `.length) : verdict // the name stands above already
  return { verdict: shown, report: output.strata_report?.[0] ?? '', warned: Boolean(output.strata_warned?.[0]) }
}

const section = (title, children) => el('section', {}, el('h4', { text: title }), ...children)

const table = (rows) => el('dl', {}, ...rows.flatMap(([name, value]) => [el('dt', { text: name }), el('dd', { text: value })]))
