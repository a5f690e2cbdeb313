// @ts-check
// The text that ComfyUI puts under a node when it has run. On the canvas it has room for two lines, whatever it says: here it gets the room
// that its text needs, on this pack's own nodes.
import { chain, isVue } from './comfy.js'
import { widgetOf } from './graph.js'

const NAME = '$$node-text-preview'
const FONT = '12px Inter, sans-serif'
/** Px of a line, of what is above and below all of them, and on both sides. */
const LINE = 16
const ABOVE = 32
const BESIDE = 62
/** Px at which it scrolls. */
const TALLEST = 200

/** @type {WeakSet<object>} */
const known = new WeakSet()

/** @type {CanvasRenderingContext2D | null | undefined} */
let ruler

/** Lines that break anywhere. @param {string} text @param {number} room px */
function linesOf(text, room) {
  ruler ??= document.createElement('canvas').getContext('2d')
  if (!ruler || room <= 0) return 0
  ruler.font = FONT
  let lines = 0
  for (const line of text.split('\n')) lines += Math.max(1, Math.ceil(ruler.measureText(line).width / room))
  return lines
}

/** @param {import('./comfy.js').GraphNode} node */
export function showWhole(node) {
  chain(node, 'onExecuted', () => {
    const widget = widgetOf(node, NAME)
    const options = widget?.options
    if (!widget || !options?.getMinHeight) return
    if (!known.has(widget)) {
      known.add(widget)
      const usual = options.getMinHeight
      options.getMinHeight = () => {
        const needed = ABOVE + LINE * linesOf(String(widget.value ?? ''), node.size[0] - BESIDE)
        return isVue() ? usual() : Math.max(usual(), Math.min(TALLEST, needed))
      }
    }
    const [width, height] = node.size
    const least = node.computeSize()[1]
    if (!isVue() && least > height) node.setSize([width, least])
    node.graph?.setDirtyCanvas?.(true, true)
  })
}
