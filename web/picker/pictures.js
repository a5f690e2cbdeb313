// @ts-check
// The picture beside a LoRA file: an image by ComfyUI's own endpoint where that finds it, a video by ours, as a still or as a loop without sound.
import { api } from '../lib/comfy.js'
import { el } from '../lib/dom.js'

/** @typedef {import('../lib/server.js').Preview} Preview */

/**
 * @param {Preview} preview
 * @param {{class?: string, moves?: boolean, failed?: () => void}} [wishes] moves: whether a video plays; failed: it cannot be shown
 */
export function picture(preview, { class: name, moves = false, failed } = {}) {
  const element = preview.video ? film(preview.video, moves) : el('img', {
    alt: '',
    loading: 'lazy',
    decoding: 'async',
    src: address(preview),
  })
  if (name) element.className = name
  element.addEventListener('error', () => {
    element.remove()
    failed?.()
  })
  return element
}

/** @param {Preview} preview */
const address = ({ folder, file, picture: name }) =>
  api.apiURL(
    name === undefined ?
      `/experiment/models/preview/loras/${folder}/${(file ?? '').split('/').map(encodeURIComponent).join('/')}` :
      `/strata/picture?name=${encodeURIComponent(name)}`,
  )

/** @param {string} name of the LoRA @param {boolean} moves */
function film(name, moves) {
  const element = el('video', {
    loop: true,
    playsinline: true,
    preload: 'metadata',
    disablepictureinpicture: true,
    tabindex: -1,
    src: api.apiURL(`/strata/video?name=${encodeURIComponent(name)}`),
  })
  // The attribute alone counts only in markup.
  element.muted = true
  element.autoplay = moves
  return element
}
