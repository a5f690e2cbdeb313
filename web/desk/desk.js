// @ts-check
// The desk of one node. The truth is the node's text: the desk edits it, and redraws from what it means.
import { passMiddle, passWheel } from '../lib/canvas.js'
import { app } from '../lib/comfy.js'
import { attribute, el } from '../lib/dom.js'
import { loaderBehind } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { shield } from '../lib/keys.js'
import { leave, takePlace } from '../lib/place.js'
import { endedWith } from '../lib/runs.js'
import { keepSettings, knownLora } from '../lib/server.js'
import { oneStep } from '../lib/undo.js'
import { Amounts } from './amounts.js'
import { Bar } from './bar.js'
import { Picture, usedBehind } from './picture.js'
import { FaderMenu } from './fader_menu.js'
import { Foot } from './foot.js'
import { Hands } from './hands.js'
import { Height } from './height.js'
import { Masters } from './masters.js'
import { PresetMenu } from './presets.js'
import { read } from './reading.js'
import { Silence } from './silence.js'
import { peak, Strips } from './strips.js'
import { edited } from './text.js'
import { Texts } from './texts.js'
import { Widgets } from './widgets.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../lib/server.js').Layout} Layout */
/** @typedef {import('../lib/server.js').Settings} Settings */
/** @typedef {import('../lib/server.js').Profile} Profile */
/** @typedef {import('../lib/server.js').Question} Question */
/** @typedef {Record<string, number>} Weights fader -> weight */

/** The canvas's zoom below which small things are left out. */
const FAR = 0.45
/** Px below which the foot has no room for everything. */
const NARROW = 260
/** Px from which the bar is one line. */
const WIDE = 520
/** Ms after which a fader of a node that came anew is not the one that went. */
const REFOCUS = 1500

/** A fader that had the focus when ComfyUI's undo replaced its node. */
let refocus = { id: '', name: '', until: 0 }

export class DeskView {
  /** @type {Layout | null} */
  layout = null
  /** What acts: the text's weights, turned around where the node says so. @type {Settings | null} */
  settings = null
  /** Of the LoRA that the desk is about. @type {Profile | null} */
  profile = null
  /** Of that LoRA in each block, where it is one for this layout. @type {Amounts | null} */
  amounts = null
  /** @type {string | null} */
  lora = null
  /** What is wrong with the text, or with the preset that stands in for it. */
  error = ''
  /** Whether a wire decides the weights. */
  linked = false
  /** Whether hands may move the faders. */
  enabled = false
  /** Whether a hand holds a fader. */
  held = false
  /** Whether the weights are still those of the preset that the node names; unknown where there is no such preset. */
  presetState = /** @type {'same' | 'edited' | 'unknown'} */ ('unknown')

  /** @type {Settings | null} */
  #presetSettings = null
  /** @type {string | null} */
  #pointed = null
  #signature = ''
  #round = 0
  #writing = false

  /**
   * @param {GraphNode} node whose widgets say the weights
   * @param {() => string | null} [loraOf] the LoRA that they are for
   * @param {() => import('../sweep/making.js').Used | null} [usedAs] how it acts
   */
  constructor(node, loraOf = () => loaderBehind(node)?.lora ?? null, usedAs = () => usedBehind(node)) {
    this.node = node
    this.widgets = new Widgets(node)
    this.loraOf = loraOf
    this.picture = new Picture(this, usedAs)
    this.silence = new Silence(this)
    this.masters = new Masters(this)
    this.texts = new Texts(this)
    this.strips = new Strips()
    this.hands = new Hands(this)
    this.menu = new PresetMenu(this)
    this.faderMenu = new FaderMenu(this)
    this.bar = new Bar(this)
    this.foot = new Foot(this)
    this.height = new Height(this)
    /** @type {HTMLElement} */
    this.element = el(
      'div',
      {
        class: 'strata strata-desk',
        tabindex: -1,
        role: 'group',
        'aria-label': t('desk'),
        on: {
          keydown: shield,
          copy: (event) => this.texts.copied(event),
          paste: (event) => this.texts.pasted(event),
          focusin: (event) => this.point(this.strips.nameOf(event.target) ?? this.#pointed),
          pointerleave: () => this.point(null),
          click: (event) => this.#clicked(event),
          wheel: (event) => passWheel(event, this.element.hasAttribute('data-capture-wheel')),
          pointerdown: passMiddle,
          contextmenu: (event) => this.#rightClicked(event),
        },
      },
      this.bar.element,
      this.strips.element,
      this.foot.element,
    )
    this.height.reserve()
    this.observer = new ResizeObserver(() => this.#arrange())
    this.observer.observe(this.element)
  }

  // What the node says

  /** What the desk asks the server. @returns {Question} */
  question() {
    return this.widgets.question(this.lora)
  }

  /** Looks whether anything that the picture depends on is another. */
  tick() {
    if (!this.node.graph || this.held || this.#writing) return
    takePlace(this.node, this.element)
    this.lora = this.loraOf()
    const { linked } = this.widgets
    const known = this.lora !== null && knownLora(this.lora) !== undefined
    const signature = JSON.stringify([this.question(), this.widgets.preset, linked, known, endedWith('strata_sweep')])
    this.element.classList.toggle('far', (app.canvas?.ds?.scale ?? 1) < FAR)
    if (signature === this.#signature) {
      if (this.picture.compare()) this.draw()
      return
    }
    this.#signature = signature
    this.linked = linked
    this.#refresh()
  }

  /** Reads everything anew. An older reading that comes late is dropped. */
  async #refresh() {
    const round = ++this.#round
    const found = await read(this, () => round !== this.#round)
    if (!found) return
    this.#presetSettings = found.preset
    this.error = found.error
    this.#show(found.layout, found.settings, found.profile, found.carried)
  }

  /**
   * @param {Layout} layout
   * @param {Settings} settings
   * @param {Profile | null} profile
   * @param {import('../lib/server.js').Carried | null} carried
   */
  #show(layout, settings, profile, carried) {
    this.profile = profile
    if (!settings.error) this.settings = settings
    else this.settings ??= { family: layout.family, text: '', values: {}, fine: {}, plain: true, notes: [] }
    if (!layout.groups) return
    // A layout that is as before keeps its faders.
    if (!sameLayout(this.layout, layout)) this.layout = layout
    const fits = profile && !profile.error && profile.layout?.family === layout.family
    this.amounts = fits ? new Amounts(profile.blocks) : null
    this.picture.show(Boolean(fits), carried)
    this.enabled = !this.linked && !settings.error
    this.#comparePreset()
    this.#arrange()
    this.draw()
    if (refocus.id === String(this.node.id) && Date.now() < refocus.until) {
      this.strips.sliders.get(refocus.name)?.focus({ preventScroll: true })
      refocus.until = 0
    }
  }

  #comparePreset() {
    const { settings, widgets } = this
    if (!widgets.preset || !settings || this.error) this.presetState = 'unknown'
    else if (!widgets.text.trim()) this.presetState = widgets.inverted ? 'edited' : 'same'
    else if (!this.#presetSettings) this.presetState = 'unknown'
    else this.presetState = sameWeights(settings, this.#presetSettings) ? 'same' : 'edited'
  }

  // The picture

  #arrange() {
    const width = this.strips.element.clientWidth
    if (!width) return
    this.element.classList.toggle('narrow', width < NARROW)
    // By the width alone: a bar that wraps by its words would grow when the server answers.
    this.element.classList.toggle('wide', width >= WIDE)
    const rebuilt = this.layout !== null && this.strips.build(this.layout, width)
    this.height.fit()
    if (rebuilt) this.draw()
  }

  draw() {
    if (!this.layout || !this.settings) return
    const { muted, soloed } = this.silence
    this.strips.draw(this.settings, this.amounts, this.picture.bars, { muted, soloed, frozen: this.held })
    for (const slider of this.strips.sliders.values()) attribute(slider, 'aria-disabled', this.enabled ? null : true)
    this.element.classList.toggle('disabled', !this.enabled)
    attribute(this.element, 'aria-invalid', this.error ? true : null)
    this.bar.draw()
    this.foot.draw()
    this.#drawPointed()
    this.widgets.drawExample(this.layout)
  }

  #drawPointed() {
    const name = this.target()
    for (const [other, slider] of this.strips.sliders) slider.classList.toggle('pointed', other === name)
  }

  // What hands ask

  /** Whether the desk itself is setting the node's widgets right now. */
  get isWriting() {
    return this.#writing
  }

  /** The fader that is pointed at. */
  target() {
    return this.#pointed && this.strips.sliders.has(this.#pointed) ? this.#pointed : null
  }

  /** Points at a fader; with null, at the one that has the focus, if any. @param {string | null} name */
  point(name) {
    const focus = document.activeElement
    const inside = this.element.contains(focus)
    const wanted = name ?? this.strips.nameOf(focus) ?? (inside ? this.#pointed : null)
    if (wanted === this.#pointed && !this.held) return
    this.#pointed = wanted
    this.#drawPointed()
    this.foot.point()
  }

  /** @param {string} name @param {string} first */
  type(name, first) {
    this.point(name)
    this.foot.type(name, first)
  }

  /** The weight of a fader, or the greatest of a master's. @param {string} name */
  valueOf(name) {
    const values = this.members(name).map((member) => this.settings?.values[member] ?? 1)
    return values.length === 1 ? values[0] : peak(values)
  }

  /** The faders of a master, or the fader itself. @param {string} name @returns {string[]} */
  members(name) {
    if (!name.endsWith('*')) return [name]
    const group = this.layout?.groups.find((group) => `${group.name}*` === name)
    return group?.blocks.map((block) => block.name) ?? []
  }

  /** The changes that set a fader, or scale the group of a master, to a value. @param {string} name @param {number} value @returns {Weights} */
  at(name, value) {
    return name.endsWith('*') ? this.masters.scaled(name, value) : { [name]: value }
  }

  /** @param {string[]} names */
  mute(names) {
    this.silence.mute(names)
  }

  /** @param {string[]} names */
  solo(names) {
    this.silence.solo(names)
  }

  /** @param {boolean} held */
  hold(held) {
    this.held = held
    this.element.classList.toggle('held', held)
    if (!held) {
      this.draw()
      this.tick()
    }
  }

  /** Moves faders, as one step of undo; none where they all stand there already. @param {Weights} changes */
  change(changes) {
    if (!this.enabled || !this.settings || !this.layout) return
    const { values, fine } = this.settings
    if (Object.entries(changes).every(([name, value]) => values[name] === value && !fine[name])) return
    // A reading that is under way is of an older text.
    this.#round++
    const settings = edited(this.layout, this.settings, changes)
    this.edit(() => this.widgets.write(settings.text), () => {
      this.error = ''
      this.settings = settings
      keepSettings(this.question(), settings)
    })
  }

  /**
   * One step of undo, after which the desk reads the node anew.
   *
   * @param {() => void} run
   * @param {() => void} [known] tells what the node says now, before anybody asks the server
   */
  edit(run, known) {
    const outer = this.#writing
    this.#writing = true
    try {
      oneStep(run)
    } finally {
      this.#writing = outer
    }
    this.foot.complain('')
    if (known) {
      known()
      this.#comparePreset()
      this.draw()
    }
    this.#signature = ''
    if (!outer) this.tick()
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const button = event.target instanceof Element ? event.target.closest('.strata-head [data-act]') : null
    if (!(button instanceof HTMLElement) || !this.enabled) return
    const members = this.members(`${button.dataset.names}*`)
    if (button.dataset.act === 'mute') this.mute(members)
    else this.solo(members)
  }

  /** @param {MouseEvent} event */
  #rightClicked(event) {
    const name = this.strips.nameOf(event.target)
    if (!name) return
    event.preventDefault()
    event.stopPropagation()
    if (this.enabled) this.faderMenu.open(name, event.clientX, event.clientY)
  }

  /**
   * The Vue renderer takes every wheel before its nodes see it, but for an element that is marked so and has the focus.
   *
   * @param {boolean} claimed
   */
  claimWheel(claimed) {
    attribute(this.element, 'data-capture-wheel', claimed && this.enabled ? true : null)
    if (claimed && this.enabled && !this.element.contains(document.activeElement)) {
      this.element.focus({ preventScroll: true })
    }
  }

  dispose() {
    const name = this.strips.nameOf(document.activeElement)
    if (name) refocus = { id: String(this.node.id), name, until: Date.now() + REFOCUS }
    this.#round++
    this.hands.dispose()
    this.observer.disconnect()
    this.menu.popup.close()
    this.faderMenu.popup.close()
    leave(this.node, this.element)
  }
}

/** @param {Layout | null} one @param {Layout} other */
const sameLayout = (one, other) =>
  one?.family === other.family && JSON.stringify(one.groups) === JSON.stringify(other.groups)

/** @param {Settings} one @param {Settings} other */
const sameWeights = (one, other) =>
  Object.entries(other.values).every(([name, value]) => one.values[name] === value) &&
  JSON.stringify(one.fine) === JSON.stringify(other.fine)
