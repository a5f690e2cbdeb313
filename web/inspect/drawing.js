// @ts-check
// A list of shapes as SVG. What is drawn where, and in which colours, the server has decided: it draws the same list for saving.

/** @typedef {import('../lib/server.js').Shape} Shape */
/** @typedef {import('../lib/server.js').Picture} Picture */

const SPACE = 'http://www.w3.org/2000/svg'

/** @param {string} tag @param {Record<string, unknown>} attributes */
function svg(tag, attributes) {
  const element = document.createElementNS(SPACE, tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) element.setAttribute(name, String(value))
  }
  return element
}

/**
 * @param {Picture} picture
 * @param {(act: NonNullable<Shape['act']>) => boolean} allows whether a click may do it
 */
export function drawn(picture, allows) {
  const { width, height, said, shapes, colours } = picture
  const root = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': said })
  /** @type {string | null} */
  let acted = null
  for (const shape of shapes) {
    const element = one(shape, colours)
    if (shape.hover) element.setAttribute('data-hover', shape.hover)
    const act = shape.act && allows(shape.act) ? JSON.stringify(shape.act) : null
    if (act !== null) {
      element.setAttribute('data-act', act)
      // The first shape of each button is the one that the keyboard reaches.
      if (act !== acted && shape.kind === 'rect') {
        element.setAttribute('role', 'button')
        element.setAttribute('tabindex', '0')
        element.setAttribute('aria-label', shape.hover ?? '')
        element.setAttribute('class', 'strata-inspect-button')
        element.setAttribute('stroke', colours.accent)
      }
    }
    acted = act
    root.append(element)
  }
  return root
}

/** @param {Shape} shape @param {Record<string, string>} colours */
function one(shape, colours) {
  const colour = colours[shape.role] ?? 'transparent'
  if (shape.kind === 'rect') {
    const { x = 0, y = 0, w = 0, h = 0, radius = 0 } = shape
    return svg('rect', { x, y, width: w, height: h, rx: Math.min(radius, w / 2, h / 2), fill: colour })
  }
  if (shape.kind === 'line') {
    const points = (shape.points ?? []).map((point) => point.join(',')).join(' ')
    return svg('polyline', { points, fill: 'none', stroke: colour, 'stroke-width': shape.width ?? 1 })
  }
  const { x = 0, y = 0, size = 12, anchor } = shape
  const text = svg('text', { x, y, 'font-size': size, fill: colour, 'text-anchor': anchor })
  text.textContent = shape.text ?? ''
  return text
}
