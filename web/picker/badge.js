// @ts-check
// The family of a LoRA as a small badge, red where the connected model is of another that takes nothing from it.
import { attribute, el, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'

export class Badge {
  constructor() {
    this.element = el('span', { class: 'strata-family' })
  }

  /** @param {string} text @param {string | null} [wrong] why it is red */
  show(text, wrong = null) {
    setText(this.element, text)
    attribute(this.element, 'hidden', text ? null : true)
    this.element.classList.toggle('wrong', wrong !== null)
    attribute(this.element, 'title', wrong)
  }
}

/**
 * What is wrong between a file's family and a model's.
 *
 * @param {string | null | undefined} family the file's
 * @param {string | null} model
 * @param {string[][]} relatives families that take each other's LoRAs
 */
export function misfit(family, model, relatives) {
  const fits = !model || !family || family === model ||
    relatives.some((group) => group.includes(model) && group.includes(family))
  return fits ? null : t('doesNotFit', { family: family ?? '' })
}
