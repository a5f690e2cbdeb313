// @ts-check
// The tree of folders in the picker: all of them, or one and what lies in it.
import { attribute, el } from '../lib/dom.js'
import { t } from '../lib/i18n.js'

export class Folders {
  /** Empty for all. */
  chosen = ''
  #drawn = ''

  /** @param {(folder: string) => void} chose a click */
  constructor(chose) {
    this.chose = chose
    this.element = el('div', { class: 'strata-folders', role: 'tree', 'aria-label': t('folders') })
  }

  /** @param {string[]} folders that hold files, as far as they are found now */
  show(folders) {
    const key = JSON.stringify([folders, this.chosen])
    if (key === this.#drawn) return
    this.#drawn = key
    const all = new Set(
      folders.flatMap((folder) => folder.split('/').map((_, at, names) => names.slice(0, at + 1).join('/'))),
    )
    attribute(this.element, 'hidden', all.size ? null : true)
    const shown = [...all].sort().filter((folder) => this.#isUnfolded(folder))
    this.element.replaceChildren(
      ...['', ...shown].map((folder) =>
        el('button', {
          type: 'button',
          class: 'strata-item',
          role: 'treeitem',
          title: folder,
          'aria-selected': folder === this.chosen ? 'true' : 'false',
          style: `padding-left: ${4 + 10 * (folder ? folder.split('/').length - 1 : 0)}px`,
          text: folder ? folder.slice(folder.lastIndexOf('/') + 1) : t('allFolders'),
          on: { click: () => this.chose(folder) },
        })
      ),
    )
  }

  /** A folder shows when the one that it lies in, or one beside it, is chosen. @param {string} folder */
  #isUnfolded(folder) {
    const parent = folder.slice(0, Math.max(0, folder.lastIndexOf('/')))
    return !parent || this.chosen === parent || this.chosen.startsWith(`${parent}/`)
  }
}
