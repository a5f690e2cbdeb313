"""A page of a real ComfyUI in headless Chromium, in each of its two node renderers. One server and one browser for all tests."""

import json
import shutil

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        system = next((path for path in CHROMIUM if shutil.which(path)), None)
        try:
            running = playwright.chromium.launch(executable_path=system)
        except Exception as problem:
            pytest.skip(f"There is no Chromium here ('playwright install chromium' gets one): {problem}")
        yield running
        running.close()


@pytest.fixture(scope="session")
def session_page(server, browser):
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    page = context.new_page()
    page.complaints = []
    page.requests = []
    page.on(
        "console",
        lambda message: page.complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url) if "/strata/" in request.url else None)
    open_page(page, server)
    return page


SETTINGS = {
    "Comfy.TutorialCompleted": True,  # no welcome window
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.VueNodes.Enabled": False,
}
READY = (
    "() => globalThis.app?.extensionManager?.setting && app.graph && LiteGraph.registered_node_types.StrataLoraLoader"
)
EMPTY = """async () => {
  const workflow = app.extensionManager.workflow.activeWorkflow
  await app.loadGraphData({version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0}, true, false, workflow)
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [0, 0]
}"""


def open_page(page, server):
    for name, value in SETTINGS.items():
        page.request.post(
            f"{server.url}/settings/{name}", data=json.dumps(value), headers={"Content-Type": "application/json"}
        )
    page.goto(server.url)
    page.wait_for_function(READY, timeout=120_000)


@pytest.fixture(params=["canvas", "vue"])
def page(request, session_page):
    """An empty workflow in one renderer. Fails a test that leaves an error or warning of this pack in the console."""
    use_renderer(session_page, request.param)
    session_page.keyboard.press("Escape")
    session_page.evaluate(EMPTY)
    session_page.complaints.clear()
    session_page.requests.clear()
    yield session_page
    ours = [text for text in session_page.complaints if "strata" in text.lower()]
    assert not ours


def use_renderer(page, name):
    page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", name == "vue")
