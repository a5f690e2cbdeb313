// @ts-check
// Puts the grid under the widgets of a StrataSweep.
import { SELECT_ON } from '../lib/canvas.js'
import { chain } from '../lib/comfy.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { listen } from './cells.js'
import { SweepPanel } from './panel.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** Px of a new node. */
const WIDTH = 420

/** @param {GraphNode} node */
export function installSweep(node) {
  listen()
  const panel = new SweepPanel(node)
  const widget = node.addDOMWidget('strata_sweep', 'STRATA_SWEEP', panel.element, {
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
  widget.label = t('sweep')
  const lookAfter = () => queueMicrotask(() => panel.tick())
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
