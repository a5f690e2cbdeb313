// @ts-check
// Puts the quiet line under the sliders of a StrataLoraLoader, and keeps the sliders to a usable range.
import { SELECT_ON } from '../lib/canvas.js'
import { chain, follow } from '../lib/comfy.js'
import { widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { LoaderLine } from './line.js'
import { fitRange, followStrengths, STRENGTHS } from './strengths.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** @param {GraphNode} node */
export function installLoader(node) {
  const line = new LoaderLine(node)
  const widget = node.addDOMWidget('strata_line', 'STRATA_LINE', line.element, {
    serialize: false,
    hideOnZoom: true,
    hideInPanel: true,
    selectOn: SELECT_ON,
    margin: 6,
    getMinHeight: () => line.minHeight + 12,
    getMaxHeight: () => (line.open ? undefined : line.minHeight + 12),
    getValue: () => '',
    setValue: () => {},
  })
  widget.serialize = false
  widget.label = t('file')
  fitRange(node)
  followStrengths(node)
  for (const name of ['lora_name', ...STRENGTHS]) follow(widgetOf(node, name), () => line.tick())
  chain(node, 'onConfigure', () => {
    fitRange(node)
    queueMicrotask(() => line.tick())
  })
  chain(node, 'onConnectionsChange', () => queueMicrotask(() => line.tick()))
  chain(node, 'onExecuted', () => line.executed())
  chain(node, 'onAdded', () => watch(line))
  chain(node, 'onRemoved', () => {
    unwatch(line)
    line.dispose()
  })
  watch(line)
  const [width, height] = node.size
  node.setSize([width, Math.max(height, node.computeSize()[1])])
}
