// @ts-check
// What the browser adds to this pack's nodes. Every node works without it.
import { installCurve } from './curve/install.js'
import { installDesk } from './desk/install.js'
import { installInspect } from './inspect/install.js'
import { app } from './lib/comfy.js'
import { loadStyles } from './lib/dom.js'
import { loadWords } from './lib/i18n.js'
import { learnFiles } from './lib/missing_files.js'
import { showResult } from './lib/result.js'
import { forget } from './lib/server.js'
import { sendTheme } from './lib/theme.js'
import { installLoader } from './loader/install.js'
import { DEFAULT_RANGE, RANGE_SETTING } from './loader/strengths.js'
import { installPrompt, refreshTags } from './prompt/install.js'
import { installStack, refreshStacks } from './stack/install.js'
import { replacements } from './stack/replacing.js'
import { installSweep } from './sweep/install.js'

const LOADER = 'StrataLoraLoader'
/** Nodes whose pictures the server draws. */
const DRAWN = ['StrataLoraInspect', 'StrataSweep', 'StrataImageGrid']
/** Nodes that say under their widgets what they have done. */
const SAYING = ['StrataLoraSave', 'StrataLoraExtract']

app.registerExtension({
  name: 'strataloralayerbylayer.desk',
  settings: [
    {
      id: RANGE_SETTING,
      category: ['Strata', 'Sliders', 'Range'],
      name: 'Strata: slider range',
      tooltip:
        'Strength sliders span this much to both sides of 0. Any value from -100 to 100 stays valid: double-click the bar and type it.',
      type: 'number',
      defaultValue: DEFAULT_RANGE,
      attrs: { min: 0.5, max: 100, step: 0.5 },
    },
  ],
  async setup() {
    await Promise.all([loadStyles(), loadWords()])
  },
  beforeRegisterNodeDef(_, definition) {
    if (definition.name === LOADER) learnFiles(definition)
  },
  nodeCreated(node) {
    if (SAYING.includes(node.comfyClass ?? '')) showResult(node)
    if (DRAWN.includes(node.comfyClass ?? '')) sendTheme(node)
    if (node.comfyClass === 'StrataLoraBlockWeights') installDesk(node)
    if (node.comfyClass === LOADER) installLoader(node)
    if (node.comfyClass === 'StrataLoraStack') installStack(node)
    if (node.comfyClass === 'StrataLoraSchedule') installCurve(node)
    if (node.comfyClass === 'StrataLoraFromPrompt') installPrompt(node)
    if (node.comfyClass === 'StrataLoraInspect') installInspect(node)
    if (node.comfyClass === 'StrataSweep') installSweep(node)
  },
  getNodeMenuItems: (node) => replacements(node),
  refreshComboInNodes(definitions) {
    learnFiles(definitions?.[LOADER])
    forget()
    refreshStacks()
    refreshTags()
  },
})
