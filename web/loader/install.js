// @ts-check
// Puts the bars of the strengths and the quiet line under the widgets of a StrataLoraLoader.
import { chain, follow } from '../lib/comfy.js'
import { addElement } from '../lib/element.js'
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
  addElement(node, 'strata_strengths', panel.element, {
    label: t('strengths'),
    margin: MARGIN,
    height: () => panel.minHeight,
    grows: () => false,
  })
  addElement(node, 'strata_line', line.element, {
    label: t('file'),
    margin: MARGIN,
    height: () => line.minHeight,
    grows: () => line.open,
  })
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
