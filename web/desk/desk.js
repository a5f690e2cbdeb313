// @ts-check
// The desk of one node. The truth is the node's text: the desk edits it, and redraws from what it means. It keeps nothing of its own
// but what mute and solo must give back, which lives in the node's properties and so in the workflow and its undo.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'
import { attribute, el, setText } from '../lib/dom.js'
import { beginChange, copyText, endChange, isLinked, loaderBehind, setWidget, valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { leave, takePlace } from '../lib/place.js'
import { getLayout, getLora, getSettings, keepSettings, knownLora, knownSettings } from '../lib/server.js'
import { Hands } from './hands.js'
import { PresetMenu } from './presets.js'
import { peak, rowsHeight, Strips } from './strips.js'
import { edited, formatNumber } from './text.js'

const NONE = 'none'
const AUTO = 'auto'
const TYPING = 150 // ms of rest before a typed text is read
const CHROME = 62 // px of toolbar, foot and gaps
const FAR = 0.45 // canvas zoom below which small things are left out

/** A fader that had the focus when ComfyUI's undo replaced its node. */
let refocus = { id: '', name: '', until: 0 }

export class DeskView {
  constructor(node) {
    this.node = node
    /** @type {import('../lib/server.js').Layout | null} */
    this.layout = null
    /** @type {import('../lib/server.js').Settings | null} */
    this.settings = null
    this.profile = null
    this.lora = null
    this.enabled = false
    this.held = false
    this.choosing = false // the preset combo is being set from here
    this.pointed = null
    this.signature = ''
    this.hint = ''
    this.round = 0
    this.strips = new Strips()
    this.hands = new Hands(/** @type {any} */ (this))
    this.menu = new PresetMenu(this)
    this.element = this.make()
    this.observer = new ResizeObserver(() => this.arrange())
    this.observer.observe(this.element)
  }

  make() {
    const button = (name, run) =>
      el('button', { type: 'button', class: 'strata-button', 'data-act': name, title: t(`${name}Hint`), text: t(name), on: { click: run } })
    this.about = el('span', { class: 'strata-about' })
    this.openMenu = el('button', { type: 'button', class: 'strata-button', 'data-act': 'presets', 'aria-haspopup': 'dialog', text: `${t('presets')} ▾`,
      on: { click: () => this.menu.toggle() } })
    this.tools = [button('reset', () => this.reset()), button('invert', () => this.invert()), button('paste', () => this.pasteFromClipboard())]
    this.input = /** @type {HTMLInputElement} */ (el('input', { class: 'strata-input', inputmode: 'decimal', autocomplete: 'off', spellcheck: 'false',
      on: { keydown: (event) => this.typed(event), blur: () => this.endTyping(true) } }))
    this.readout = el('span', { class: 'strata-readout' })
    this.pointName = el('b', { class: 'strata-name' })
    this.muteButton = el('button', { type: 'button', class: 'strata-mute', 'data-act': 'mute', text: 'M', on: { click: () => this.target() && this.mute(this.members(this.target())) } })
    this.soloButton = el('button', { type: 'button', class: 'strata-solo', 'data-act': 'solo', text: 'S', on: { click: () => this.target() && this.solo(this.members(this.target())) } })
    this.note = el('div', { class: 'strata-note', role: 'status' })
    return el('div', { class: 'strata strata-desk', tabindex: -1, role: 'group', 'aria-label': t('desk'), on: {
      keydown: (event) => this.shield(event),
      copy: (event) => this.copied(event),
      paste: (event) => this.pasted(event),
      focusin: (event) => this.point(this.strips.nameOf(event.target) ?? this.pointed),
      click: (event) => this.clicked(event),
      wheel: (event) => this.passWheel(event),
      pointerdown: (event) => this.passMiddle(event),
      contextmenu: (event) => this.strips.nameOf(event.target) && event.stopPropagation()
    } },
      el('div', { class: 'strata-bar' }, this.openMenu, this.about, ...this.tools, button('copy', () => this.copyAll())),
      this.strips.element,
      el('div', { class: 'strata-foot' }, this.pointName, this.input, this.muteButton, this.soloButton, this.readout, this.note))
  }

  // What the node says

  question() {
    const { node } = this
    const text = String(valueOf(node, 'weights') ?? '')
    const preset = valueOf(node, 'preset')
    const family = valueOf(node, 'layout')
    const spoken = text.trim() ? text : preset && preset !== NONE ? preset : ''
    return { text: spoken, family: family && family !== AUTO ? family : null, lora: this.lora, seed: valueOf(node, 'seed') ?? 0, invert: false }
  }

  /** Called by the clock and by every callback: looks whether anything that the picture depends on is another. */
  tick() {
    if (!this.node.graph || this.held) return
    takePlace(this.node, this.element)
    const loader = loaderBehind(this.node)
    this.lora = loader?.lora ?? null
    const linked = ['weights', 'preset', 'layout'].some((name) => isLinked(this.node, name))
    const signature = JSON.stringify([this.question(), linked, valueOf(this.node, 'invert'), this.lora && knownLora(this.lora) ? 1 : 0])
    this.element.classList.toggle('far', (app.canvas?.ds?.scale ?? 1) < FAR)
    if (signature === this.signature) return
    this.signature = signature
    this.linked = linked
    this.refresh()
  }

  /** Reads everything anew. An older reading that comes late is dropped. */
  async refresh() {
    const round = ++this.round
    const question = this.question()
    const known = knownSettings(question)
    const profile = question.lora ? knownLora(question.lora) ?? getLora(question.lora) : null
    if (!known) {
      setText(this.readout, t('reading'))
      if (this.settings) await new Promise((done) => setTimeout(done, TYPING))
      if (round !== this.round) return
    }
    const [settings, found] = await Promise.all([known ?? getSettings(question), profile])
    if (round !== this.round) return
    const family = settings.family ?? question.family ?? this.layout?.family ?? 'SDXL'
    const own = found?.layout?.family === family ? found.layout : null
    const layout = own ?? (this.layout?.family === family && !this.layout.ofLora ? this.layout : await getLayout(family))
    if (round !== this.round) return
    if (own) own.ofLora = true
    this.show(layout, settings, found)
  }

  show(layout, settings, profile) {
    this.profile = profile
    this.error = settings.error ?? ''
    if (!settings.error) this.settings = settings
    else this.settings ??= { family: layout.family, text: '', values: {}, fine: {}, plain: true, notes: [] }
    if (!layout.groups) return
    if (this.layout !== layout) this.layout = layout
    this.enabled = !this.linked && !this.error
    this.arrange()
    this.draw()
    if (refocus.id === String(this.node.id) && Date.now() < refocus.until) {
      this.strips.sliders.get(refocus.name)?.focus({ preventScroll: true })
      refocus.until = 0
    }
  }

  // The picture

  arrange() {
    const width = this.strips.element.clientWidth
    if (!this.layout || !width) return
    const rebuilt = this.strips.build(this.layout, width)
    const height = this.minHeight
    if (this.element.style.minHeight !== `${height}px`) {
      this.element.style.minHeight = `${height}px`
      this.grow()
    }
    if (rebuilt) this.draw()
  }

  get minHeight() {
    return CHROME + rowsHeight(Math.max(1, this.strips.rows))
  }

  /** A layout with more rows needs a taller node; a node is never made smaller. */
  grow() {
    const { node } = this
    if (!node.graph || node.flags?.collapsed) return
    const [width, height] = node.size
    const needed = node.computeSize()[1]
    if (needed > height) node.setSize([width, needed])
    node.graph.setDirtyCanvas?.(true, true)
  }

  draw() {
    if (!this.layout || !this.settings) return
    const blocks = this.profile && !this.profile.error ? this.profile.blocks : null
    const fits = blocks && this.profile.layout?.family === this.layout.family
    this.strips.draw(this.settings, fits ? blocks : null, { muted: this.muted, soloed: this.soloed, frozen: this.held })
    for (const slider of this.strips.sliders.values()) attribute(slider, 'aria-disabled', this.enabled ? null : true)
    this.element.classList.toggle('disabled', !this.enabled)
    for (const tool of [...this.tools, this.openMenu]) attribute(tool, 'disabled', this.linked ? true : null)
    this.drawWords()
  }

  drawWords() {
    const { profile } = this
    const name = this.lora?.split(/[\\/]/).pop()
    const parts = [this.layout?.family ?? '']
    if (profile && !profile.error) parts.push(profile.family && profile.layout?.family !== this.layout?.family ? t('otherFamily', { lora: name, family: profile.family }) : name)
    setText(this.about, parts.filter(Boolean).join(' · '))
    attribute(this.about, 'title', profile?.about ?? '')
    const preset = valueOf(this.node, 'preset')
    setText(this.openMenu, `${preset && preset !== NONE ? preset : t('presets')} ▾`)
    let note = ''
    if (this.linked) note = t('linked')
    else if (this.error) note = this.error
    else if (profile?.error) note = profile.error
    else if (valueOf(this.node, 'invert')) note = t('seeInput')
    else if (!this.lora) note = t('noLora')
    else note = this.settings?.notes?.[0] ?? ''
    this.hint = note ? '' : t('hint')
    setText(this.note, note)
    attribute(this.note, 'title', this.settings?.notes?.join('\n') || note)
    this.note.classList.toggle('wrong', Boolean(this.error || profile?.error))
    attribute(this.element, 'aria-invalid', this.error ? true : null)
    this.drawFoot()
  }

  drawFoot() {
    const name = this.target()
    const members = name ? this.members(name) : []
    this.element.classList.toggle('pointing', Boolean(name))
    for (const [other, slider] of this.strips.sliders) slider.classList.toggle('pointed', other === name)
    setText(this.pointName, name ? (name.endsWith('*') ? t('all', { name: name.slice(0, -1) }) : name) : '')
    if (document.activeElement !== this.input) this.input.value = name ? formatNumber(this.valueOf(name)) : ''
    attribute(this.input, 'aria-label', name ? t('weight', { name }) : t('desk'))
    attribute(this.input, 'disabled', name && this.enabled ? null : true)
    for (const [button, lit, hint] of [
      [this.muteButton, members.length && members.every((member) => this.muted.has(member)), 'muteHint'],
      [this.soloButton, members.length && members.every((member) => this.soloed.has(member)), 'soloHint']
    ]) {
      attribute(button, 'aria-pressed', Boolean(lit))
      attribute(button, 'title', name ? t(hint, { name }) : null)
      attribute(button, 'disabled', name && this.enabled ? null : true)
    }
    setText(this.readout, name ? this.describe(name, members) : this.hint)
  }

  describe(name, members) {
    if (!name || !this.settings) return ''
    const blocks = this.profile?.layout?.family === this.layout?.family ? this.profile?.blocks : null
    const parts = []
    if (blocks) {
      const here = members.filter((member) => blocks[member])
      const share = here.reduce((sum, member) => sum + blocks[member].share, 0)
      parts.push(here.length ? t('share', { share: (100 * share).toFixed(share < 0.0995 ? 1 : 0) }) : t('nothing'))
    }
    const rules = this.settings.fine[name]
    if (rules) parts.push(t('finer', { rules: rules.join(', ') }))
    return parts.join(' · ')
  }

  // What hands ask

  target() {
    return this.pointed && this.strips.sliders.has(this.pointed) ? this.pointed : null
  }

  point(name) {
    const focused = this.strips.nameOf(document.activeElement)
    const wanted = name ?? focused ?? (document.activeElement === this.input ? this.pointed : null)
    if (wanted === this.pointed && !this.held) return
    this.pointed = wanted
    this.drawFoot()
  }

  valueOf(name) {
    const values = this.members(name).map((member) => this.settings?.values[member] ?? 1)
    return values.length === 1 ? values[0] : peak(values)
  }

  members(name) {
    if (!name.endsWith('*')) return [name]
    return this.layout?.groups.find((group) => `${group.name}*` === name)?.blocks.map((block) => block.name) ?? []
  }

  hold(held) {
    this.held = held
    this.element.classList.toggle('held', held)
    if (!held) {
      this.draw()
      this.tick()
    }
  }

  /** One edit: the text is written here and nowhere else. @param {Record<string, number>} changes */
  change(changes) {
    if (!this.enabled || !this.settings || !this.layout) return
    this.settings = edited(this.layout, this.settings, changes)
    this.writeText(this.settings.text)
    keepSettings(this.question(), this.settings)
    this.signature = ''
    this.draw()
  }

  writeText(text) {
    setWidget(this.node, 'weights', text)
  }

  // Mute and solo

  get memory() {
    this.node.properties ??= {}
    return (this.node.properties.strata_desk ??= {})
  }

  /** Muted: at zero, with a weight to give back. */
  get muted() {
    const kept = this.node.properties?.strata_desk?.mute ?? {}
    return new Set(Object.keys(kept).filter((name) => this.settings?.values[name] === 0))
  }

  /** Soloed: a solo was pressed, and all others are still at zero. */
  get soloed() {
    const solo = this.node.properties?.strata_desk?.solo
    const values = this.settings?.values ?? {}
    const holds = solo && Object.entries(values).every(([name, value]) => solo.names.includes(name) || value === 0)
    return new Set(holds ? solo.names : [])
  }

  mute(names) {
    const { muted } = this
    const back = names.every((name) => muted.has(name))
    const kept = { ...this.memory.mute }
    const changes = {}
    for (const name of names) {
      if (back) changes[name] = kept[name]
      else if (!muted.has(name)) {
        kept[name] = this.settings?.values[name] || 1
        changes[name] = 0
      }
      if (back) delete kept[name]
    }
    this.memory.mute = kept
    this.change(changes)
  }

  solo(names) {
    if (!this.settings) return
    const { soloed } = this
    const values = this.settings.values
    const before = soloed.size ? this.memory.solo.before : { ...values }
    if (soloed.size === names.length && names.every((name) => soloed.has(name))) {
      delete this.memory.solo
      this.change(Object.fromEntries(Object.keys(values).map((name) => [name, soloed.has(name) ? values[name] : before[name] ?? 1])))
      return
    }
    this.memory.solo = { names, before }
    this.change(Object.fromEntries(Object.keys(values).map((name) => [name, names.includes(name) ? before[name] || 1 : 0])))
  }

  // Whole texts

  reset() {
    this.memory.mute = {}
    delete this.memory.solo
    this.together(() => {
      setWidget(this.node, 'preset', NONE)
      this.writeText('')
    })
  }

  async invert() {
    const settings = await getSettings({ ...this.question(), invert: true })
    if (!settings.error) this.together(() => this.writeText(settings.text))
  }

  /** A preset, by name: its text goes into the node, so that the workflow outlives the preset. */
  async usePreset(name) {
    const settings = await getSettings({ ...this.question(), text: name })
    this.choosing = true
    this.together(() => {
      setWidget(this.node, 'preset', name)
      if (!settings.error) this.writeText(settings.text)
    })
    this.choosing = false
  }

  /** Whatever can be read becomes names; whatever cannot stays as it is, with its error. */
  async useText(text) {
    const line = text.trim().replace(/\s*\n\s*/g, ' ')
    if (!line) return
    const settings = await getSettings({ ...this.question(), text: line })
    this.together(() => this.writeText(settings.error ? text : settings.text))
  }

  together(run) {
    beginChange()
    run()
    endChange()
    this.tick()
  }

  // Clipboard

  copied(event) {
    if (event.target instanceof HTMLInputElement) return
    event.clipboardData?.setData('text/plain', this.copyable())
    event.preventDefault()
    event.stopPropagation()
  }

  copyable() {
    return (this.error ? this.question().text : this.settings?.text) ?? ''
  }

  async copyAll() {
    if (await copyText(this.copyable())) setText(this.readout, t('copied'))
  }

  pasted(event) {
    if (event.target instanceof HTMLInputElement) return
    event.preventDefault()
    event.stopPropagation()
    if (!this.linked) this.useText(event.clipboardData?.getData('text/plain') ?? '')
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

  // Numbers by keyboard

  type(name, first) {
    this.pointed = name
    this.drawFoot()
    this.input.value = first || this.input.value
    this.typing = name
    this.input.focus({ preventScroll: true })
    if (!first) this.input.select()
  }

  typed(event) {
    event.stopPropagation()
    if (event.key !== 'Enter' && event.key !== 'Escape' && event.key !== 'Tab') return
    const name = this.typing ?? this.target()
    this.endTyping(event.key !== 'Escape')
    if (event.key !== 'Tab' && name) {
      event.preventDefault()
      this.strips.sliders.get(name)?.focus({ preventScroll: true })
    }
  }

  endTyping(keep) {
    const name = this.typing ?? this.target()
    this.typing = null
    const value = Number(this.input.value.replace(',', '.'))
    const wanted = keep && name && this.enabled && this.input.value.trim() !== '' && Number.isFinite(value)
    if (wanted && value !== this.valueOf(name)) {
      beginChange()
      this.change(Object.fromEntries(this.members(name).map((member) => [member, value])))
      endChange()
    } else this.input.value = name ? formatNumber(this.valueOf(name)) : ''
  }

  // Manners towards the canvas

  /** Keys that mean something here must not reach the canvas: Delete would remove the node. */
  shield(event) {
    const copying = (event.ctrlKey || event.metaKey) && ['c', 'v', 'x', 'a'].includes(event.key.toLowerCase())
    if (copying || ['Delete', 'Backspace'].includes(event.key)) event.stopPropagation()
  }

  clicked(event) {
    const button = event.target.closest?.('.strata-head [data-act]')
    if (!button || !this.enabled) return
    const members = this.members(`${button.dataset.names}*`)
    this.together(() => (button.dataset.act === 'mute' ? this.mute(members) : this.solo(members)))
  }

  /** The Vue renderer takes every wheel before its nodes see it, but for an element that is marked so and has the focus. */
  claimWheel(claimed) {
    attribute(this.element, 'data-capture-wheel', claimed && this.enabled ? true : null)
    if (claimed && this.enabled && !this.element.contains(document.activeElement)) this.element.focus({ preventScroll: true })
  }

  /** Over a node drawn on the canvas the wheel has to be handed to it; nodes in the page hand it on themselves. */
  passWheel(event) {
    const handedOn = globalThis.LiteGraph?.vueNodesMode && !this.element.hasAttribute('data-capture-wheel')
    if (this.menu.contains(event.target) || handedOn) return
    event.preventDefault()
    app.canvas?.processMouseWheel(event)
  }

  passMiddle(event) {
    if (event.button === 1) app.canvas?.processMouseDown(event)
  }

  dispose() {
    const name = this.strips.nameOf(document.activeElement)
    if (name) refocus = { id: String(this.node.id), name, until: Date.now() + 1500 }
    this.round++
    this.observer.disconnect()
    this.menu.close()
    leave(this.node, this.element)
  }
}
