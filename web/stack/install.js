// @ts-check
// Puts the rows under the widgets of a StrataLoraStack, in place of its text.
import { chain, follow } from '../lib/comfy.js'
import { addElement } from '../lib/element.js'
import { widgetOf } from '../lib/graph.js'
import { t } from '../lib/i18n.js'
import { unwatch, watch } from '../lib/watch.js'
import { StackView } from './stack.js'

/** @typedef {import('../lib/comfy.js').GraphNode} GraphNode */

/** Px of a new node. */
const WIDTH = 400

/** Those of nodes that are there. @type {Set<StackView>} */
const stacks = new Set()

/** The files may have changed. */
export function refreshStacks() {
  for (const stack of stacks) stack.refresh()
}

/** @param {GraphNode} node */
export function installStack(node) {
  const stack = new StackView(node)
  stacks.add(stack)
  addElement(node, 'strata_rows', stack.element, { label: t('loras'), margin: 8, height: () => stack.minHeight })
  const text = widgetOf(node, 'rows')
  // A prompt gets the rows that act; the workflow, which is saved from the widget's value, keeps them all.
  if (text) text.serializeValue = () => stack.promptText()
  for (const name of ['rows', 'seed']) follow(widgetOf(node, name), () => stack.tick())
  stack.showParts()
  chain(node, 'onConnectionsChange', () =>
    queueMicrotask(() => {
      stack.showParts()
      stack.tick()
    }))
  chain(node, 'onConfigure', () => {
    // This comes before ComfyUI looks for missing models.
    stack.showMissing()
    queueMicrotask(() => {
      stack.showParts()
      stack.tick()
    })
  })
  chain(node, 'onExecuted', () => stack.tick())
  chain(node, 'onAdded', () => {
    stacks.add(stack)
    watch(stack)
  })
  chain(node, 'onRemoved', () => {
    stacks.delete(stack)
    unwatch(stack)
    stack.dispose()
  })
  watch(stack)
  const [width, height] = node.size
  node.setSize([Math.max(width, WIDTH), Math.max(height, node.computeSize()[1])])
}
