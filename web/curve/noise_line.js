// @ts-check
// The noise of the connected sampler's steps, behind a strength over time: a mark at each step, and how the noise falls. The numbers are the
// server's, for the model of the last run; where a wire leads through something that may count otherwise, nothing is drawn.
import { attribute } from '../lib/dom.js'
import { isLinked, nodesBehind, sourceOf, valueOf, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { outputOf } from '../lib/runs.js'
import { getNoise } from '../lib/server.js'
import { along } from './points.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {[sigma: number, percent: number]} Step */
/** @typedef {{node: string, slot: number, values: Record<string, unknown>}} Made a node that steps come from or through, with its settings */
/** @typedef {{run: string, way: Made[]}} Question */

const SVG = 'http://www.w3.org/2000/svg'
/** Nodes that sample: those with a scheduler of their own, and those that take SIGMAS. */
const SAMPLERS = new Map([['KSampler', false], ['KSamplerAdvanced', false], ['SamplerCustom', true], [
  'SamplerCustomAdvanced',
  true,
]])
/** Nodes that give a sampler its model. */
const GUIDERS = new Set(['BasicGuider', 'CFGGuider', 'DualCFGGuider', 'DualModelGuider', 'PerpNegGuider'])
/** What of their settings the steps follow. */
const OF_SAMPLERS = new Set([
  'steps',
  'sampler_name',
  'scheduler',
  'denoise',
  'start_at_step',
  'end_at_step',
  'return_with_leftover_noise',
])
/** Nodes that are a number. */
const NUMBERS = new Set(['PrimitiveInt', 'PrimitiveFloat'])
/** Nodes between a loader and a sampler that leave alone how a model counts its noise. */
const PLAIN = new Set([
  'LoraLoader',
  'LoraLoaderModelOnly',
  'StrataLoraLoader',
  'StrataLoraStack',
  'StrataLoraFromPrompt',
])
/** More nodes than anybody chains. */
const FARTHEST = 200
/** The most that a scheduler's steps go through, as the server has it. */
const MOST_NODES = 8
/** Modes of nodes that do not run: muted, bypassed. */
const IDLE = [2, 4]
/** More marks than can be told apart. */
const MOST_MARKS = 100

export class NoiseLine {
  /** @type {Step[] | null} */
  #steps = null
  #asked = ''
  #drawn = ''
  #round = 0

  /** @param {import('./plot.js').Plot} plot that it is drawn in */
  constructor(plot) {
    this.plot = plot
    this.line = document.createElementNS(SVG, 'path')
    this.line.classList.add('strata-curve-noise')
    this.marks = document.createElementNS(SVG, 'path')
    this.marks.classList.add('strata-curve-steps')
    plot.line.before(this.marks, this.line)
  }

  /** Asks what is not known yet, and draws. Cheap where nothing has changed. @param {GraphNode | null | undefined} loader */
  tick(loader) {
    const question = loader ? questionOf(loader) : null
    const asked = JSON.stringify(question)
    if (asked !== this.#asked) {
      this.#asked = asked
      void this.#ask(question)
    }
    this.draw()
  }

  /** How many steps it is; null where nobody knows. */
  get count() {
    return this.#steps && this.#steps.length > 1 ? this.#steps.length - 1 : null
  }

  /** @param {Question | null} question */
  async #ask(question) {
    const round = ++this.#round
    const found = question ? await getNoise(question) : null
    if (round !== this.#round) return
    this.#steps = found?.steps ?? null
    this.draw()
  }

  draw() {
    const { plot } = this
    const { unit } = plot.editor.curve
    const signature = JSON.stringify([this.#steps, unit, plot.axis])
    if (signature === this.#drawn) return
    this.#drawn = signature
    const steps = this.#steps ?? []
    const most = Math.max(...steps.map(([sigma]) => sigma)) || 1
    const spots = steps.map(([sigma, percent], at) => {
      const place = unit === 'step' ? at : unit === 'percent' ? percent : sigma
      return { x: round(100 * along(plot.axis, place)), y: round(100 - 100 * (sigma / most)) }
    }).filter(({ x }) => x >= 0 && x <= 100)
    attribute(this.line, 'd', spots.map(({ x, y }, at) => `${at ? 'L' : 'M'}${x} ${y}`).join('') || null)
    const marks = spots.length > MOST_MARKS ? [] : spots
    attribute(this.marks, 'd', marks.map(({ x }) => `M${x} 96V100`).join('') || null)
    const told = steps.length < 2 ? '' : t('noiseOfSteps', {
      steps: steps.length - 1,
      from: short(steps[0][0]),
      to: short(steps[steps.length - 2][0]),
    })
    attribute(plot.element, 'title', told || null)
  }

  dispose() {
    this.#round++
  }
}

/** What the sampler behind a loader does, null where nobody knows. @param {GraphNode} loader @returns {Question | null} */
function questionOf(loader) {
  const run = outputOf(loader)?.strata_noise?.[0]
  if (typeof run !== 'string') return null
  for (const found of nodesBehind(loader)) {
    const takesSigmas = SAMPLERS.get(found.type ?? '')
    if (takesSigmas === undefined || IDLE.includes(found.mode ?? 0) || !samples(found, loader)) continue
    const way = takesSigmas ? wayOf(found, loader) : [made(found, 0)]
    return way?.every((each) => each) ? { run, way: /** @type {Made[]} */ (way) } : null
  }
  return null
}

/** Whether a sampler's model is a loader's, as that gave it. @param {GraphNode} sampler @param {GraphNode} loader */
function samples(sampler, loader) {
  if (!sampler.inputs?.some((slot) => slot.name === 'guider')) return comesFrom(sampler, loader)
  const guider = sourceOf(sampler, 'guider')?.node
  return GUIDERS.has(guider?.type ?? '') && comesFrom(/** @type {GraphNode} */ (guider), loader)
}

/**
 * The nodes that a sampler's SIGMAS come through, the first to run first; null in it for one whose settings are not known here.
 *
 * @param {GraphNode} sampler
 * @param {GraphNode} loader
 * @returns {(Made | null)[] | null}
 */
function wayOf(sampler, loader) {
  /** @type {(Made | null)[]} */
  const way = []
  let at = sourceOf(sampler, 'sigmas')
  while (at && way.length < MOST_NODES) {
    const { node, slot } = at
    // Without a LoRA or with it, a model counts its noise in the same way.
    if (takes(node, 'MODEL') && !comesFrom(node, loader) && !isSame(rootOf(node), rootOf(loader))) return null
    way.unshift(made(node, slot))
    const before = takes(node, 'SIGMAS')
    if (!before) return way
    at = sourceOf(node, before.name)
  }
  return null
}

/** An input for a wire of a type. @param {GraphNode} node @param {string} type */
const takes = (node, type) => node.inputs?.find((slot) => slot.type === type)

/**
 * A node with its settings, without those that a wire decides; null where another wire decides what it makes.
 *
 * @param {GraphNode} node
 * @param {number} slot
 * @returns {Made | null}
 */
function made(node, slot) {
  const samples = SAMPLERS.has(node.type ?? '')
  const others = node.inputs?.filter(({ name, type }) => !widgetOf(node, name) && type !== 'MODEL' && type !== 'SIGMAS')
  if (!samples && others?.some(({ name }) => isLinked(node, name))) return null
  const names = node.widgets?.map(({ name }) => name).filter((name) => !samples || OF_SAMPLERS.has(name)) ?? []
  return { node: node.type ?? '', slot, values: Object.fromEntries(names.map((name) => [name, settingOf(node, name)])) }
}

/** @param {GraphNode} node @param {string} name @returns {unknown} undefined where nobody knows before the run */
function settingOf(node, name) {
  if (!isLinked(node, name)) return valueOf(node, name)
  const number = sourceOf(node, name)?.node
  return number && NUMBERS.has(number.type ?? '') && !isLinked(number, 'value') ? valueOf(number, 'value') : undefined
}

/** Whether a node's model is a loader's, as that gave it. @param {GraphNode} node @param {GraphNode} loader */
function comesFrom(node, loader) {
  let at = sourceOf(node, 'model')
  for (let count = 0; at && count < FARTHEST; count++) {
    if (at.node === loader) return at.slot === 0
    if (!isPlain(at)) return false
    at = sourceOf(at.node, 'model')
  }
  return false
}

/** @typedef {{node: GraphNode, slot: number} | null} Source */

/** Where the model of a node begins, before all LoRAs. @param {GraphNode} node @returns {Source} */
function rootOf(node) {
  let at = sourceOf(node, 'model')
  for (let count = 0; at && isPlain(at) && count < FARTHEST; count++) at = sourceOf(at.node, 'model')
  return at
}

/** @param {{node: GraphNode, slot: number}} source */
const isPlain = ({ node, slot }) => PLAIN.has(node.type ?? '') && slot === 0

/** @param {Source} one @param {Source} other */
const isSame = (one, other) => one !== null && one.node === other?.node && one.slot === other.slot

/** @param {number} value */
const round = (value) => Number(value.toFixed(2))

/** @param {number} value */
const short = (value) => String(Number(value.toPrecision(3)))
