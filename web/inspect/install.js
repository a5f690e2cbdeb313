// @ts-check
// Puts the picture under the widgets of a StrataLoraInspect.
import { SELECT_ON } from '../lib/canvas.js'
import { chain, follow } from '../lib/comfy.js'
import { widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { InspectPanel } from './panel.js'
import { themeFor } from './theme.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** Px of a new node. */
const WIDTH = 460

/** @param {GraphNode} node */
export function installInspect(node) {
  const panel = new InspectPanel(node)
  const widget = node.addDOMWidget('strata_inspect', 'STRATA_INSPECT', panel.element, {
    // Never saved, and last: the places of saved widgets do not shift.
    serialize: false,
    hideOnZoom: true,
    hideInPanel: true,
    selectOn: SELECT_ON,
    margin: 8,
    getMinHeight: () => panel.minHeight + 16,
    getValue: () => '',
    setValue: () => {},
  })
  widget.serialize = false
  widget.label = t('inspect')
  // What is sampled without an editor has no colours of its own: the prompt says which.
  const theme = widgetOf(node, 'theme')
  if (theme) theme.serializeValue = () => themeFor(theme.value, panel.element)
  const lookAfter = () => queueMicrotask(() => panel.tick())
  for (const name of ['lora_name', 'theme']) follow(widgetOf(node, name), lookAfter)
  chain(node, 'onConnectionsChange', lookAfter)
  chain(node, 'onConfigure', lookAfter)
  chain(node, 'onExecuted', lookAfter)
  chain(node, 'onAdded', () => watch(panel))
  chain(node, 'onRemoved', () => {
    unwatch(panel)
    panel.dispose()
  })
  watch(panel)
  const [width, height] = node.size
  node.setSize([Math.max(width, WIDTH), Math.max(height, node.computeSize()[1])])
}
