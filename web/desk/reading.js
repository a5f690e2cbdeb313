// @ts-check
// What a desk shows, as the server reads it: the weights that the node's text means, the LoRA that they are for, the preset they came from.
import { t } from '../lib/i18n.js'
import { endedWith } from '../lib/runs.js'
import { getCarried, getLayout, getLora, getSettings, knownLora, knownSettings } from '../lib/server.js'

/** @typedef {import('./desk.js').DeskView} DeskView */
/** @typedef {import('../lib/server.js').Layout} Layout */
/** @typedef {import('../lib/server.js').Profile} Profile */
/** @typedef {import('../lib/server.js').Settings} Settings */
/**
 * @typedef {{layout: Layout, settings: Settings, profile: Profile | null, carried: import('../lib/server.js').Carried | null,
 *   preset: Settings | null, error: string}} Reading preset: what the preset beside a text means, where there is one; error: what is wrong with
 *   the text
 */

/** Ms of rest before a typed text is read. */
const TYPING = 150

/**
 * Reads everything anew.
 *
 * @param {DeskView} desk
 * @param {() => boolean} isOld whether another reading has begun since
 * @returns {Promise<Reading | null>} null where this one comes too late
 */
export async function read(desk, isOld) {
  const question = desk.question()
  const [text, preset] = [desk.widgets.text.trim(), desk.widgets.preset]
  const profile = question.lora ? knownLora(question.lora) ?? getLora(question.lora) : null
  const known = knownSettings(question)
  if (!known) {
    desk.foot.say(t('reading'))
    if (desk.settings) await new Promise((done) => setTimeout(done, TYPING))
    if (isOld()) return null
  }
  const [settings, found, carried, ofPreset] = await Promise.all([
    known ?? getSettings(question),
    profile,
    question.lora ? getCarried(question.lora, endedWith('strata_sweep')) : null,
    preset && text ? getSettings({ ...question, text: preset, invert: false }) : null,
  ])
  // Weights that a lost preset was to say can be set by hand again: the text then counts, and not the name.
  const lost = settings.error !== undefined && !text
  const usable = lost ? await getSettings({ ...question, text: '', invert: false }) : settings
  if (isOld()) return null
  const family = usable.family ?? question.family ?? desk.layout?.family ?? found?.layout?.family ?? ''
  const own = found?.layout?.family === family ? found.layout : null
  const asBefore = desk.layout?.family === family && !desk.layout.ofLora
  const layout = own ?? (asBefore && desk.layout ? desk.layout : await getLayout(family))
  if (isOld()) return null
  if (own) own.ofLora = true
  return {
    layout,
    settings: usable,
    profile: found,
    carried: carried && !carried.error && Object.keys(carried.blocks).length ? carried : null,
    preset: ofPreset && !ofPreset.error ? ofPreset : null,
    error: settings.error ?? '',
  }
}
