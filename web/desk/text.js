// @ts-check
// Weights texts as the desk writes them: canonical rules, NAME=value, and a default. What a typed text means, only the server says.

import { formatNumber } from '../lib/numbers.js'

/** @typedef {import('../lib/server.js').Layout} Layout */
/** @typedef {import('../lib/server.js').Settings} Settings */
/** @typedef {import('../lib/server.js').Group} Group */
/** @typedef {import('../lib/server.js').Block} Block */
/** @typedef {Record<string, number>} Weights fader -> weight */

/**
 * The settings after some faders were moved. Of the two texts that say it the shorter is taken: the old rules with new ones behind
 * them, or, where the faders say all that the old text said, one written from the faders.
 *
 * @param {Layout} layout
 * @param {Settings} settings
 * @param {Weights} changes
 * @returns {Settings}
 */
export function edited(layout, settings, changes) {
  const values = { ...settings.values, ...changes }
  const fine = Object.fromEntries(Object.entries(settings.fine).filter(([name]) => !(name in changes)))
  let text = appended(layout, settings.text, changes)
  if (settings.plain) {
    const rewritten = compact(layout, values)
    if (rewritten.length <= text.length) text = rewritten
  }
  return { ...settings, text, values, fine }
}

/** The rules of a canonical text, the default apart. @param {string} text */
export function split(text) {
  const rules = text ? text.split(', ') : []
  const last = rules[rules.length - 1]
  return last?.startsWith('default=') ? { rules: rules.slice(0, -1), rest: rules.slice(-1) } : { rules, rest: [] }
}

/**
 * The old rules with new ones behind them. Rules for single faders at the end of the old text are replaced where they are set anew.
 *
 * @param {Layout} layout
 * @param {string} text
 * @param {Weights} changes
 */
function appended(layout, text, changes) {
  const { rules, rest } = split(text)
  const names = new Map(layout.groups.flatMap((group) => group.blocks.map((block) => [block.name, block.rule])))
  const ofFaders = new Set(names.values())
  /** @type {Map<string, string>} */
  const ending = new Map()
  while (rules.length) {
    const [left, right] = rules[rules.length - 1].split('=')
    if (!ofFaders.has(left) || right.includes('..') || ending.has(left)) break
    ending.set(left, right)
    rules.pop()
  }
  const own = new Map([...ending].reverse())
  for (const [name, value] of Object.entries(changes)) own.set(names.get(name) ?? name, formatNumber(value))
  return [...rules, ...[...own].map((rule) => rule.join('=')), ...rest].join(', ')
}

/**
 * One text for these values: a default, then groups, runs and single blocks that differ from it.
 *
 * @param {Layout} layout
 * @param {Weights} values
 */
export function compact(layout, values) {
  const used = new Map()
  for (const value of Object.values(values)) used.set(value, (used.get(value) ?? 0) + 1)
  const common = [...used].sort((a, b) => b[1] - a[1]).slice(0, 3)
  const texts = common.map(([value]) => {
    const rules = layout.groups.flatMap((group) => groupRules(group, values, value))
    return [...rules, `default=${formatNumber(value)}`].join(', ')
  })
  return texts.reduce((best, text) => (text.length < best.length ? text : best))
}

/**
 * @param {Group} group
 * @param {Weights} values
 * @param {number} rest the default
 * @returns {string[]}
 */
function groupRules({ name, blocks }, values, rest) {
  const own = blocks.map((block) => values[block.name])
  if (own.every((value) => value === rest)) return []
  const plain = runs(name, blocks, own, rest)
  if (blocks.length === 1) return plain
  const counts = new Map()
  for (const value of own) counts.set(value, (counts.get(value) ?? 0) + 1)
  const [base] = [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))
  const whole = name === 'TE' ? 'TE' : `${name}*`
  const grouped = [`${whole}=${formatNumber(base)}`, ...runs(name, blocks, own, base)]
  return grouped.join(', ').length < plain.join(', ').length ? grouped : plain
}

/**
 * Neighbours with the same weight are one rule: IN4-8=0.5.
 *
 * @param {string} name
 * @param {Block[]} blocks
 * @param {number[]} own
 * @param {number} rest
 */
function runs(name, blocks, own, rest) {
  const rules = []
  for (let from = 0; from < blocks.length;) {
    let to = from
    const numbered = blocks[from].rule.startsWith(name) && /^\d+$/.test(blocks[from].rule.slice(name.length))
    while (numbered && to + 1 < blocks.length && own[to + 1] === own[from]) to++
    if (own[from] !== rest) {
      const end = to > from ? `-${blocks[to].rule.slice(name.length)}` : ''
      rules.push(`${blocks[from].rule}${end}=${formatNumber(own[from])}`)
    }
    from = to + 1
  }
  return rules
}

/**
 * A text that somebody could write for this layout, as an example.
 *
 * @param {Layout} layout
 */
export function example(layout) {
  const many = layout.groups.filter(({ name, blocks }) => blocks.length > 5 && name !== 'TE')
  const [first, last] = [many[0], many[many.length - 1]]
  if (!first) return ''
  const run = (/** @type {Group} */ group) => {
    const third = Math.floor(group.blocks.length / 3)
    return `${group.blocks[third].rule}-${group.blocks[2 * third].rule.slice(group.name.length)}=0.5`
  }
  return [run(first), ...(last === first ? [] : [`${last.name}*=1`]), 'TE=0.4', 'default=0'].join(', ')
}
