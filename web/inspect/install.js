// @ts-check
// Puts the picture under the widgets of a StrataLoraInspect.
import { t } from '../lib/i18n.js'
import { addPanel } from '../lib/panel.js'
import { InspectPanel } from './panel.js'

/** @param {import('../lib/comfy.js').GraphNode} node */
export function installInspect(node) {
  const follows = ['lora_name', 'theme']
  addPanel(node, new InspectPanel(node), {
    name: 'strata_inspect',
    label: t('inspect'),
    width: 460,
    follows,
    wires: true,
  })
}
