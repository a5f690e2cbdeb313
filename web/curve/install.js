// @ts-check
// Puts the curve under the widgets of a StrataLoraSchedule node.
import { chain, follow } from '../lib/comfy.js'
import { addElement } from '../lib/element.js'
import { isLinked, loaderBehind, setWidget, valueOf, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { leave, takePlace } from '../lib/place.js'
import { unwatch, watch } from '../lib/watch.js'
import { CurveEditor } from './curve.js'
import { samplingOf, stepsBehind } from './sampling.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** Px of a new node. */
const WIDTH = 340
/** Its height in px. */
const MIN_HEIGHT = 190
/** Px of the text, which is one line, as the curve is its editor. */
const TEXT_LINES = 46

/** @param {GraphNode} node */
export function installCurve(node) {
  const editor = new CurveEditor({
    set: (text) => setWidget(node, 'strength', text),
    sampling: (counted) => samplingOf(node, counted),
  })
  const item = {
    tick() {
      if (!node.graph) return
      takePlace(node, editor.element)
      const steps = editor.plot.noise.count ?? stepsBehind(node)
      editor.show({ text: String(valueOf(node, 'strength') ?? ''), linked: isLinked(node, 'strength'), steps })
      editor.plot.noise.tick(loaderBehind(node)?.node)
    },
  }
  addElement(node, 'strata_curve', editor.element, { label: t('curve'), margin: 8, height: () => MIN_HEIGHT })
  editor.element.style.minHeight = `${MIN_HEIGHT}px`
  const text = widgetOf(node, 'strength')
  if (text?.options) {
    text.options.getMinHeight = () => TEXT_LINES
    text.options.getMaxHeight = () => TEXT_LINES
  }
  const lookAfter = () => queueMicrotask(() => item.tick())
  follow(text, () => item.tick())
  chain(node, 'onConnectionsChange', lookAfter)
  chain(node, 'onConfigure', lookAfter)
  chain(node, 'onAdded', () => watch(item))
  chain(node, 'onRemoved', () => {
    unwatch(item)
    editor.dispose()
    leave(node, editor.element)
  })
  watch(item)
  const [width, height] = node.size
  node.setSize([Math.max(width, WIDTH), Math.max(height, node.computeSize()[1])])
}
