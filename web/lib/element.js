// @ts-check
// An element of ours among a node's widgets: what ComfyUI has to know of it, the same for all.
import { heightWithoutStep } from './undo.js'

/** @typedef {import('./comfy.js').GraphNode} GraphNode */

/**
 * When ComfyUI selects the node and brings it to the front. Its own choice, the click, comes after the hand's edit is done: inside a
 * subgraph, where the order of the nodes is kept as such, the new order would then be a step of undo after the edit's own.
 */
const SELECT_ON = ['mousedown']

/**
 * Puts it under a node's widgets. It is never saved, and last: the places of saved widgets do not shift.
 *
 * @param {GraphNode} node
 * @param {string} name of the widget
 * @param {HTMLElement} element
 * @param {object} how
 * @param {string} how.label in words
 * @param {number} how.margin px around it
 * @param {() => number} how.height px that it needs
 * @param {() => boolean} [how.grows] whether it takes more where the node is taller; without it, it does
 * @param {boolean} [how.told] whether it is there for what a run told
 */
export function addElement(node, name, element, { label, margin, height, grows, told }) {
  const needed = () => height() + 2 * margin
  const widget = node.addDOMWidget(name, name.toUpperCase(), element, {
    serialize: false,
    hideOnZoom: true,
    hideInPanel: true,
    selectOn: SELECT_ON,
    margin,
    getMinHeight: needed,
    ...(grows && { getMaxHeight: () => (grows() ? undefined : needed()) }),
    getValue: () => '',
    setValue: () => {},
  })
  widget.serialize = false
  widget.label = label
  // ComfyUI has made room for it.
  heightWithoutStep(node, told)
}
