// @ts-check
// What the loader's line says, in few words and without the name of the file: that stands above already.
import { t } from '../lib/i18n.js'

/** @typedef {import('../lib/server.js').Profile} Profile */

/** What a file is, before anything ran. @param {Profile} profile */
export function describe(profile) {
  const { facts, family, fits } = profile
  const strange = profile.leftover_count ? t('leftovers', { count: profile.leftover_count }) : ''
  if (!facts) return [profile.about, profile.fit, strange].filter(Boolean).join(' · ')
  const kinds = facts.algorithms.join(' + ')
  const what = [
    family ? t('fileKind', { family, kinds }) : t('fileKindUnknown', { kinds }),
    facts.rank && t('fileRank', { rank: facts.rank }),
    facts.alpha ? t('fileAlpha', { alpha: facts.alpha }) : facts.rank && t('fileNoAlpha'),
    facts.size,
  ]
  const place = fits?.family ?? t('loadedModel')
  const fit = !fits ?
    '' :
    fits.used >= fits.total ?
    t('fits', { family: place }) :
    t('fitsPartly', { used: fits.used, total: fits.total, family: place })
  return [what.filter(Boolean).join(t('comma')), fit, strange].filter(Boolean).join(' · ')
}
