// @ts-check
// What the pack's routes know, asked for once and kept.
// @ts-ignore served by ComfyUI
import { api } from '../../../scripts/api.js'
import { t } from './i18n.js'

/**
 * @typedef {{name: string, rule: string}} Block
 * @typedef {{family: string | null, groups: {name: string, blocks: Block[]}[], ofLora?: boolean}} Layout
 * @typedef {{family: string | null, text: string, values: Record<string, number>, fine: Record<string, string[]>, plain: boolean,
 *   notes: string[], error?: string}} Settings
 */

const KEPT = 400
const cache = new Map()

/** Forgets everything, or one LoRA: files may have changed. */
export function forget(lora) {
  for (const key of [...cache.keys()]) if (lora === undefined || key === `lora ${lora}`) cache.delete(key)
}

/** @returns {Promise<any>} the profile of a LoRA, or {error} */
export const getLora = (name) => once(`lora ${name}`, () => ask(`/strata/lora?name=${encodeURIComponent(name)}`))

/** @returns {Promise<Layout>} */
export const getLayout = (family) =>
  once(`layout ${family}`, () => ask(`/strata/layout?family=${encodeURIComponent(family)}`))

/** @returns {Promise<Settings>} what a text means: {text, family, lora, seed, invert} */
export const getSettings = (question) => once(settingsKey(question), () => send('POST', '/strata/weights', question))

/** What is known already, without asking. */
export const knownSettings = (question) => settled(settingsKey(question))
export const knownLora = (name) => settled(`lora ${name}`)

/** Keeps settings that the desk made itself, so that nobody asks for them. */
export function keepSettings(question, settings) {
  keep(settingsKey(question), { value: settings })
}

export const getPresets = (family) => ask(`/strata/presets?family=${encodeURIComponent(family ?? '')}`)
export const savePreset = (preset) => changed(send('POST', '/strata/presets', preset))
export const deletePreset = (preset) => changed(send('DELETE', '/strata/presets', preset))

function settingsKey({ text, family, lora, seed, invert }) {
  return `weights ${JSON.stringify([text, family ?? null, lora ?? null, seed ?? 0, invert ?? false])}`
}

async function changed(answer) {
  const found = await answer
  for (const key of [...cache.keys()]) if (key.startsWith('weights ')) cache.delete(key)
  return found
}

const settled = (key) => cache.get(key)?.value

function once(key, fetchIt) {
  const known = cache.get(key)
  if (known) return known.promise ?? Promise.resolve(known.value)
  /** @type {{value?: any, promise?: Promise<any>}} */
  const entry = {}
  entry.promise = fetchIt().then((value) => {
    if (value.offline) cache.delete(key)
    else {
      entry.value = value
      delete entry.promise
    }
    return value
  })
  keep(key, entry)
  return entry.promise
}

function keep(key, entry) {
  cache.delete(key)
  cache.set(key, entry)
  if (cache.size > KEPT) cache.delete(cache.keys().next().value)
}

const ask = (path) => read(() => api.fetchApi(path))

const send = (method, path, body) =>
  read(() => api.fetchApi(path, { method, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } }))

async function read(request) {
  try {
    return await (await request()).json()
  } catch {
    return { error: t('offline'), offline: true }
  }
}
