// @ts-check
// Mute and solo. What they must give back lives in the node's properties, and so in the workflow and its undo.
import { keepIn, kept } from '../lib/comfy.js'

/** @typedef {import('./desk.js').DeskView} DeskView */
/** @typedef {{mute?: Record<string, number>, solo?: {names: string[], before: Record<string, number>}}} Memory */

const MEMORY = 'strata_desk'

export class Silence {
  /** @param {DeskView} desk */
  constructor(desk) {
    this.desk = desk
  }

  /** @returns {Memory} */
  get #memory() {
    return kept(this.desk.node, MEMORY)
  }

  get #values() {
    return this.desk.settings?.values ?? {}
  }

  /** Muted: at zero, with a weight to give back. */
  get muted() {
    const before = this.#memory.mute ?? {}
    return new Set(Object.keys(before).filter((name) => this.#values[name] === 0))
  }

  /** Soloed: a solo was pressed, and all others are still at zero. @returns {Set<string>} */
  get soloed() {
    const { solo } = this.#memory
    const holds = solo &&
      Object.entries(this.#values).every(([name, value]) => solo.names.includes(name) || value === 0)
    return new Set(holds ? solo.names : [])
  }

  /** Mutes faders; those that are all muted get their weights back. @param {string[]} names */
  mute(names) {
    const values = this.#values
    const muted = this.muted
    const back = names.every((name) => muted.has(name))
    const before = { ...this.#memory.mute }
    /** @type {Record<string, number>} */
    const changes = {}
    for (const name of names) {
      if (back) {
        changes[name] = before[name]
        delete before[name]
      } else if (!muted.has(name)) {
        before[name] = values[name] || 1
        changes[name] = 0
      }
    }
    this.desk.edit(() => {
      keepIn(this.desk.node, MEMORY, { mute: before })
      this.desk.change(changes)
    })
  }

  /** Solos faders; those that are soloed already give back what all others had. @param {string[]} names */
  solo(names) {
    const values = this.#values
    const soloed = this.soloed
    const before = (soloed.size && this.#memory.solo?.before) || { ...values }
    const again = soloed.size === names.length && names.every((name) => soloed.has(name))
    this.desk.edit(() => {
      keepIn(this.desk.node, MEMORY, { solo: again ? undefined : { names, before } })
      const weight = (/** @type {string} */ name) => {
        if (again) return soloed.has(name) ? values[name] : before[name] ?? 1
        return names.includes(name) ? before[name] || 1 : 0
      }
      this.desk.change(Object.fromEntries(Object.keys(values).map((name) => [name, weight(name)])))
    })
  }

  forget() {
    keepIn(this.desk.node, MEMORY, { mute: undefined, solo: undefined })
  }
}
