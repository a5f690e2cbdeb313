// @ts-check
// Puts a desk under the widgets of a StrataLoraBlockWeights node.
import { SELECT_ON } from '../lib/canvas.js'
import { widgetOf } from '../lib/graph.js'
import { unwatch, watch } from '../lib/watch.js'
import { DeskView } from './desk.js'
import { NONE } from './texts.js'

const WIDTH = 440 // of a new node: sixty faders fit
const TEXT_LINES = 46 // px: the text is one line, and the desk is its editor

export function installDesk(node) {
  const desk = new DeskView(node)
  const widget = node.addDOMWidget('strata_desk', 'STRATA_DESK', desk.element, {
    // Never saved, and last: the places of saved widgets do not shift.
    serialize: false,
    hideOnZoom: true,
    hideInPanel: true,
    selectOn: SELECT_ON,
    margin: 8,
    getMinHeight: () => desk.minHeight + 16,
    getValue: () => '',
    setValue: () => {}
  })
  widget.serialize = false
  const text = widgetOf(node, 'weights')
  if (text?.options) {
    text.options.getMinHeight = () => TEXT_LINES
    text.options.getMaxHeight = () => TEXT_LINES
  }
  for (const name of ['layout', 'preset', 'weights', 'seed', 'invert']) follow(node, name, desk)
  chain(node, 'onConnectionsChange', () => queueMicrotask(() => desk.tick()))
  chain(node, 'onConfigure', () => {
    desk.keepSize() // before ComfyUI compares the size with what is needed
    queueMicrotask(() => desk.tick())
  })
  chain(node, 'onRemoved', () => {
    unwatch(desk)
    desk.dispose()
  })
  chain(node, 'onAdded', () => watch(desk))
  watch(desk)
  const [width, height] = node.size
  node.setSize([Math.max(width, WIDTH), Math.max(height, node.computeSize()[1])])
}

/** A change by hand shows at once; the choice of a preset writes its text. */
function follow(node, name, desk) {
  const widget = widgetOf(node, name)
  if (!widget) return
  const before = widget.callback
  widget.callback = function (...values) {
    const result = before?.apply(this, values)
    if (name === 'preset' && !desk.texts.choosing && values[0] && values[0] !== NONE) desk.texts.usePreset(values[0])
    else desk.tick()
    return result
  }
}

/** Runs after the node's own handler. */
export function chain(node, name, run) {
  const before = node[name]
  node[name] = function (...values) {
    const result = before?.apply(this, values)
    run.apply(this, values)
    return result
  }
}
