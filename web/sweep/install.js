// @ts-check
// Puts the grid under the widgets of a StrataSweep.
import { t } from '../lib/i18n.js'
import { addPanel } from '../lib/panel.js'
import { listen } from './cells.js'
import { SweepPanel } from './panel.js'

/** @param {import('../lib/comfy.js').GraphNode} node */
export function installSweep(node) {
  listen()
  addPanel(node, new SweepPanel(node), { name: 'strata_sweep', label: t('sweep'), width: 420 })
}
