"""What Save LoRA says of a run, as a line of the node: the node keeps its size while the line is not drawn."""

import re

import desk_page as d
import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
LONG = "Saved, error 0.01 %: a_name_that_somebody_gave_it_to_tell_all_about_the_training.safetensors " * 3
SIZE = "(id) => app.canvas.graph.getNodeById(id).size[1]"


def test_a_node_keeps_its_height_where_its_line_is_not_drawn(page):
    save = d.add(page, "StrataLoraSave", (420, 120))
    page.evaluate("([id, text]) => { app.nodeOutputs[id] = { strata_verdict: [text] } }", [save, LONG])
    find = "(id) => app.canvas.graph.getNodeById(id)?.widgets?.some((widget) => widget.name === 'strata_result')"
    page.wait_for_function(find, arg=save, timeout=30_000)
    d.rest(page, 1500)
    height = page.evaluate(SIZE, save)
    seen = []
    for scale, offset in ((0.2, 0), (1, 0), (1, 5000), (1, 0)):
        page.evaluate(
            "([scale, offset]) => { Object.assign(app.canvas.ds, { scale, offset: [offset, offset] }); app.canvas.setDirty(true, true) }",
            [scale, offset],
        )
        d.rest(page, 800)
        seen.append(page.evaluate(SIZE, save))
    assert seen == [height] * 4
    # What comes while the node is collapsed has its room when it is opened, and nothing keeps none.
    page.evaluate("(id) => app.canvas.graph.getNodeById(id).collapse()", save)
    page.evaluate("([id, text]) => { app.nodeOutputs[id] = { strata_verdict: [text] } }", [save, LONG * 2])
    d.rest(page, 1500)
    page.evaluate("(id) => app.canvas.graph.getNodeById(id).collapse()", save)
    page.wait_for_function("([id, height]) => app.canvas.graph.getNodeById(id).size[1] > height", arg=[save, height])
    page.evaluate("(id) => { app.nodeOutputs[id] = {} }", save)
    page.wait_for_function("([id, height]) => app.canvas.graph.getNodeById(id).size[1] < height", arg=[save, height])


def test_a_problem_is_red(page):
    save = d.add(page, "StrataLoraSave", (420, 120))
    page.evaluate("(id) => { app.nodeOutputs[id] = { strata_verdict: ['Saved'], strata_warned: [false] } }", save)
    find = "(id) => app.canvas.graph.getNodeById(id)?.widgets?.some((widget) => widget.name === 'strata_result')"
    page.wait_for_function(find, arg=save, timeout=30_000)
    line = d.element(page, save, "strata_result").locator(".strata-result-text")
    colour = "(line) => getComputedStyle(line).color"
    quiet = line.evaluate(colour)
    page.evaluate("(id) => { app.nodeOutputs[id] = { strata_verdict: ['Too large'], strata_warned: [true] } }", save)
    expect(line).to_have_text("Too large")
    red, green, blue = map(float, re.findall(r"[0-9.]+", line.evaluate(colour))[:3])
    assert line.evaluate(colour) != quiet and red > 1.3 * max(green, blue)
