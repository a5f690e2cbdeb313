// @ts-check
// The desk of one node. The truth is the node's text: the desk edits it, and redraws from what it means.
// @ts-ignore served by ComfyUI
import { app } from '../../../scripts/app.js'
import { passMiddle, passWheel, shield } from '../lib/canvas.js'
import { attribute, el } from '../lib/dom.js'
import { beginChange, endChange, isLinked, loaderBehind, setWidget, valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { leave, takePlace } from '../lib/place.js'
import { getLayout, getLora, getSettings, keepSettings, knownLora, knownSettings } from '../lib/server.js'
import { Amounts } from './amounts.js'
import { Bar } from './bar.js'
import { Foot } from './foot.js'
import { Hands } from './hands.js'
import { PresetMenu } from './presets.js'
import { Silence } from './silence.js'
import { peak, rowsHeight, Strips } from './strips.js'
import { edited } from './text.js'
import { NONE, Texts } from './texts.js'

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
    /** @type {Amounts | null} of the LoRA, where it is one for this layout */
    this.amounts = null
    this.lora = null
    this.error = ''
    this.linked = false
    this.enabled = false
    this.held = false
    this.pointed = null
    this.signature = ''
    this.round = 0
    this.silence = new Silence(this)
    this.texts = new Texts(this)
    this.strips = new Strips()
    this.hands = new Hands(/** @type {any} */ (this))
    this.menu = new PresetMenu(this)
    this.bar = new Bar(this)
    this.foot = new Foot(this)
    this.element = el('div', { class: 'strata strata-desk', tabindex: -1, role: 'group', 'aria-label': t('desk'), on: {
      keydown: shield,
      copy: (event) => this.texts.copied(event),
      paste: (event) => this.texts.pasted(event),
      focusin: (event) => this.point(this.strips.nameOf(event.target) ?? this.pointed),
      click: (event) => this.clicked(event),
      wheel: (event) => this.wheel(event),
      pointerdown: passMiddle,
      contextmenu: (event) => this.strips.nameOf(event.target) && event.stopPropagation()
    } }, this.bar.element, this.strips.element, this.foot.element)
    this.reserve()
    this.observer = new ResizeObserver(() => this.arrange())
    this.observer.observe(this.element)
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
      this.foot.say(t('reading'))
      if (this.settings) await new Promise((done) => setTimeout(done, TYPING))
      if (round !== this.round) return
    }
    const [settings, found] = await Promise.all([known ?? getSettings(question), profile])
    if (round !== this.round) return
    const family = settings.family ?? question.family ?? this.layout?.family ?? 'SDXL'
    const own = found?.layout?.family === family ? found.layout : null
    const layout = own ?? (this.layout?.family === family && !this.layout?.ofLora ? this.layout : await getLayout(family))
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
    if (!sameLayout(this.layout, layout)) this.layout = layout // one that is as before keeps its faders
    const fits = profile && !profile.error && profile.layout?.family === layout.family
    this.amounts = fits ? new Amounts(profile.blocks) : null
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
    if (this.reserve()) this.grow()
    if (rebuilt) this.draw()
  }

  /** Room for the rows, in the renderer that lays out by style. Returns whether that is another now. */
  reserve() {
    const height = `${this.minHeight}px`
    if (this.element.style.minHeight === height) return false
    this.element.style.minHeight = height
    return true
  }

  /** A node from a workflow has a size already: it needs no room for more rows than one. */
  keepSize() {
    if (this.layout) return
    this.strips.rows = 1
    this.reserve()
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
    const { muted, soloed } = this.silence
    this.strips.draw(this.settings, this.amounts, { muted, soloed, frozen: this.held })
    for (const slider of this.strips.sliders.values()) attribute(slider, 'aria-disabled', this.enabled ? null : true)
    this.element.classList.toggle('disabled', !this.enabled)
    attribute(this.element, 'aria-invalid', this.error ? true : null)
    this.bar.draw()
    this.foot.draw()
    this.drawPointed()
  }

  drawPointed() {
    const name = this.target()
    for (const [other, slider] of this.strips.sliders) slider.classList.toggle('pointed', other === name)
  }

  // What hands ask

  target() {
    return this.pointed && this.strips.sliders.has(this.pointed) ? this.pointed : null
  }

  point(name) {
    const focused = this.strips.nameOf(document.activeElement)
    const wanted = name ?? focused ?? (document.activeElement === this.foot.input ? this.pointed : null)
    if (wanted === this.pointed && !this.held) return
    this.pointed = wanted
    this.drawPointed()
    this.foot.point()
  }

  type(name, first) {
    this.point(name)
    this.foot.type(name, first)
  }

  valueOf(name) {
    const values = this.members(name).map((member) => this.settings?.values[member] ?? 1)
    return values.length === 1 ? values[0] : peak(values)
  }

  members(name) {
    if (!name.endsWith('*')) return [name]
    return this.layout?.groups.find((group) => `${group.name}*` === name)?.blocks.map((block) => block.name) ?? []
  }

  mute(names) {
    this.silence.mute(names)
  }

  solo(names) {
    this.silence.solo(names)
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
    this.round++ // a reading under way is of an older text
    this.settings = edited(this.layout, this.settings, changes)
    this.writeText(this.settings.text)
    keepSettings(this.question(), this.settings)
    this.signature = ''
    this.draw()
  }

  writeText(text) {
    setWidget(this.node, 'weights', text)
  }

  /** One step of undo. */
  together(run) {
    beginChange()
    run()
    endChange()
    this.tick()
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

  wheel(event) {
    if (!this.menu.contains(event.target)) passWheel(event, this.element.hasAttribute('data-capture-wheel'))
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

const sameLayout = (one, other) => one?.family === other.family && JSON.stringify(one?.groups) === JSON.stringify(other.groups)
