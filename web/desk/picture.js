// @ts-check
// Which block of a LoRA carries the picture: what a sweep found that left out one after another, as bars beside those of the file.
import { isLinked, loaderBehind, slotName, valueOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { makeSweep } from '../sweep/making.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */
/** @typedef {import('../sweep/making.js').Used} Used */

/** The LoRA on the loader that takes a node's block weights, as it acts there. @param {GraphNode} node @returns {Used | null} */
export function usedBehind(node) {
  const found = loaderBehind(node)
  if (!found?.lora || isLinked(found.node, 'lora_model')) return null
  const strength = (/** @type {string} */ name) =>
    isLinked(found.node, name) ? null : Number(valueOf(found.node, name) ?? 1)
  const beside = ['keyframes', 'mask'].filter((name) => isLinked(found.node, name)).map((name) =>
    slotName(found.node, name)
  )
  return {
    node: found.node,
    lora: found.lora,
    model: strength('strength_model'),
    clip: strength('strength_clip'),
    beside,
  }
}

export class Carried {
  /**
   * @param {import('../lib/server.js').Carried} told
   * @param {Used | null} used how the LoRA acts now
   */
  constructor(told, used) {
    this.blocks = told.blocks
    this.told = told
    this.most = Math.max(0, ...Object.values(told.blocks))
    /** Whether the LoRA acts with another strength now. */
    this.old = used !== null &&
      (/** @type {const} */ (['model', 'clip'])).some((side) => used[side] !== null && used[side] !== told[side])
  }

  /** 0 to 1, of the largest. @param {string} name */
  height(name) {
    return this.most ? (this.blocks[name] ?? 0) / this.most : 0
  }

  get word() {
    return this.old ? t('barsPictureOld') : t('barsPicture')
  }

  get hint() {
    const { model = 1, clip = 1, drawn_with: file } = this.told
    const strengths = model === clip ? String(model) : `${model}, ${clip}`
    return [
      t('barsPictureHint'),
      t('barsPictureAt', { strengths, top: short(this.most) }),
      file && t('barsPictureWith', { file }),
      this.old && t('barsPictureOldHint'),
    ].filter(Boolean).join('\n')
  }

  /** In words, of one block. @param {string[]} names */
  describe(names) {
    const [name, ...more] = names
    if (more.length || !(name in this.blocks)) return ''
    return t(this.old ? 'pictureOfOld' : 'pictureOf', { rms: short(this.blocks[name]) })
  }
}

/** The part of a desk that is about the picture. */
export class Picture {
  /** @type {Carried | null} */
  bars = null
  /** What the server knows of the LoRA. @type {import('../lib/server.js').Carried | null} */
  told = null

  /** @param {import('./desk.js').DeskView} desk @param {() => Used | null} usedAs how its LoRA acts */
  constructor(desk, usedAs) {
    this.desk = desk
    this.usedAs = usedAs
  }

  /** @param {boolean} fits whether the faders are of the LoRA's model @param {import('../lib/server.js').Carried | null} [told] what the server knows by now */
  show(fits, told = this.told) {
    // The sweep that was made has run.
    if (told && told !== this.told) this.desk.foot.tell('')
    this.told = told
    this.bars = fits && this.told ? new Carried(this.told, this.usedAs()) : null
  }

  /** Marks bars that were drawn at another strength; tells whether that changed. */
  compare() {
    if (!this.bars || !this.told) return false
    const { old } = this.bars
    this.show(true)
    return this.bars.old !== old
  }

  /** Makes a sweep that finds out. */
  make() {
    const used = this.usedAs()
    if (!used) return this.desk.foot.complain(t('noLora'))
    const made = makeSweep({ ...used, beside: [...this.#own(), ...used.beside] })
    if (!made) return this.desk.foot.complain(t('pictureCannot'))
    const { missing, unset, leftOut, drawn } = made
    const listed = (/** @type {string[]} */ names) => names.join(t('comma'))
    // What is missing comes first: without it nothing runs.
    const first = !drawn ?
      [t('pictureNoSampler')] :
      missing.length ?
      [t('pictureMissing', { names: listed(missing) })] :
      [t('pictureMade')]
    const told = [
      ...first,
      drawn && unset.length > 0 && t('pictureUnset', { names: listed(unset) }),
      leftOut.length > 0 && t('pictureLeftOut', { names: listed(leftOut) }),
    ]
    this.desk.foot.tell(told.filter(Boolean).join(' '))
  }

  /** The desk's own weights, where they are not all 1: the sweep leaves out one block of the whole LoRA. */
  #own() {
    const { settings } = this.desk
    const acts = settings && (Object.values(settings.values).some((value) => value !== 1) ||
      Object.keys(settings.fine).length > 0)
    return acts ? [t('pictureWeights')] : []
  }
}

/** @param {number} value */
const short = (value) => String(Number(value.toPrecision(2)))
