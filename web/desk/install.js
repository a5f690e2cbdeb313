// @ts-check
// Puts a desk under the widgets of a StrataLoraBlockWeights node.
import { chain, follow } from '../lib/comfy.js'
import { addElement } from '../lib/element.js'
import { isLinked, showWidget, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { DeskView } from './desk.js'
import { NONE } from './widgets.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** Px of a new node: sixty faders fit. */
const WIDTH = 440
/** Px of the text, which is one line, as the desk is its editor. */
const TEXT_LINES = 46

/** Widgets whose place the desk takes: its menu of presets, and its button that inverts. */
const REPLACED = ['preset', 'invert']

/** @param {GraphNode} node */
export function installDesk(node) {
  const desk = new DeskView(node)
  addElement(node, 'strata_desk', desk.element, { label: t('desk'), margin: 8, height: () => desk.height.needed })
  const text = widgetOf(node, 'weights')
  if (text?.options) {
    text.options.getMinHeight = () => TEXT_LINES
    text.options.getMaxHeight = () => TEXT_LINES
  }
  /** One that a wire decides is shown, so that the wire has an end. */
  const show = () => {
    for (const name of REPLACED) showWidget(node, name, isLinked(node, name))
  }
  show()
  for (const name of ['layout', 'weights', 'seed', 'invert']) follow(widgetOf(node, name), () => desk.tick())
  follow(widgetOf(node, 'preset'), (value) => {
    // A preset that something else than the desk's menu has chosen writes its text, too.
    if (typeof value === 'string' && value !== NONE && !desk.isWriting) desk.texts.usePreset(value)
    else desk.tick()
  })
  chain(node, 'onConnectionsChange', () =>
    queueMicrotask(() => {
      show()
      desk.tick()
    }))
  chain(node, 'onConfigure', () => {
    // Before ComfyUI compares the size with what is needed.
    desk.height.keep()
    queueMicrotask(() => {
      show()
      desk.tick()
    })
  })
  chain(node, 'onRemoved', () => {
    unwatch(desk)
    desk.dispose()
  })
  chain(node, 'onAdded', () => watch(desk))
  watch(desk)
  const [width, height] = node.size
  node.setSize([Math.max(width, WIDTH), Math.max(height, node.computeSize()[1])])
}
