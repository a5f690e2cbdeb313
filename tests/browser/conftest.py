"""A page of a real ComfyUI in headless Chromium, in each of its two node renderers. One server and one browser for all tests."""

import os

import pytest
from playwright.sync_api import expect, sync_playwright

from strata.devtools.browser import EMPTY, launch, open_editor, use_renderer

expect.set_options(timeout=30_000)  # ms; the machine may be busy


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        try:
            running = launch(playwright)
        except Exception as problem:
            if os.environ.get("STRATA_BROWSER") == "required":
                raise
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
        lambda message: (
            page.complaints.append(f"{message.text} ({message.location['url']})")
            if message.type in ("error", "warning")
            else None
        ),
    )
    page.on("pageerror", lambda error: page.complaints.append(f"{error} {error.stack}"))
    page.on("request", lambda request: page.requests.append(request.url) if "/strata/" in request.url else None)
    open_editor(page, server)
    return page


@pytest.fixture(params=["canvas", "vue"])
def page(request, session_page):
    """An empty workflow in one renderer. Fails a test that leaves an error or warning of this pack in the console."""
    use_renderer(session_page, request.param)
    session_page.keyboard.press("Escape")
    session_page.evaluate(EMPTY)
    session_page.complaints.clear()
    session_page.requests.clear()
    yield session_page
    # The editor's own question about a node, which goes to the network, is no complaint of ours.
    ours = [text for text in session_page.complaints if "strata" in text.lower() and "api.comfy.org" not in text]
    assert not ours
