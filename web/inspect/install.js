// @ts-check
// Puts the picture under the widgets of a StrataLoraInspect.
import { widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { addPanel } from '../lib/panel.js'
import { InspectPanel } from './panel.js'
import { themeFor } from './theme.js'

/** @param {import('../lib/comfy.js').GraphNode} node */
export function installInspect(node) {
  const panel = new InspectPanel(node)
  // What is sampled without an editor has no colours of its own: the prompt says which.
  const theme = widgetOf(node, 'theme')
  if (theme) theme.serializeValue = () => themeFor(theme.value, panel.element)
  const follows = ['lora_name', 'theme']
  addPanel(node, panel, { name: 'strata_inspect', label: t('inspect'), width: 460, follows, wires: true })
}
