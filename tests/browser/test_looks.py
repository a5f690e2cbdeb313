"""Sweep, Sweep Values and Image Grid in both themes and renderers, from narrow to wide: nothing sticks out of its node, nothing is cut."""

import desk_page as d
import pytest
import test_sweep_node as sweeps

from strata.devtools.models import LORAS

pytestmark = pytest.mark.browser

THEME = "(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)"
SCALE = 0.7
TALLEST = 560  # px of the panel
WIDTHS = (230, 320, 440, 600)
GONE = "a_file_that_is_gone_and_has_a_very_long_name_which_no_label_holds_v2-000008.safetensors"
WORDS = (
    "a fox, a very long replacement that goes on for many words and more, \u96ea\u5730\u91cc\u7684\u7ea2\u72d0\u72f8"
)
# What lies outside of its node, and buttons whose words are cut. Inside of what scrolls it may.
OUTSIDE = """(id) => {
  const node = app.graph.getNodeById(id), { scale, offset } = app.canvas.ds
  const place = app.canvas.canvas.getBoundingClientRect()
  const left = place.left + (node.pos[0] + offset[0]) * scale, top = place.top + (node.pos[1] + offset[1]) * scale
  const frame = LiteGraph.vueNodesMode
    ? document.querySelector(`[data-node-id='${id}']`).getBoundingClientRect()
    : new DOMRect(left, top, node.size[0] * scale, node.size[1] * scale)
  const elements = node.widgets.flatMap(({ element }) => (element ? [element, ...element.querySelectorAll('*')] : []))
  const wrong = []
  for (const element of elements) {
    const box = element.getBoundingClientRect()
    if (!box.width || element.closest('dialog')) continue
    const scrolls = element.parentElement.closest('.strata-sweep-scroll')
    const name = element.className || element.tagName
    if (!scrolls && (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)) wrong.push(name)
    if (element.tagName === 'BUTTON' && !element.dataset.index && element.scrollWidth > element.clientWidth + 1) wrong.push(`cut: ${name}`)
  }
  return wrong
}"""
# Labels and reasons end with a whole line.
CUT = """(view) => [...view.querySelectorAll('.strata-sweep-column, .strata-sweep-row, .strata-sweep-cell.wrong span')].filter((shown) => {
  const line = parseFloat(getComputedStyle(shown).lineHeight)
  const lines = shown.clientHeight / line
  return Math.abs(lines - Math.round(lines)) > 0.15
}).map((shown) => shown.textContent)"""


@pytest.fixture
def themed(page):
    """The page; its theme and its view are as they were for whoever comes after."""
    yield page
    page.evaluate(THEME, "dark")
    page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true) }")


def each_look(page, node):
    for theme in ("dark", "light"):
        page.evaluate(THEME, theme)
        for width in WIDTHS:
            page.evaluate(
                "([id, w]) => { const n = app.graph.getNodeById(id); n.setSize([w, n.computeSize()[1]]); app.canvas.setDirty(true, true) }",
                [node, width],
            )
            d.rest(page, 600)
            yield theme, width


def test_a_sweep_with_long_names_and_failed_cells(themed):
    page = themed
    node = sweeps.sweep(
        page, x_axis="LoRA file", lora_name=LORAS[0], x_values=f"{LORAS[0]}\n{GONE}", y_axis="prompt", y_values=WORDS
    )
    page.evaluate(
        "([id, scale]) => { app.graph.getNodeById(id).pos = [420, 60]; app.canvas.ds.scale = scale }", [node, SCALE]
    )
    sweeps.run(page)
    sweeps.finished(page, node, "3 of 6 pictures, 3 failed")
    view = sweeps.element(page, node)
    for look in each_look(page, node):
        assert page.evaluate(OUTSIDE, node) == [], look
        assert view.evaluate(CUT) == [], look
        assert view.locator(".strata-sweep-column span").last.inner_text().endswith("000008"), look
        # The pictures are there, and the message is whole.
        assert view.locator(".strata-sweep-cell img").count() == 3, look
        note = view.locator(".strata-sweep-note")
        assert note.evaluate("(e) => e.scrollWidth <= e.clientWidth + 1 && e.scrollHeight <= e.clientHeight + 1"), look
        # All of the grid, or as much as a node may be high: there it scrolls.
        grid, box = view.locator(".strata-sweep-grid").bounding_box(), view.bounding_box()
        assert grid["y"] + grid["height"] <= box["y"] + box["height"] + 2 or box["height"] / SCALE > TALLEST - 2, look


@pytest.mark.parametrize("kind", ["StrataSweepValues", "StrataImageGrid"])
def test_the_nodes_beside_it(themed, kind):
    page = themed
    node = d.add(page, kind, (420, 120))
    d.rest(page, 500)
    for look in each_look(page, node):
        assert page.evaluate(OUTSIDE, node) == [], look


@pytest.mark.parametrize("kind", ["StrataSweep", "StrataImageGrid"])
def test_auto_is_the_editors_theme_in_the_prompt_and_a_chosen_one_stays(themed, kind):
    page = themed
    node = d.add(page, kind, (420, 60))
    sent = []
    for theme in ("light", "dark"):
        page.evaluate(THEME, theme)
        d.rest(page, 400)
        sent.append(d.prompt(page, node)["theme"])
    assert sent == ["light", "dark"]
    assert "auto" in page.evaluate("(id) => app.graph.getNodeById(id).serialize().widgets_values", node)
    d.choose(page, node, "theme", "light")
    assert d.prompt(page, node)["theme"] == "light"
