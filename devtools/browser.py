"""ComfyUI's editor in headless Chromium, for browser tests and for pictures."""

from __future__ import annotations

import json
import shutil

from playwright.sync_api import Browser, Page, Playwright

from .server import ComfyServer

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # no welcome window
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
