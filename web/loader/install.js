// @ts-check
// Puts the bars of the strengths and the quiet line under the widgets of a StrataLoraLoader.
import { SELECT_ON } from '../lib/canvas.js'
import { chain, follow } from '../lib/comfy.js'
import { showWidget, widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { LoaderLine } from './line.js'
import { StrengthPanel } from './panel.js'
import { fitRange, followStrengths, STRENGTHS } from './strengths.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** Px around an element. */
const MARGIN = 6

/** @param {GraphNode} node */
export function installLoader(node) {
  const panel = new StrengthPanel(node)
  const line = new LoaderLine(node)
  const items = [panel, line]
  // Never saved, and last: the places of saved widgets do not shift.
  const common = {
    serialize: false,
    hideOnZoom: true,
    hideInPanel: true,
    selectOn: SELECT_ON,
    margin: MARGIN,
    getValue: () => '',
    setValue: () => {},
  }
  const bars = node.addDOMWidget('strata_strengths', 'STRATA_STRENGTHS', panel.element, {
    ...common,
    getMinHeight: () => panel.minHeight + 2 * MARGIN,
    getMaxHeight: () => panel.minHeight + 2 * MARGIN,
  })
  const text = node.addDOMWidget('strata_line', 'STRATA_LINE', line.element, {
    ...common,
    getMinHeight: () => line.minHeight + 2 * MARGIN,
    getMaxHeight: () => (line.open ? undefined : line.minHeight + 2 * MARGIN),
  })
  bars.serialize = text.serialize = false
  bars.label = t('strengths')
  text.label = t('file')
  const look = () => items.forEach((item) => item.tick())
  const lookAfter = () => queueMicrotask(look)
  for (const name of STRENGTHS) showWidget(node, name, false)
  fitRange(node)
  followStrengths(node, look)
  follow(widgetOf(node, 'lora_name'), look)
  chain(node, 'onConfigure', () => {
    fitRange(node)
    lookAfter()
  })
  chain(node, 'onConnectionsChange', lookAfter)
  chain(node, 'onExecuted', () => line.executed())
  chain(node, 'onAdded', () => items.forEach(watch))
  chain(node, 'onRemoved', () => {
    items.forEach(unwatch)
    items.forEach((item) => item.dispose())
  })
  items.forEach(watch)
  const [width, height] = node.size
  node.setSize([width, Math.max(height, node.computeSize()[1])])
}
