// @ts-check
// The menus of a stack: of one row, of the whole stack, and the sets that are kept under a name.
import { attribute, el, setText } from '../lib/dom.js'
import { t } from '../lib/i18n.js'
import { Menu } from '../lib/menu.js'
import { NumberField } from '../lib/number_field.js'
import { deleteSet, getSets, saveSet } from '../lib/server.js'
import { parts } from '../picker/file_name.js'
import { canPair, togglePair } from './pair.js'
import { keptRows, takeTurns } from './turns.js'

/** @typedef {import('./stack.js').StackView} StackView */

export class RowMenu extends Menu {
  /** @param {StackView} stack */
  constructor(stack) {
    super(t('rowMenu'))
    this.stack = stack
  }

  /** @param {number} at @param {HTMLElement} opener */
  open(at, opener) {
    const { stack } = this
    const row = stack.rows[at]
    if (!row || !stack.enabled) return
    const isLora = row.kind === 'lora'
    const isGroup = row.kind === 'heading'
    this.show(opener, [
      ...(isLora ? [this.item(t('chooseOther'), () => stack.edits.choose(at, opener))] : []),
      ...(isLora && !row.pick ?
        [this.item(t(row.model === row.clip ? 'clipApart' : 'clipTogether'), () => stack.edits.separate(at))] :
        []),
      ...(isLora && canPair(stack, row) ?
        [this.item(t(row.model_low == null ? 'lowApart' : 'lowTogether'), () => togglePair(stack, at))] :
        []),
      ...(isLora || isGroup ?
        [this.item(t(row.locked ? 'unlock' : 'lock'), () => stack.edits.change(at, { locked: !row.locked }))] :
        []),
      ...(isLora ? [this.item(t(row.pick ? 'pickNot' : 'pickFolder'), () => stack.edits.pickFolder(at))] : []),
      ...(isGroup ?
        [this.item(t(row.pick ? 'pickNotGroup' : 'pickGroup'), () => stack.edits.change(at, { pick: !row.pick }))] :
        []),
      ...(isLora && row.file ? [this.item(t('openDesk'), () => stack.opened.toggle('desk', at))] : []),
      ...(isLora ? [this.item(t('openCurve'), () => stack.opened.toggle('curve', at))] : []),
      this.item(t('behind'), () => stack.opened.toggleDetails(at)),
      this.item(t('moveUp'), () => stack.edits.move(at, -1)),
      this.item(t('moveDown'), () => stack.edits.move(at, 1)),
      this.item(t('duplicate'), () => stack.edits.duplicate(at)),
      this.item(t('remove'), () => stack.edits.remove(at)),
    ])
  }
}

export class StackMenu extends Menu {
  /** @param {StackView} stack */
  constructor(stack) {
    super(t('stackMenu'))
    this.stack = stack
    this.times = this.#number('multiplyBy', (value) => stack.scaling.multiply(value))
    this.total = this.#number('normaliseTo', (value) => stack.scaling.normalise(value))
    this.energy = this.#number('normaliseEnergy', (value) => stack.scaling.normaliseEnergy(value))
    attribute(this.energy.element, 'title', t('normaliseEnergyHint'))
    this.turns = this.#number('takeTurns', (value) => takeTurns(stack, value), 0)
    attribute(this.turns.element, 'title', t('takeTurnsHint'))
    this.kept = el('div', { class: 'strata-note' })
    this.refused = el('div', { class: 'strata-note wrong', role: 'status' })
  }

  /** @param {'multiplyBy' | 'normaliseTo' | 'normaliseEnergy' | 'takeTurns'} label @param {(value: number) => void} run @param {number} [low] */
  #number(label, run, low) {
    const field = new NumberField({
      label: t(label),
      low,
      refuse: (message) => setText(this.refused, message),
      take: (value) => {
        this.popup.close(true)
        run(value)
      },
    })
    return { field, element: el('label', { class: 'strata-exact' }, el('span', { text: t(label) }), field.element) }
  }

  /** @param {HTMLElement} opener */
  open(opener) {
    const { stack } = this
    this.times.field.show(null)
    this.total.field.show(null)
    this.energy.field.show(null)
    this.turns.field.show(null)
    const kept = keptRows(stack).map((row) => parts(row.file ?? row.name ?? '').short)
    setText(this.kept, kept.length ? t('turnsKept', { names: kept.join(t('comma')) }) : '')
    setText(this.refused, '')
    this.show(opener, [
      this.item(t('addHeading'), () => stack.edits.addHeading()),
      this.item(t('allOn'), () => stack.edits.switchAll(true)),
      this.item(t('allOff'), () => stack.edits.switchAll(false)),
      this.item(t('copyRows'), () => stack.clipboard.copyAll()),
      this.item(t('pasteRows'), () => stack.clipboard.paste()),
      this.times.element,
      this.total.element,
      this.energy.element,
      this.turns.element,
      this.kept,
      this.refused,
    ])
  }
}

export class SetMenu extends Menu {
  #asked = ''
  /** The set whose deleting was asked for once. */
  #doomed = ''

  /** @param {StackView} stack */
  constructor(stack) {
    super(t('sets'))
    this.element.classList.add('strata-sets')
    this.stack = stack
    /** @type {HTMLInputElement} */
    this.name = el('input', {
      class: 'strata-search',
      placeholder: t('saveSetAs'),
      'aria-label': t('saveSetAs'),
      on: { keydown: (event) => event.key === 'Enter' && this.#save() },
    })
    this.message = el('div', { class: 'strata-note', role: 'status' })
    this.list = el('div', { class: 'strata-items' })
  }

  /** @param {HTMLElement} opener */
  async open(opener) {
    this.name.value = this.#asked = this.#doomed = ''
    setText(this.message, '')
    this.list.replaceChildren()
    this.show(opener, [
      this.list,
      el(
        'div',
        { class: 'strata-saving' },
        this.name,
        el('button', {
          type: 'button',
          class: 'strata-button',
          'data-act': 'save',
          text: t('save'),
          on: { click: () => this.#save() },
        }),
      ),
      this.message,
    ])
    this.#take(await getSets())
    this.name.focus({ preventScroll: true })
  }

  /** @param {import('../lib/server.js').Sets} answer */
  #take(answer) {
    if (answer.error) return setText(this.message, answer.error)
    setText(this.message, answer.sets.length ? '' : t('noSets'))
    this.sets = answer.sets
    this.list.replaceChildren(...answer.sets.map(({ name, rows }) => {
      const use = this.item(name, () => this.stack.replaceAll(rows))
      attribute(use, 'title', rows)
      const remove = el('button', {
        type: 'button',
        class: 'strata-button',
        'data-act': 'delete',
        text: '×',
        title: t('deleteSet', { name }),
        'aria-label': t('deleteSet', { name }),
        on: { click: () => this.#delete(name) },
      })
      return el('div', { class: 'strata-own' }, use, remove)
    }))
  }

  /** Asks before the first press deletes anything. @param {string} name */
  async #delete(name) {
    if (this.#doomed !== name) {
      this.#doomed = name
      return setText(this.message, t('deleteSetSure', { name }))
    }
    this.#doomed = ''
    this.#take(await deleteSet(name))
  }

  async #save() {
    const name = this.name.value.trim()
    this.#doomed = ''
    if (!name) return this.name.focus()
    if (this.#asked !== name && this.sets?.some((one) => one.name === name)) {
      this.#asked = name
      return setText(this.message, t('replaceSet', { name }))
    }
    const answer = await saveSet({ name, rows: this.stack.text })
    this.#take(answer)
    if (!answer.error) this.popup.close(true)
  }
}
