"""What a person does with a LoRA Stack and with the picker, as functions of a Playwright page."""

from contextlib import suppress

import desk_page as d
from playwright.sync_api import TimeoutError, expect

VIEW = "((id) => app.canvas.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'strata_rows')?.element)"
# Frames, as the pack counts them (web/lib/undo.js).
STILL = 10
MOST = 120


def stack(page, rows="", at=(420, 120), width=420, wait=True):
    """A LoRA Stack with these rows, by id."""
    node = d.add(page, "StrataLoraStack", at, rows=rows)
    page.evaluate(
        "([id, width]) => { const node = app.graph.getNodeById(id); node.setSize([width, node.size[1]]) }",
        [node, width],
    )
    d.remember(page)
    if wait:
        if rows.strip():
            # A row that comes while something is pressed moves it away from under the pointer.
            page.wait_for_function(f"(id) => {VIEW}(id).querySelector('.strata-lora')", arg=node, timeout=d.READY)
        d.rest(page, 500)
        still(page, node)
    return node


def still(page, node):
    """Until the rows have stayed in their places for some frames: one that moves under the pointer is not the one that is clicked."""
    page.evaluate(
        f"""async (id) => {{
          const places = () => [...{VIEW}(id).querySelectorAll('.strata-dots')].map((dots) => {{
            const {{ left, top }} = dots.getBoundingClientRect()
            return `${{left}} ${{top}}`
          }}).join()
          let [before, same, frames] = ['', 0, 0]
          while (same < {STILL} && frames++ < {MOST}) {{
            await new Promise(requestAnimationFrame)
            const now = places()
            same = now === before ? same + 1 : 0
            before = now
          }}
        }}""",
        node,
    )


def element(page, node):
    page.evaluate(
        f"""(id) => {{
          document.querySelectorAll('[data-test-node]').forEach((other) => other.removeAttribute('data-test-node'))
          const shown = {VIEW}(id)
          shown.dataset.testNode = id
        }}""",
        node,
    )
    return page.locator(f"[data-test-node='{node}']")


def text(page, node):
    return page.evaluate("(id) => app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === 'rows').value", node)


def row(page, node, at):
    return element(page, node).locator(".strata-lora").nth(at)


def act(page, node, name):
    return element(page, node).locator(f".strata-bar [data-act={name}]")


def menu(page, node, at, item):
    """Chooses from a row's menu."""
    chosen = page.locator(".strata-free .strata-item", has_text=item).first
    # A click that a busy page has not laid out for yet meets nothing: whoever sees no menu clicks again.
    for _ in range(3):
        still(page, node)
        row(page, node, at).locator(".strata-dots").click()
        with suppress(TimeoutError):
            chosen.wait_for(timeout=5000)
            break
    chosen.click()
    expect(page.locator(".strata-free")).to_have_count(0, timeout=d.READY)
    d.rest(page, 250)


def pick(page, words, name):
    """Looks for words in the open picker and chooses the first that it finds, which is the one of this name."""
    page.keyboard.type(words)
    found = page.locator(".strata-choice:not(.waiting) .strata-named .strata-short")
    expect(found.first).to_have_text(name, timeout=d.READY)
    page.keyboard.press("Enter")


def says(page, node, wanted):
    """Asserts that the node's text is this, as soon as the page has written it."""
    d.comes(page, lambda: text(page, node), wanted)


def bar(page, node, at, which=0):
    return row(page, node, at).locator(".strata-strength-bar:visible").nth(which)


def sent(page, node):
    return d.prompt(page, node)["rows"]
