// @ts-check
// Puts the quiet line under the sliders of a StrataLoraLoader, and keeps the sliders to a usable range.
import { chain } from '../desk/install.js'
import { SELECT_ON } from '../lib/canvas.js'
import { widgetOf } from '../lib/graph.js'
import { unwatch, watch } from '../lib/watch.js'
import { LoaderLine } from './line.js'
import { fitRange, follow } from './strengths.js'

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
    setValue: () => {}
  })
  widget.serialize = false
  fitRange(node)
  follow(node)
  const combo = widgetOf(node, 'lora_name')
  if (combo) {
    const before = combo.callback
    combo.callback = function (...values) {
      const result = before?.apply(this, values)
      line.tick()
      return result
    }
  }
  chain(node, 'onConfigure', () => {
    fitRange(node)
    queueMicrotask(() => line.tick())
  })
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
