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
/** @typedef {{run: string, sampler: string, scheduler: string, steps: number, denoise: number}} Question */

const SVG = 'http://www.w3.org/2000/svg'
/** Nodes with steps of their own: the widget of their sampler's name, of their scheduler's. */
const SAMPLERS = new Map([['KSampler', true], ['KSamplerAdvanced', true], ['BasicScheduler', false]])
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
    const most = steps[0]?.[0] || 1
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
  for (const found of nodesBehind(loader)) {
    const names = SAMPLERS.get(found.type ?? '')
    if (names === undefined || !comesFrom(found, loader)) continue
    const [steps, scheduler, sampler, denoise] = ['steps', 'scheduler', 'sampler_name', 'denoise'].map((name) =>
      isLinked(found, name) ? undefined : valueOf(found, name)
    )
    const run = outputOf(loader)?.strata_noise?.[0]
    const denoised = widgetOf(found, 'denoise') ? Number(denoise) : 1
    if (typeof run !== 'string' || !(Number(steps) >= 1) || typeof scheduler !== 'string' || !(denoised > 0)) {
      return null
    }
    if (names && typeof sampler !== 'string') return null
    return { run, sampler: names ? String(sampler) : 'euler', scheduler, steps: Number(steps), denoise: denoised }
  }
  return null
}

/** Whether a sampler's model is a loader's, as that gave it. @param {GraphNode} sampler @param {GraphNode} loader */
function comesFrom(sampler, loader) {
  let at = sourceOf(sampler, 'model')
  for (let count = 0; at && count < FARTHEST; count++) {
    if (at.node === loader) return at.slot === 0
    if (!PLAIN.has(at.node.type ?? '') || at.slot !== 0) return false
    at = sourceOf(at.node, 'model')
  }
  return false
}

/** @param {number} value */
const round = (value) => Number(value.toFixed(2))

/** @param {number} value */
const short = (value) => String(Number(value.toPrecision(3)))
