// @ts-check
// A strength over time as numbers: where its points lie on the axis, how it is written, and what an edit makes of it. What a text means,
// only the server says.
import { formatNumber } from '../lib/numbers.js'

/** @typedef {'percent' | 'step' | 'sigma'} Unit */
/** @typedef {'linear' | 'smooth' | 'hold'} Shape */
/** @typedef {[place: number, strength: number]} Point */
/**
 * @typedef {object} Curve
 * @property {Point[]} points in the order of the sampling; a percent is a number from 0 to 100
 * @property {Unit} unit
 * @property {Shape} shape
 * @property {number} [again] the place behind all points from which on they come again and again
 */
/** @typedef {{from: number, to: number}} Axis the places at its left and its right end; noise falls */

/** @type {Record<Unit, string>} */
export const SUFFIX = { percent: '%', step: 's', sigma: 'sigma' }
/** How far apart places are that a hand sets, and that it sets with Shift. @type {Record<Unit, [number, number]>} */
const GRID = { percent: [1, 0.1], step: [1, 0.5], sigma: [0.05, 0.01] }
/** The end of an axis in steps, unless a point lies further or a sampler says it. */
export const STEPS = 20
/** The end of an axis in noise beyond 1: what Stable Diffusion begins with. */
const NOISE = 15
/** More rounds than can be told apart. */
const MOST_ROUNDS = 200
/** How exact places of another unit are told: as good as each other. @type {Record<Unit, number>} */
const EXACT = { percent: 0.1, step: 0.01, sigma: 0.0001 }
/** Strengths that are always in reach; more where a point lies outside. */
const USUAL = { low: -0.5, high: 1.5 }

/** @param {Curve} curve */
export function write({ points, unit, shape, again }) {
  const written = points.map(([place, strength]) => `${formatNumber(strength)}@${formatNumber(place)}${SUFFIX[unit]}`)
  if (again !== undefined) written.push(`again@${formatNumber(again)}${SUFFIX[unit]}`)
  return (shape === 'linear' ? '' : `${shape}: `) + written.join(', ')
}

/** @param {Curve} curve @param {number | null} [steps] of the sampler that it acts in @returns {Axis} */
export function axisOf({ points, unit, again = 0 }, steps) {
  const most = Math.max(again, ...points.map(([place]) => place))
  if (unit === 'percent') return { from: 0, to: Math.max(100, most) }
  if (unit === 'step') return { from: 0, to: Math.max(steps ?? STEPS, Math.ceil(most)) }
  return { from: most <= 1 ? 1 : Math.max(NOISE, Math.ceil(most)), to: 0 }
}

/** Where a place lies along an axis, 0 to 1. @param {Axis} axis @param {number} place */
export const along = ({ from, to }, place) => (place - from) / (to - from)

/** The place there, on the grid of hands. @param {Axis} axis @param {number} share @param {Unit} unit @param {boolean} fine */
export function placeAt({ from, to }, share, unit, fine) {
  return snap(from + Math.min(1, Math.max(0, share)) * (to - from), GRID[unit][fine ? 1 : 0])
}

/** How far an arrow key moves a point to the right. @param {Unit} unit @param {boolean} fine */
export const nudge = (unit, fine) => GRID[unit][fine ? 1 : 0] * (unit === 'sigma' ? -1 : 1)

/** The lowest and the highest strength that the picture shows. @param {Curve} curve */
export function rangeOf({ points }) {
  const strengths = points.map(([, strength]) => strength)
  return {
    low: Math.min(USUAL.low, Math.floor(Math.min(...strengths) * 2) / 2),
    high: Math.max(USUAL.high, Math.ceil(Math.max(...strengths) * 2) / 2),
  }
}

/** A point elsewhere, but not beyond its neighbours. @param {Curve} curve @param {number} at @param {number} place @param {number} strength @returns {Curve} */
export function moved(curve, at, place, strength) {
  const points = [...curve.points]
  const [before, after] = [points[at - 1]?.[0], points[at + 1]?.[0]]
  const [low, high] = curve.unit === 'sigma' ? [after, before] : [before, after]
  points[at] = [Math.min(high ?? Infinity, Math.max(low ?? 0, place)), strength]
  return beginsBehind({ ...curve, points })
}

/** A curve that comes again does so behind its last point. @param {Curve} curve @returns {Curve} */
function beginsBehind(curve) {
  const { points, unit, again } = curve
  const last = points[points.length - 1][0]
  return again === undefined || again > last ? curve : { ...curve, again: last + GRID[unit][0] }
}

/** One more point, in order. @param {Curve} curve @param {number} place @param {number} strength @returns {{curve: Curve, at: number}} */
export function added(curve, place, strength) {
  const later = curve.points.findIndex(([other]) => (curve.unit === 'sigma' ? other < place : other > place))
  const at = later < 0 ? curve.points.length : later
  return { curve: beginsBehind({ ...curve, points: spliced(curve.points, at, 0, [place, strength]) }), at }
}

/** A curve has one point at least. @param {Curve} curve @param {number} at @returns {Curve} */
export const removed = (curve, at) =>
  curve.points.length > 1 ? { ...curve, points: spliced(curve.points, at, 1) } : curve

/** A point at a typed place: it may pass its neighbours. @param {Curve} curve @param {number} at @param {number} place @returns {{curve: Curve, at: number}} */
export function placed(curve, at, place) {
  const [, strength] = curve.points[at]
  return added({ ...curve, points: spliced(curve.points, at, 1) }, place, strength)
}

/**
 * @typedef {object} Sampling
 * @property {number} steps
 * @property {number[] | null} noise at places from the beginning of the sampling to its end, evenly spread; falling; null where nobody knows
 */

/**
 * The same points counted in another unit.
 *
 * @param {Curve} curve
 * @param {Unit} unit
 * @param {Sampling} sampling
 * @returns {Curve | null} null where nobody knows how
 */
export function inUnit(curve, unit, { steps, noise }) {
  if (unit === curve.unit) return curve
  if (!noise && (unit === 'sigma' || curve.unit === 'sigma')) return null
  const share = (/** @type {number} */ place) =>
    curve.unit === 'percent' ? place / 100 : curve.unit === 'step' ? place / steps : shareOf(place, noise ?? [])
  const place = (/** @type {number} */ part) =>
    unit === 'percent' ? 100 * part : unit === 'step' ? steps * part : noiseAt(part, noise ?? [])
  const there = (/** @type {number} */ old) => snap(place(share(old)), EXACT[unit])
  const found = { ...curve, unit, points: curve.points.map(([old, strength]) => [there(old), strength]) }
  if (curve.again === undefined) return /** @type {Curve} */ (found)
  // Noise never comes again.
  return unit === 'sigma' ? null : beginsBehind(/** @type {Curve} */ ({ ...found, again: there(curve.again) }))
}

/** The noise at a part of the sampling, straight between the places that are known. @param {number} part @param {number[]} noise */
function noiseAt(part, noise) {
  const at = Math.min(1, Math.max(0, part)) * (noise.length - 1)
  const low = Math.min(Math.floor(at), noise.length - 2)
  return noise[low] + (at - low) * (noise[low + 1] - noise[low])
}

/** The part of the sampling at which there is so much noise. @param {number} sigma @param {number[]} noise */
function shareOf(sigma, noise) {
  const next = noise.findIndex((other, at) => at > 0 && other <= sigma)
  const low = (next < 0 ? noise.length - 1 : next) - 1
  const into = (noise[low] - sigma) / (noise[low] - noise[low + 1])
  return (low + Math.min(1, Math.max(0, into))) / (noise.length - 1)
}

/**
 * The line as a path in a box of 100 by 100. A smooth piece is a cubic curve whose handles lie a third in, at the height of its ends:
 * that is s * s * (3 - 2 * s) itself.
 *
 * @param {Curve} curve
 * @param {Axis} [axis]
 * @param {{low: number, high: number}} [range]
 */
export function path(curve, axis = axisOf(curve), range = rangeOf(curve)) {
  const spots = everywhere(curve, axis).map(([place, strength]) => ({
    x: 100 * along(axis, place),
    y: 100 - 100 * height(range, strength),
  }))
  const [first] = spots
  const parts = [`M0 ${round(first.y)}H${round(first.x)}`]
  for (let at = 1; at < spots.length; at++) {
    const [a, b] = [spots[at - 1], spots[at]]
    const third = (b.x - a.x) / 3
    if (curve.shape === 'hold') parts.push(`H${round(b.x)}V${round(b.y)}`)
    else if (curve.shape === 'linear') parts.push(`L${round(b.x)} ${round(b.y)}`)
    else parts.push(`C${[a.x + third, a.y, b.x - third, b.y, b.x, b.y].map(round).join(' ')}`)
  }
  return `${parts.join('')}H100`
}

/** The points with those that come again, up to the end of the axis. @param {Curve} curve @param {Axis} axis @returns {Point[]} */
function everywhere({ points, again }, { to }) {
  if (again === undefined) return points
  const rounds = Math.min(MOST_ROUNDS, Math.ceil(to / again))
  return Array.from({ length: Math.max(1, rounds) }, (_, round) => {
    const at = round * again
    const moved = points.map(([place, strength]) => /** @type {Point} */ ([at + place, strength]))
    // It begins with the first strength, whatever it ended with.
    const [first, last] = [points[0][1], points[points.length - 1][1]]
    const jump = /** @type {Point[]} */ (round ? [[at, last], [at, first]] : [])
    return [...jump, ...moved]
  }).flat().filter(([place]) => place <= to)
}

/** How far up a strength stands, 0 to 1. @param {{low: number, high: number}} range @param {number} strength */
export const height = ({ low, high }, strength) => (strength - low) / (high - low)

/** @param {Point[]} points @param {number} at @param {number} count @param {...Point} instead */
const spliced = (points, at, count, ...instead) => [...points.slice(0, at), ...instead, ...points.slice(at + count)]

/** @param {number} value @param {number} grid */
const snap = (value, grid) => Number((Math.round(value / grid) * grid).toFixed(4))

/** @param {number} value */
const round = (value) => Number(value.toFixed(3))
