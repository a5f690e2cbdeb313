// @ts-check
// When to look at the graph again. Every item that is watched is asked to look, cheaply, and redraws only where something is another.
//
// What a hand does reaches us as an event: a widget's callback, a wire (onConnectionsChange), undo and redo and the end of every change
// (graphChanged), a run, another graph on the screen (litegraph:set-graph), and for the rest the end of a press, a key or a turn of the
// wheel. Three things have no event in ComfyUI 1.47: a value that another extension's code sets, the answer that a file came by, and a wire
// at the far end of a chain of reroutes or subgraphs that such code lays. For those one clock looks once a second.
import { api, app } from './comfy.js'
import { note, RUN_EVENTS } from './runs.js'

/** @typedef {{tick(): void}} Item */

/** Ms between two looks. */
const PERIOD = 1000
const HANDS = ['pointerup', 'keyup', 'change', 'wheel']

/** @type {Set<Item>} */
const watched = new Set()
let clock = 0
let waiting = 0
/** @type {AbortController | null} */
let listening = null

/** @param {Item} item */
export function watch(item) {
  watched.add(item)
  if (!listening) start()
}

/** @param {Item} item */
export function unwatch(item) {
  watched.delete(item)
  if (!watched.size) stop()
}

/** Looks before the next frame; many wishes are one look. */
export function lookSoon() {
  waiting ||= requestAnimationFrame(() => {
    waiting = 0
    look()
  })
}

function start() {
  listening = new AbortController()
  const { signal } = listening
  for (const kind of HANDS) addEventListener(kind, lookSoon, { capture: true, passive: true, signal })
  app.canvas?.canvas.addEventListener('litegraph:set-graph', lookSoon, { signal })
  api.addEventListener('graphChanged', lookSoon, { signal })
  for (const kind of RUN_EVENTS) {
    api.addEventListener(kind, (event) => {
      note(event, lookSoon)
      lookSoon()
    }, { signal })
  }
  clock = setInterval(() => !document.hidden && look(), PERIOD)
}

function stop() {
  listening?.abort()
  listening = null
  clearInterval(clock)
  cancelAnimationFrame(waiting)
  waiting = 0
}

function look() {
  for (const item of [...watched]) item.tick()
}
