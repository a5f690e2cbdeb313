// @ts-check
// Mute and solo. What they must give back lives in the node's properties, and so in the workflow and its undo.

/**
 * @typedef {object} Desk what mute and solo need of it
 * @property {any} node
 * @property {import('../lib/server.js').Settings | null} settings
 * @property {(changes: Record<string, number>) => void} change
 */

export class Silence {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk
  }

  get memory() {
    const { node } = this.desk
    node.properties ??= {}
    return (node.properties.strata_desk ??= {})
  }

  get values() {
    return this.desk.settings?.values ?? {}
  }

  /** Muted: at zero, with a weight to give back. */
  get muted() {
    const kept = this.desk.node.properties?.strata_desk?.mute ?? {}
    return new Set(Object.keys(kept).filter((name) => this.values[name] === 0))
  }

  /** Soloed: a solo was pressed, and all others are still at zero. */
  get soloed() {
    const solo = this.desk.node.properties?.strata_desk?.solo
    const holds = solo && Object.entries(this.values).every(([name, value]) => solo.names.includes(name) || value === 0)
    return new Set(holds ? solo.names : [])
  }

  /** Mutes faders; those that are all muted get their weights back. @param {string[]} names */
  mute(names) {
    const { muted, values } = this
    const back = names.every((name) => muted.has(name))
    const kept = { ...this.memory.mute }
    /** @type {Record<string, number>} */
    const changes = {}
    for (const name of names) {
      if (back) {
        changes[name] = kept[name]
        delete kept[name]
      } else if (!muted.has(name)) {
        kept[name] = values[name] || 1
        changes[name] = 0
      }
    }
    this.memory.mute = kept
    this.desk.change(changes)
  }

  /** Solos faders; those that are soloed already give back what all others had. @param {string[]} names */
  solo(names) {
    const { soloed, values } = this
    const before = soloed.size ? this.memory.solo.before : { ...values }
    if (soloed.size === names.length && names.every((name) => soloed.has(name))) {
      delete this.memory.solo
      this.desk.change(mapped(values, (name) => (soloed.has(name) ? values[name] : before[name] ?? 1)))
      return
    }
    this.memory.solo = { names, before }
    this.desk.change(mapped(values, (name) => (names.includes(name) ? before[name] || 1 : 0)))
  }

  forget() {
    this.memory.mute = {}
    delete this.memory.solo
  }
}

const mapped = (values, of) => Object.fromEntries(Object.keys(values).map((name) => [name, of(name)]))
