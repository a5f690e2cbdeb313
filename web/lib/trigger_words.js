// @ts-check
// Trigger words as buttons. A click copies one, or writes it into the text that somebody has chosen for it.
import { keepIn, kept } from './comfy.js'
import { attribute, copyText, el, setText } from './dom.js'
import { isLinked, setWidget, valueOf, widgetOf } from './graph.js'
import { t } from './i18n.js'
import { oneStep } from './undo.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */
/** @typedef {{node: GraphNode, widget: string}} Place a multiline text */

/** Its name in the node's properties, and so in the workflow. */
const CHOICE = 'strata_words'
/** Ms for which a button says what it has done. */
const TOLD = 900
/** Texts that are no prompts. */
const OTHERS = ['StrataLoraStack', 'StrataLoraBlockWeights', 'Note', 'MarkdownNote']

export class TriggerWords {
  /** @param {GraphNode} node that they are shown on */
  constructor(node) {
    this.node = node
    this.buttons = el('div', { class: 'strata-words' })
    /** @type {HTMLSelectElement} */
    this.into = el('select', {
      class: 'strata-select',
      title: t('wordsInto'),
      'aria-label': t('wordsInto'),
      on: { change: () => this.#choose(), pointerdown: () => this.#list(), focus: () => this.#list() },
    })
    this.element = el('div', { class: 'strata-triggers' }, this.buttons, this.into)
  }

  /** @param {string[]} words */
  show(words) {
    const all = words.length > 1 ? [this.#button(t(this.#place() ? 'insertAll' : 'copyAll'), words)] : []
    this.buttons.replaceChildren(...words.map((word) => this.#button(word, [word])), ...all)
    this.words = words
    if (document.activeElement !== this.into) this.#list()
  }

  /** @param {string} shown @param {string[]} words */
  #button(shown, words) {
    const button = el('button', {
      type: 'button',
      class: 'strata-word',
      title: t(this.#place() ? 'insertWord' : 'copyWord'),
      text: shown,
      on: {
        click: async () => {
          const place = this.#place()
          const done = place ? insert(place, words) : await copyText(words.join(', '))
          if (!done) return
          setText(button, t(place ? 'inserted' : 'copied'))
          setTimeout(() => setText(button, shown), TOLD)
        },
      },
    })
    return button
  }

  /** The texts that there are now. */
  #list() {
    const chosen = this.#place()
    const places = [null, ...placesOf(this.node)]
    const key = JSON.stringify([places.map((place) => place && [place.node.id, place.widget, nameOf(place)])])
    if (this.into.dataset.key !== key) {
      this.into.dataset.key = key
      this.into.replaceChildren(...places.map((place) =>
        el('option', {
          value: place ? JSON.stringify([String(place.node.id), place.widget]) : '',
          text: place ? t('insertInto', { name: nameOf(place) }) : t('clickCopies'),
        })
      ))
    }
    this.into.value = chosen ? JSON.stringify([String(chosen.node.id), chosen.widget]) : ''
    attribute(this.into, 'hidden', places.length > 1 ? null : true)
  }

  /** The text that was chosen, while it is there. @returns {Place | null} */
  #place() {
    const { node, widget } = kept(this.node, CHOICE)
    const found = placesOf(this.node).find((place) => String(place.node.id) === node && place.widget === widget)
    return found ?? null
  }

  #choose() {
    const [node, widget] = this.into.value ? JSON.parse(this.into.value) : []
    oneStep(() => keepIn(this.node, CHOICE, { node, widget }))
    this.show(this.words ?? [])
  }
}

/** @param {GraphNode} from @returns {Place[]} */
function placesOf(from) {
  return (from.graph?.nodes ?? []).flatMap((node) =>
    OTHERS.includes(node.type) ? [] : (node.widgets ?? [])
      .filter((widget) =>
        widget.element instanceof HTMLTextAreaElement && !widget.hidden && !isLinked(node, widget.name)
      )
      .map((widget) => ({ node, widget: widget.name }))
  )
}

/** @param {Place} place */
function nameOf({ node, widget }) {
  const several = (node.widgets ?? []).filter((other) => other.element instanceof HTMLTextAreaElement).length > 1
  const label = widgetOf(node, widget)?.label ?? widget
  return `${node.title || node.type} #${node.id}${several ? ` · ${label}` : ''}`
}

/** Behind what the text says already. @param {Place} place @param {string[]} words */
function insert({ node, widget }, words) {
  const text = String(valueOf(node, widget) ?? '').replace(/[\s,]+$/, '')
  oneStep(() => setWidget(node, widget, [...(text ? [text] : []), ...words].join(', ')))
  return true
}
