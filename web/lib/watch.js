// @ts-check
// Wires, combos, languages and renderers change in ways that no single event tells. One slow clock looks at what the desks depend on,
// and it runs only while there is something to look after.

const PERIOD = 200 // ms
/** @type {Set<{tick(): void}>} */
const watched = new Set()
let clock = 0

/** @param {{tick(): void}} item */
export function watch(item) {
  watched.add(item)
  if (!clock) clock = setInterval(tick, PERIOD)
}

/** @param {{tick(): void}} item */
export function unwatch(item) {
  watched.delete(item)
  if (!watched.size && clock) {
    clearInterval(clock)
    clock = 0
  }
}

function tick() {
  if (!document.hidden) for (const item of [...watched]) item.tick()
}
