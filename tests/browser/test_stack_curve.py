"""The strength over time of a row as a curve under it, in both renderers: its text says what the curve shows, one gesture is one step of
undo."""

import desk_page as d
import pytest
import stack_page as s
from playwright.sync_api import expect

from strata.lora_math import schedule

pytestmark = pytest.mark.browser
ROWS = "<lora:sd15:0.8>\n<lora:flux:1:lbw=D*=0,default=1:at=0@0%, 1@100%> // mine\n<lora:wan:1>"


def line(page, node, at):
    return s.text(page, node).split("\n")[at]


def dots(page, node, at):
    """(place in %, strength) of each, as a screen reader is told."""
    found = s.row(page, node, at).locator(".strata-curve-dot")
    return found.evaluate_all(
        "(all) => all.map((dot) => [parseFloat(dot.style.left), Number(dot.getAttribute('aria-valuenow'))])"
    )


def spot(page, node, at, place, strength):
    box = s.row(page, node, at).locator(".strata-curve-surface").bounding_box()
    return box["x"] + place * box["width"], box["y"] + box["height"] * (1.5 - strength) / 2


def test_the_curve_of_a_row_by_mouse_keys_and_undo(page):
    node = s.stack(page, ROWS)
    d.number_nodes(page, node)
    height = "(id) => app.graph.getNodeById(id).size[1]"
    before = page.evaluate(height, node)
    s.row(page, node, 1).locator(".strata-time").click()
    expect(s.row(page, node, 1).locator(".strata-curve-dot")).to_have_count(2)
    assert dots(page, node, 1) == [[0, 0], [100, 1]]
    page.wait_for_function(f"([id, least]) => ({height})(id) > least", arg=[node, before + 120], timeout=d.READY)
    d.rest(page, 400)
    page.mouse.move(*spot(page, node, 1, 0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*spot(page, node, 1, 0.4, 1.0), steps=5)
    page.mouse.up()
    drawn = "<lora:flux:1:lbw=D*=0,default=1:at=0@0%, 1@40%, 1@100%> // mine"
    assert line(page, node, 1) == drawn
    d.screenshot(page, f"stack-curve-{d.renderer(page)}", node)
    s.row(page, node, 1).locator("[data-shape=hold]").click()
    held = drawn.replace("at=", "at=hold:")
    assert line(page, node, 1) == held
    # What the browser wrote is what the server reads, and what it would write itself.
    row = page.evaluate(
        "async (text) => (await (await fetch('/strata/rows', {method: 'POST', body: JSON.stringify({text}), "
        "headers: {'Content-Type': 'application/json'}})).json()).rows[0]",
        held,
    )
    assert schedule.parse(row["time"]) == schedule.parse("hold: 0@0%, 1@40%, 1@100%")
    assert held == f"{row['head']}:1{row['tail']}> // mine"
    assert d.prompt(page, node)["rows"].split("\n")[1] == held.removesuffix(" // mine")
    s.row(page, node, 1).locator(".strata-curve-dot").nth(1).focus()
    page.keyboard.press("ArrowDown")
    assert line(page, node, 1) == held.replace("1@40%", "0.95@40%")
    for wanted in (held, drawn, ROWS.split("\n")[1]):
        d.undo(page)
        d.comes(page, lambda: line(page, node, 1), wanted)
        expect(s.row(page, node, 1).locator(".strata-curve-dot")).to_have_count(3 if "40%" in wanted else 2)
    assert s.text(page, node) == ROWS
    s.row(page, node, 1).locator(".strata-curve-dot").first.focus()
    page.keyboard.press("Escape")
    expect(s.element(page, node).locator(".strata-curve")).to_have_count(0)
    page.wait_for_function(f"([id, most]) => ({height})(id) <= most", arg=[node, before + 1], timeout=d.READY)
    d.rest(page, 400)
    assert page.evaluate(height, node) <= before + 1


def test_a_row_gets_a_curve_from_its_menu_and_loses_it(page):
    node = s.stack(page, ROWS, width=300)
    s.menu(page, node, 0, "as a curve")
    shown = s.row(page, node, 0)
    expect(shown.locator(".strata-curve-dot")).to_have_count(1)
    assert line(page, node, 0) == "<lora:sd15:0.8>"  # looking changes nothing
    box, inner = s.element(page, node).bounding_box(), shown.locator(".strata-curve").bounding_box()
    assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
    shown.locator("[data-act=presets]").click()
    shown.locator(".strata-item", has_text="Fade out").click()
    d.comes(page, lambda: line(page, node, 0), "<lora:sd15:0.8:at=1@0%, 0@100%>")
    expect(shown.locator(".strata-time")).to_have_text("1\u21920")
    shown.locator("select").select_option("sigma")  # as the file's own family has it
    expect(shown.locator(".strata-curve .strata-note")).to_contain_text("Noise as SD1.5 has it")
    assert "sigma" in line(page, node, 0)
    d.screenshot(page, f"stack-curve-narrow-{d.renderer(page)}", node)
    shown.locator("[data-act=presets]").click()
    shown.locator(".strata-item", has_text="Constant").click()
    s.says(page, node, ROWS)
    # The details and the curve take turns, and rows that move take theirs along closed.
    s.menu(page, node, 0, "Details")
    expect(s.element(page, node).locator(".strata-curve")).to_have_count(0)
    shown.locator("[data-act=curve]").click()
    expect(shown.locator(".strata-curve-dot")).to_have_count(1)
    shown.locator(".strata-file").focus()
    page.keyboard.press("Alt+ArrowDown")
    expect(s.element(page, node).locator(".strata-curve")).to_have_count(0)
    assert s.text(page, node).split("\n")[1] == "<lora:sd15:0.8>"
