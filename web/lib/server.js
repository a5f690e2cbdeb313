// @ts-check
// What the pack's routes know, asked for once and kept.
import { api } from './comfy.js'
import { t } from './i18n.js'

/**
 * @typedef {{name: string, rule: string}} Block rule: the left side that sets it alone
 * @typedef {{name: string, blocks: Block[]}} Group
 * @typedef {{family: string | null, groups: Group[], ofLora?: boolean, error?: string}} Layout ofLora: in the depth of the LoRA's model
 * @typedef {{family: string | null, text: string, values: Record<string, number>, fine: Record<string, string[]>, plain: boolean,
 *   notes: string[], error?: string}} Settings
 * @typedef {{text: string, family: string | null, lora: string | null, seed: number, invert: boolean}} Question what a text means, and where
 * @typedef {{share: number, tensors: number, relative?: number}} Row share: of the squared norm; relative: of the norm
 * @typedef {{folder?: number, file?: string, picture?: string, video?: string}} Preview a picture for ComfyUI's endpoint (folder and file), or
 *   the name of a LoRA with a picture or a video beside it
 * @typedef {{algorithms: string[], rank: string, alpha: string, size: string}} Facts
 * @typedef {{family: string | null, about: string, facts?: Facts, fit: string, fits?: {family: string | null, used: number, total: number} | null,
 *   problem: string, trigger_words: string[], metadata: [string, string][], leftovers: [string, string][], leftover_count: number,
 *   preview: Preview | null, layout: Layout | null, blocks: Record<string, Row>, norm: number | null,
 *   noise: number[] | null, error?: string}} Profile of a LoRA file; noise: of its family, at 0 %, 5 %, ... of a sampling
 * @typedef {{blocks: Record<string, number>, model?: number, clip?: number, drawn_with?: string, error?: string}} Carried how far leaving out
 *   each block changes the picture, the strengths it was drawn at and the model's file
 * @typedef {{name: string, weights: string, about: string, families: string[], user: boolean}} Preset
 * @typedef {{presets: Preset[], names: string[], error?: string}} Presets those that fit a family, and the names of all
 * @typedef {{name: string, tag: string, favourite: boolean, family?: string | null, title?: string, words?: string[], problem?: string,
 *   strength?: number | null, low?: number | null, high?: number | null, size?: string, copy?: Copied, preview: Preview | null}} Found a LoRA
 *   file; tag: how one begins that names it; what is optional is there once the file was learned
 * @typedef {{first: string, count: number, how: 'data' | 'content', cosine?: number, scale?: number | null}} Copied what a file is a copy of
 * @typedef {{stage: '' | 'read' | 'compare', waiting: boolean, done: number, total: number, problem: string, known: number}} Reading how far
 *   the server is with reading the contents of all files; waiting: for a prompt to end; known: files that were read
 * @typedef {{total: number, elsewhere: number, all: number, rows: Found[], folders: string[], families: [string, number][], learning: number,
 *   contents: Reading, error?: string}} FoundPage
 * @typedef {{rows: import('../stack/text.js').Row[], prompt: string, relatives: string[][], error?: string}} Rows of a LoRA stack's text
 * @typedef {import('../curve/points.js').Curve & {text: string}} WrittenCurve
 * @typedef {WrittenCurve & {presets: (WrittenCurve & {name: string})[], error?: string}} Schedule a strength over time, and the ready-made ones
 * @typedef {{pieces: string[], tags: import('../stack/text.js').Row[], relatives: string[][], error?: string}} PromptTags pieces: what stands
 *   before, between and behind the tags
 * @typedef {{kind: 'rect' | 'line' | 'text', role: string, x?: number, y?: number, w?: number, h?: number, radius?: number,
 *   points?: [number, number][], width?: number, text?: string, size?: number, anchor?: string, hover?: string,
 *   act?: {do: string, rank?: number, factor?: number}}} Shape of a picture
 * @typedef {{width: number, height: number, said: string, shapes: Shape[], colours: Record<string, string>, notes: string[],
 *   error?: string, offline?: boolean}} Picture of LoRAs
 * @typedef {{sets: {name: string, rows: string}[], error?: string}} Sets
 */

const KEPT = 400
/** @type {Map<string, {value?: unknown, promise?: Promise<any>}>} */
const cache = new Map()

/** Forgets everything, or one LoRA: files may have changed. @param {string} [lora] */
export function forget(lora) {
  for (const key of [...cache.keys()]) if (lora === undefined || key === `lora ${lora}`) cache.delete(key)
}

/** @param {string} name @returns {Promise<Profile>} */
export const getLora = (name) => once(`lora ${name}`, () => ask(`/strata/lora?name=${encodeURIComponent(name)}`))

/** Which blocks carry the picture. @param {string} name @param {number} ended another number: ask anew @returns {Promise<Carried>} */
export const getCarried = (name, ended) =>
  once(`carried ${ended} ${name}`, () => ask(`/strata/carried?name=${encodeURIComponent(name)}`))

/** The faders of a family, of the usual one where nothing says which. @param {string} family @returns {Promise<Layout>} */
export const getLayout = (family) =>
  once(`layout ${family}`, () => ask(`/strata/layout?family=${encodeURIComponent(family)}`))

/** @param {Question} question @returns {Promise<Settings>} */
export const getSettings = (question) => once(settingsKey(question), () => send('POST', '/strata/weights', question))

/** The noise of a sampler's steps, for the model of a node's last run. @param {object} question @returns {Promise<{steps?: [sigma: number, percent: number][] | null}>} */
export const getNoise = (question) => send('POST', '/strata/noise', question)

/** What is known already, without asking. @param {Question} question */
export const knownSettings = (question) => /** @type {Settings | undefined} */ (settled(settingsKey(question)))

/** @param {string} name */
export const knownLora = (name) => /** @type {Profile | undefined} */ (settled(`lora ${name}`))

/** Keeps settings that the desk made itself, so that nobody asks for them. @param {Question} question @param {Settings} settings */
export function keepSettings(question, settings) {
  keep(settingsKey(question), { value: settings })
}

/** @param {string | null | undefined} family @returns {Promise<Presets>} */
export const getPresets = (family) => ask(`/strata/presets?family=${encodeURIComponent(family ?? '')}`)

/** @param {{name: string, weights: string, family: string | null}} preset @returns {Promise<Presets>} */
export const savePreset = (preset) => changed(send('POST', '/strata/presets', preset))

/** @param {{name: string, family: string | null}} preset @returns {Promise<Presets>} */
export const deletePreset = (preset) => changed(send('DELETE', '/strata/presets', preset))

/** What a text of rows means. @param {string} text @returns {Promise<Rows>} */
export const getRows = (text) => once(`rows ${text}`, () => send('POST', '/strata/rows', { text }))

/** The tags of a prompt. @param {string} text @param {boolean} clipFirst @returns {Promise<PromptTags>} */
export const getPromptTags = (text, clipFirst) =>
  once(`prompt ${clipFirst} ${text}`, () => send('POST', '/strata/prompt', { text, clip_first: clipFirst }))

/** How a tag for a name begins, and how it ends with block weights, a strength over time and a mask.
 * @param {string} name @param {string | null} blocks @param {string | null} [time] @param {string | null} [mask] @returns {Promise<{head: string, tail: string, error?: string}>} */
export const getTag = (name, blocks, time = null, mask = null) =>
  send('POST', '/strata/tag', { name, blocks, time, mask })

/** What a text says of a strength over time. @param {string} text @returns {Promise<Schedule>} */
export const getSchedule = (text) => once(scheduleKey(text), () => send('POST', '/strata/schedule', { text }))

/** What is known already, without asking. @param {string} text */
export const knownSchedule = (text) => /** @type {Schedule | undefined} */ (settled(scheduleKey(text)))

/** Keeps one that the editor made itself, so that nobody asks for it. @param {string} text @param {Schedule} schedule */
export const keepSchedule = (text, schedule) => keep(scheduleKey(text), { value: schedule })

const scheduleKey = (/** @type {string} */ text) => `schedule ${text}`

/** What another program's text or nodes come to as rows. @param {string} text @returns {Promise<{text: string, error?: string}>} */
export const getImported = (text) => send('POST', '/strata/import', { text })

/** @param {Record<string, string | number>} question @returns {Promise<FoundPage>} */
export const findLoras = (question) =>
  ask(`/strata/library?${new URLSearchParams(Object.entries(question).map(([name, value]) => [name, String(value)]))}`)

/** @param {{name: string, favourite?: boolean, used?: boolean}} what @returns {Promise<Found & {error?: string}>} */
export const markLora = (what) => send('POST', '/strata/library/mark', what)

/** Starts reading and comparing the contents of all files, or stops it. @param {boolean} go @returns {Promise<Reading & {error?: string}>} */
export const compareContents = (go) => send('POST', '/strata/library/contents', { go })

/** @param {{sources: object[], width: number, theme: string, language: string}} question @returns {Promise<Picture>} */
export const getPicture = (question) => send('POST', '/strata/inspect', question)

/** @returns {Promise<Sets>} */
export const getSets = () => ask('/strata/sets')

/** @param {{name: string, rows: string}} set @returns {Promise<Sets>} */
export const saveSet = (set) => send('POST', '/strata/sets', set)

/** @param {string} name @returns {Promise<Sets>} */
export const deleteSet = (name) => send('DELETE', '/strata/sets', { name })

/** The id of the graph that a run was made from. @param {string} id of its prompt @returns {Promise<string | undefined>} undefined where the server does not say */
export const getGraphOfRun = async (id) => (await ask(`/jobs/${encodeURIComponent(id)}`)).workflow_id

/** @param {Question} question */
function settingsKey({ text, family, lora, seed, invert }) {
  return `weights ${JSON.stringify([text, family, lora, seed, invert])}`
}

/** A name may mean something else from now on. @param {Promise<Presets>} answer */
async function changed(answer) {
  const found = await answer
  for (const key of [...cache.keys()]) if (key.startsWith('weights ')) cache.delete(key)
  return found
}

/** @param {string} key */
const settled = (key) => cache.get(key)?.value

/** @param {string} key @param {() => Promise<any>} fetchIt @returns {Promise<any>} */
function once(key, fetchIt) {
  const known = cache.get(key)
  if (known) return known.promise ?? Promise.resolve(known.value)
  /** @type {{value?: unknown, promise?: Promise<any>}} */
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

/** @param {string} key @param {{value?: unknown, promise?: Promise<any>}} entry */
function keep(key, entry) {
  cache.delete(key)
  cache.set(key, entry)
  for (const oldest of cache.size > KEPT ? cache.keys() : []) {
    cache.delete(oldest)
    break
  }
}

/** @param {string} path */
const ask = (path) => read(() => api.fetchApi(path))

/** @param {string} method @param {string} path @param {object} body */
const send = (method, path, body) =>
  read(() =>
    api.fetchApi(path, { method, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } })
  )

/** @param {() => Promise<Response>} request */
async function read(request) {
  try {
    return await (await request()).json()
  } catch {
    return { error: t('offline'), offline: true }
  }
}
