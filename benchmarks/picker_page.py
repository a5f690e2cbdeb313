"""The picker on a page: a real server with a large library, and the editor in headless Chromium."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from strata.devtools.browser import launch, open_editor
from strata.devtools.server import ComfyServer

from .results import seconds, size

ROUNDS = 7
SCROLLING = 4000  # ms
STACK = """() => {
  const node = LiteGraph.createNode('StrataLoraStack')
  node.pos = [300, 120]
  app.graph.add(node)
}"""
# Seconds from the press to the first frame that shows files.
OPEN = """() => new Promise((done) => {
  const began = performance.now()
  document.querySelector('.strata-stack [data-act=addLora]').click()
  const look = () => {
    if (document.querySelector('.strata-choice:not(.waiting) .strata-short')?.textContent) done((performance.now() - began) / 1000)
    else requestAnimationFrame(look)
  }
  requestAnimationFrame(look)
})"""
# Ms between frames while the list is scrolled by a hand that does not rest: 40 px a frame.
SCROLL = """(long) => new Promise((done) => {
  const list = document.querySelector('.strata-found')
  const frames = []
  let last = performance.now()
  const end = last + long
  const step = (now) => {
    frames.push(now - last)
    last = now
    list.scrollTop += 40
    if (now < end) requestAnimationFrame(step)
    else done(frames.slice(1))
  }
  requestAnimationFrame(step)
})"""


def page_rows(save, count: int) -> list[tuple[str, str]]:
    """``save``: writes so many files into a folder. What a person waits for, and what page and server hold."""
    with ComfyServer(Path(os.environ["COMFYUI_PATH"])) as server, sync_playwright() as playwright:
        save(server.base / "models" / "loras", count)
        process = psutil.Process(server._process.pid)
        before = process.memory_info().rss
        with launch(playwright) as browser:
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            open_editor(page, server)
            page.evaluate(STACK)
            page.wait_for_selector(".strata-stack [data-act=addLora]")
            held = _heap(page)
            rows = [("on a page: first opening of all, nothing learned", seconds(page.evaluate(OPEN)))]
            began = time.perf_counter()
            while server.get_json("/strata/library?count=1")["learning"]:
                time.sleep(0.5)
            learned = time.perf_counter() - began
            page.keyboard.press("Escape")
            opened = []
            for _ in range(ROUNDS):
                opened.append(page.evaluate(OPEN))
                page.keyboard.press("Escape")
            rows.append(("on a page: learning every file in the background, from then on", seconds(learned)))
            rows.append(
                ("on a page: opening", f"{seconds(statistics.median(opened))} (at most {seconds(max(opened))})")
            )
            page.evaluate(OPEN)
            frames = sorted(page.evaluate(SCROLL, SCROLLING))
            share = sum(frame <= 17.5 for frame in frames) / len(frames)
            middle, slow = statistics.median(frames), frames[int(0.99 * len(frames))]
            rows.append(("scrolling: a frame", f"{middle:.1f} ms (99 % within {slow:.1f} ms)"))
            rows.append(("scrolling: frames at 60 a second", f"{100 * share:.0f} %"))
            rows.append(("memory of the page, more than before", size(_heap(page) - held)))
            rows.append(("memory of the server, more than before", size(process.memory_info().rss - before)))
    return rows


def _heap(page: Page) -> float:
    """Bytes of JavaScript's heap, collected first."""
    client = page.context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    used = client.send("Runtime.getHeapUsage")["usedSize"]
    client.detach()
    return used
