// @ts-check
// Puts the tags of a StrataLoraFromPrompt under its text.
import { chain, follow } from '../lib/comfy.js'
import { addElement } from '../lib/element.js'
import { widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { TagsView } from './tags.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** Px around the element. */
const MARGIN = 6

/** Those of nodes that are there. @type {Set<TagsView>} */
const panels = new Set()

/** The files may have changed. */
export function refreshTags() {
  for (const panel of panels) panel.refresh()
}

/** @param {GraphNode} node */
export function installPrompt(node) {
  const panel = new TagsView(node)
  panels.add(panel)
  addElement(node, 'strata_tags', panel.element, {
    label: t('loras'),
    margin: MARGIN,
    height: () => panel.minHeight,
    grows: () => false,
  })
  const look = () => panel.tick()
  const lookAfter = () => queueMicrotask(look)
  for (const name of ['text', 'two_numbers']) follow(widgetOf(node, name), look)
  chain(node, 'onConnectionsChange', lookAfter)
  chain(node, 'onConfigure', () => {
    // This comes before ComfyUI looks for missing models.
    panel.showMissing()
    lookAfter()
  })
  chain(node, 'onExecuted', look)
  chain(node, 'onAdded', () => {
    panels.add(panel)
    watch(panel)
  })
  chain(node, 'onRemoved', () => {
    panels.delete(panel)
    unwatch(panel)
    panel.dispose()
  })
  watch(panel)
  const [width, tall] = node.size
  node.setSize([width, Math.max(tall, node.computeSize()[1])])
}
