"""Rows for a pair of models on the node: what they show, and what hands write."""

import re
import shutil

import desk_page as d
import pytest
import stack_page as s
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def files(server):
    folder = server.base / "models" / "loras"
    (folder / "pairs").mkdir()
    for expert in ("high", "low"):
        shutil.copy(folder / "wan.safetensors", folder / "pairs" / f"wan_{expert}_noise.safetensors")
    yield
    shutil.rmtree(folder / "pairs")


def pair(page, rows=""):
    """A stack with both models connected."""
    node = s.stack(page, rows, (520, 120))
    for name, at in (("model", 120), ("model_low", 260)):
        source = d.add(page, "UNETLoader", (60, at))
        page.evaluate(
            """([source, node, name]) => {
              const target = app.graph.getNodeById(node)
              app.graph.getNodeById(source).connect(0, target, target.inputs.findIndex((input) => input.name === name))
            }""",
            [source, node, name],
        )
    d.rest(page, 300)
    d.remember(page)
    return node


def test_a_pair_shows_both_strengths_and_each_is_written(page):
    node = pair(page, "<lora:pairs/wan_high_noise:1;0.8>\n<lora:wan:1>")
    row = s.row(page, node, 0)
    shown = row.locator(".strata-strength-bar:visible")
    d.comes(page, lambda: [bar.inner_text().split() for bar in shown.all()], [["high", "1.00"], ["low", "0.80"]])
    assert row.locator(".strata-marks").get_attribute("title") == (
        "MODEL (high): pairs/wan_high_noise.safetensors\nMODEL (low): pairs/wan_low_noise.safetensors"
    )
    shown.nth(1).dblclick()
    page.keyboard.type("0.25")
    page.keyboard.press("Enter")
    assert s.text(page, node).splitlines()[0] == "<lora:pairs/wan_high_noise:1;0.25>"
    shown.nth(0).focus()
    page.keyboard.press("ArrowLeft")
    assert s.text(page, node).splitlines()[0] == "<lora:pairs/wan_high_noise:0.95;0.25>"
    assert s.sent(page, node).splitlines()[0] == "<lora:pairs/wan_high_noise:0.95;0.25>"
    d.undo(page)
    d.undo(page)
    assert s.text(page, node).splitlines()[0] == "<lora:pairs/wan_high_noise:1;0.8>"
    s.act(page, node, "stackMenu").click()
    page.get_by_label("Multiply all by").fill("0.5")
    page.keyboard.press("Enter")
    s.says(page, node, "<lora:pairs/wan_high_noise:0.5;0.4>\n<lora:wan:0.5>")
    for width in (240, 400, 560):
        page.evaluate("([id, width]) => app.graph.getNodeById(id).setSize([width, 400])", [node, width])
        d.rest(page, 300)
        d.screenshot(page, f"pair-{width}-{d.renderer(page)}", node)


def test_a_row_becomes_a_pair_and_one_file_again(page):
    node = pair(page, "<lora:pairs/wan_low_noise:0.7>")
    expect(s.row(page, node, 0).locator(".strata-strength-bar:visible")).to_have_count(1)
    s.menu(page, node, 0, "For high and low noise")
    s.says(page, node, "<lora:pairs/wan_low_noise:0.7;0.7>")
    s.menu(page, node, 0, "This file alone")
    s.says(page, node, "<lora:pairs/wan_low_noise:0.7>")


def test_a_chosen_half_comes_with_its_other_one_where_there_are_two_models(page):
    node = pair(page)
    s.act(page, node, "addLora").click()
    s.pick(page, "wan_high", "wan_high_noise")
    s.says(page, node, "<lora:pairs/wan_high_noise:1;1>")
    alone = s.stack(page, "", (520, 620))
    s.act(page, alone, "addLora").click()
    s.pick(page, "wan_high", "wan_high_noise")
    s.says(page, alone, "<lora:pairs/wan_high_noise:1>")


def test_rows_take_turns_and_the_curve_keeps_it(page):
    own = "<lora:wan:1:at=0@0%, 1@100%>"
    text = f"<lora:sd15:1:lbw=OUT*=1,default=0>\nlock <lora:flux:1>\n<lora:sdxl:0.5>\noff <lora:wan:1>\n{own}"
    node = s.stack(page, text)

    def turns(steps):
        s.act(page, node, "stackMenu").click()
        page.get_by_label("Take turns, steps each").fill(steps)
        page.keyboard.press("Enter")
        expect(page.locator(".strata-choices")).to_have_count(0)

    s.act(page, node, "stackMenu").click()
    menu = page.locator(".strata-choices")
    expect(menu.locator(".strata-note").first).to_have_text(
        "These rows have a strength over time of their own: they keep it and take no turn: wan"
    )
    page.get_by_label("Take turns, steps each").fill("abc")
    page.keyboard.press("Enter")
    expect(menu.locator(".strata-note").last).to_have_text('"abc" is not taken: type a number from 0 to 100.')
    d.SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=d.SCREENS / f"turns-menu-{d.renderer(page)}.png")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert s.text(page, node) == text
    turns("3")
    wanted = [
        "<lora:sd15:1:lbw=OUT*=1,default=0:at=hold:1@0s, 0@3s, again@6s>",
        "lock <lora:flux:1>",
        "<lora:sdxl:0.5:at=hold:0@0s, 1@3s, again@6s>",
        "off <lora:wan:1>",
        own,
    ]
    d.comes(page, lambda: s.text(page, node).splitlines(), wanted)
    expect(s.row(page, node, 2).locator(".strata-time")).to_have_text("0\u21921 \u21bb")
    # A point that is moved in the row's curve is the same turn at another strength.
    s.menu(page, node, 2, "Strength over time as a curve")
    s.element(page, node).locator(".strata-curve-dot").nth(1).focus()
    page.keyboard.press("ArrowDown")
    assert "<lora:sdxl:0.5:at=hold:0@0s, 0.95@3s, again@6s>" in s.text(page, node)
    d.screenshot(page, f"turns-{d.renderer(page)}", node)
    d.undo(page)
    s.menu(page, node, 2, "Strength over time as a curve")
    turns("0")
    s.says(page, node, text)


def test_a_row_says_which_mask_is_its_own(page):
    node = s.stack(page, "<lora:sd15:1:lbw=OUT*=1,default=0:at=fade in>")
    # A node that comes in place of one that has just gone has its details open already.
    if not s.row(page, node, 0).locator(".strata-behind input").count():
        s.menu(page, node, 0, "Details")
    field = s.row(page, node, 0).locator(".strata-behind input").nth(3)
    field.fill("left")
    page.keyboard.press("Enter")
    expect(s.row(page, node, 0).locator(".strata-note.wrong:not(:empty)")).to_contain_text("takes the number of a mask")
    field.fill("-2 + text")
    page.keyboard.press("Enter")
    s.says(page, node, "<lora:sd15:1:mask=-2+text:lbw=OUT*=1,default=0:at=fade in>")
    expect(s.row(page, node, 0).locator(".strata-marks")).to_have_attribute("title", re.compile(r"Mask: -2\+text"))
    # The other fields leave it where it is.
    for at, value, wanted in ((0, "MIDD", "lbw=MIDD:at=fade in"), (1, "0@0%, 1@50%", "lbw=MIDD:at=0@0%, 1@50%")):
        s.row(page, node, 0).locator(".strata-behind input").nth(at).fill(value)
        page.keyboard.press("Enter")
        s.says(page, node, f"<lora:sd15:1:mask=-2+text:{wanted}>")
        d.rest(page, 400)
    d.screenshot(page, f"mask-{d.renderer(page)}", node)
    s.row(page, node, 0).locator(".strata-behind input").nth(3).fill("")
    page.keyboard.press("Enter")
    s.says(page, node, "<lora:sd15:1:lbw=MIDD:at=0@0%, 1@50%>")
