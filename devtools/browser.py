"""ComfyUI's editor in headless Chromium, for browser tests and for pictures."""

from __future__ import annotations

import json
import shutil

from playwright.sync_api import Browser, Page, Playwright

from .example_graphs import Graph
from .server import ComfyServer

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # no welcome window
    "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"],  # and no tour over App mode
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.VueNodes.Enabled": False,
}
# Until ComfyUI has loaded its first workflow too, which takes the place of whatever is there by then.
READY = """() => globalThis.app?.extensionManager?.setting && app.graph && LiteGraph.registered_node_types.StrataLoraLoader
  && app.extensionManager.spinner === false && app.extensionManager.workflow.activeWorkflow"""
EMPTY = """async () => {
  const workflow = app.extensionManager.workflow.activeWorkflow
  await app.loadGraphData({version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0}, true, false, workflow)
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [0, 0]
}"""

BUILD = """async (nodes) => {
  const made = {}
  for (const [key, spec] of Object.entries(nodes)) {
    const node = (made[key] = LiteGraph.createNode(spec.kind))
    app.graph.add(node)
    node.pos = [...spec.at]
    if (spec.title) node.title = spec.title
    if (spec.colours) [node.color, node.bgcolor] = spec.colours
    if (spec.model) node.properties.models = [spec.model, ...spec.more_models]
    for (const [name, value] of Object.entries(spec.values)) {
      const widget = node.widgets.find((w) => w.name === name) ?? (spec.kind === 'MarkdownNote' && node.widgets[0])
      widget.value = value
      widget.callback?.(value)
    }
  }
  for (const [key, spec] of Object.entries(nodes)) {
    for (const [input, [from, output]] of Object.entries(spec.inputs)) {
      const slot = made[from].findOutputSlot(output)
      if (slot < 0 || !made[from].connect(slot, made[key], made[key].findInputSlot(input))) throw new Error(`${from} -> ${key}.${input}`)
    }
  }
  // What a node shows of a file comes from the server, and decides how tall it is.
  await new Promise((done) => setTimeout(done, 2500))
  for (const [key, spec] of Object.entries(nodes)) made[key].setSize([spec.size[0], Math.max(spec.size[1], made[key].computeSize()[1])])
}"""


def launch(playwright: Playwright) -> Browser:
    """The system's Chromium, else the one of ``playwright install chromium``."""
    return playwright.chromium.launch(executable_path=next((path for path in CHROMIUM if shutil.which(path)), None))


def open_editor(page: Page, server: ComfyServer) -> None:
    """Load the editor's page and wait until the pack's nodes are there."""
    for name, value in SETTINGS.items():
        page.request.post(
            f"{server.url}/settings/{name}", data=json.dumps(value), headers={"Content-Type": "application/json"}
        )
    page.goto(server.url)
    wait_until_open(page)


def wait_until_open(page: Page) -> None:
    """For a page that is being loaded anew."""
    page.wait_for_function(READY, timeout=120_000)


def use_renderer(page: Page, name: str) -> None:
    """``"vue"`` or ``"canvas"``."""
    page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", name == "vue")


def put(page: Page, graph: Graph) -> None:
    """An empty workflow with these nodes in it."""
    page.evaluate(EMPTY)
    page.evaluate(BUILD, {key: node.plain() for key, node in graph.items()})
