"""The curve on LoRA Strength over Time, by mouse, keys and clipboard: the text says what the picture shows, and each gesture is one step of
undo."""

import desk_page as d
import pytest
from playwright.sync_api import expect

from strata.lora_math import schedule

pytestmark = pytest.mark.browser
VIEW = "((id) => app.canvas.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'strata_curve')?.element)"
COUNT = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.changeCount"


def curve(page, strength="0@0%, 1@100%"):
    node = d.add(page, "StrataLoraSchedule", (420, 120), strength=strength)
    d.remember(page)
    d.settle(page)
    d.settle(page)
    return node


def element(page, node):
    return d.element(page, node, "strata_curve")


def text(page, node):
    return page.evaluate(
        "(id) => app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === 'strength').value", node
    )


def agree(page, node):
    """The dots stand where the server's grammar has the points of the text, which is what is sent; returns the text."""
    d.settle(page)
    written = text(page, node)
    assert d.prompt(page, node)["strength"] == written
    found = schedule.parse(written)
    dots = element(page, node).locator(".strata-curve-dot")
    assert dots.count() == len(found.points)
    box = element(page, node).locator(".strata-curve-surface").bounding_box()
    for at, (place, strength) in enumerate(found.points):
        dot = dots.nth(at)
        assert float(dot.get_attribute("aria-valuenow")) == strength
        low, high = (float(dot.get_attribute(f"aria-value{end}")) for end in ("min", "max"))
        where = dot.bounding_box()
        share = (box["y"] + box["height"] - where["y"] - where["height"] / 2) / box["height"]
        assert low + share * (high - low) == pytest.approx(strength, abs=0.04)
        if found.unit == "percent":
            assert (where["x"] + where["width"] / 2 - box["x"]) / box["width"] == pytest.approx(place, abs=0.02)
    return written


def spot(page, node, place, strength, low=-0.5, high=1.5):
    """Where a place (0 to 1 along the picture) and a strength are on the screen."""
    box = element(page, node).locator(".strata-curve-surface").bounding_box()
    return box["x"] + place * box["width"], box["y"] + box["height"] * (high - strength) / (high - low)


def drag(page, node, start, end):
    page.mouse.move(*spot(page, node, *start))
    page.mouse.down()
    page.mouse.move(*spot(page, node, *end), steps=5)
    page.mouse.up()


def undo_until(page, node, wanted):
    page.keyboard.press("Control+z")
    page.wait_for_function(
        "([id, text]) => app.canvas.graph.getNodeById(id)?.widgets.find((w) => w.name === 'strength').value === text",
        arg=[node, wanted],
        timeout=10_000,
    )
    d.rest(page, 300)


def test_mouse_and_undo(page):
    node = curve(page)
    d.number_nodes(page, node)
    texts = [text(page, node)]
    drag(page, node, (0.5, 0.5), (0.4, 1.0))  # a press in the open adds a point, and holds it
    texts.append(agree(page, node))
    assert texts[-1] == "0@0%, 1@40%, 1@100%"
    drag(page, node, (0.4, 1.0), (0.25, -0.25))
    texts.append(agree(page, node))
    assert texts[-1] == "0@0%, -0.25@25%, 1@100%"
    drag(page, node, (0.25, -0.25), (1.5, 0.5))  # no further than the next point
    texts.append(agree(page, node))
    assert texts[-1] == "0@0%, 0.5@100%, 1@100%"
    page.mouse.click(*spot(page, node, 0.0, 0.0), button="right")
    texts.append(agree(page, node))
    assert texts[-1] == "0.5@100%, 1@100%"
    assert page.evaluate(COUNT) == 0
    for wanted in reversed(texts[:-1]):
        undo_until(page, node, wanted)
        agree(page, node)


def test_keys_and_typed_numbers(page):
    node = curve(page, "0@0%, 1@50%")
    dots = element(page, node).locator(".strata-curve-dot")
    dots.nth(1).focus()
    for key, wanted in [
        ("ArrowDown", "0@0%, 0.95@50%"),
        ("Shift+ArrowDown", "0@0%, 0.94@50%"),
        ("ArrowRight", "0@0%, 0.94@51%"),
        ("Shift+ArrowLeft", "0@0%, 0.94@50.9%"),
        ("PageUp", "0@0%, 1.2@50.9%"),
        ("Insert", "0@0%, 1.2@50.9%, 1.2@75.45%"),
        ("Delete", "0@0%, 1.2@50.9%"),
    ]:
        page.keyboard.press(key)
        assert text(page, node) == wanted, key
    agree(page, node)
    page.keyboard.type("-0.5")
    page.keyboard.press("Enter")
    assert agree(page, node) == "0@0%, -0.5@50.9%"
    place = element(page, node).locator(".strata-curve-point input").nth(1)
    place.fill("x")
    page.keyboard.press("Enter")
    assert "type a number from 0" in element(page, node).locator(".strata-note").text_content()
    place.fill("25 %")
    page.keyboard.press("Enter")
    assert agree(page, node) == "0@0%, -0.5@25%"
    dots.nth(1).focus()
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")  # the last one stays
    assert agree(page, node) == "0@0%"
    assert page.evaluate(COUNT) == 0


def test_presets_shapes_and_units(page):
    node = curve(page, "hold: 0.3@10%")
    shown = element(page, node)
    for name, preset in zip(
        ("Fade in", "Fade out", "Only the first third", "Only the last third", "Pulse"),
        schedule.PRESETS.values(),
        strict=True,
    ):
        shown.locator("[data-act=presets]").click()
        shown.locator(".strata-item", has_text=name).click()
        assert schedule.parse(agree(page, node)) == schedule.parse(preset)
    shown.locator("[data-shape=hold]").click()
    assert agree(page, node) == "hold: 0@0%, 1@50%, 0@100%"
    shown.locator("[data-shape=linear]").click()
    note = shown.locator(".strata-note")
    shown.locator("select").select_option("step")
    expect(note).to_have_text("No sampler is connected: counted in 20 steps.")
    assert agree(page, node) == "0@0s, 1@10s, 0@20s"
    shown.locator("select").select_option("sigma")
    expect(note).to_contain_text("connect this to a loader")
    assert agree(page, node) == "0@0s, 1@10s, 0@20s"
    assert shown.locator("select").input_value() == "step"


def test_another_unit_is_counted_by_the_sampler_and_the_family(page):
    """The noise of a family is ComfyUI's own for it: tests/nodes/test_families.py."""
    node = curve(page, "0@0%, 1@50%, 0@100%")
    loader = d.add(page, "StrataLoraLoader", (950, 120), lora_name="flux.safetensors")
    page.evaluate(
        """([id, loader]) => {
          const [node, to] = [id, loader].map((one) => app.graph.getNodeById(one))
          const sampler = LiteGraph.createNode('KSampler')
          app.graph.add(sampler)
          sampler.pos = [1400, 120]
          sampler.widgets.find((w) => w.name === 'steps').value = 28
          node.connect(0, to, to.inputs.findIndex((slot) => slot.name === 'keyframes'))
          to.connect(0, sampler, 0)
        }""",
        [node, loader],
    )
    shown = element(page, node)
    note = shown.locator(".strata-note")
    shown.locator("select").select_option("step")
    expect(note).to_have_text("Counted in the 28 steps of the sampler.")
    assert agree(page, node) == "0@0s, 1@14s, 0@28s"
    # Another number of steps: what was counted in the old one is not said any more, and the axis never ends before a point.
    steps = "(to) => { app.graph.nodes.find((n) => n.type === 'KSampler').widgets.find((w) => w.name === 'steps').value = to }"
    last = shown.locator(".strata-curve-ticks span").last
    for count, end in ((40, "40"), (12, "28")):
        page.evaluate(steps, count)
        expect(last).to_have_text(end)
        expect(note).to_have_text("Click to add a point, drag to move it, right click to remove it.")
    page.evaluate(steps, 28)
    d.rest(page, 1300)
    shown.locator("select").select_option("sigma")
    expect(note).to_contain_text("Noise as FLUX.1 has it")
    assert agree(page, node) == "0@1sigma, 1@0.7595sigma, 0@0sigma"
    shown.locator("select").select_option("percent")
    expect(note).to_contain_text("Noise as FLUX.1 has it")
    assert agree(page, node) == "0@0%, 1@50%, 0@100%"


def test_clipboard_wrong_texts_and_wires(page):
    node = curve(page)
    shown = element(page, node)
    shown.locator(".strata-curve-dot").first.focus()
    page.keyboard.press("Control+c")
    assert page.evaluate("() => navigator.clipboard.readText()") == "0@0%, 1@100%"
    d.paste(page, "0@0,0.6@.5;1@1")
    assert agree(page, node) == "0@0%, 0.6@50%, 1@100%"
    shown.locator(".strata-curve-dot").first.focus()
    d.paste(page, "1@x")
    assert text(page, node) == "0@0%, 0.6@50%, 1@100%"
    assert "is no point" in shown.locator(".strata-note").text_content()
    page.evaluate(
        "(id) => { app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === 'strength').value = '1@50%, 2@oops' }",
        node,
    )
    d.rest(page, 1300)  # a value that code sets is looked for once a second
    assert "'2@oops' is no point" in shown.locator(".strata-note").text_content()
    assert shown.get_attribute("aria-invalid") == "true"
    page.mouse.click(*spot(page, node, 0.5, 0.5))
    assert text(page, node) == "1@50%, 2@oops"
    page.evaluate(
        """(id) => {
          const source = LiteGraph.createNode('PrimitiveString') ?? LiteGraph.createNode('PrimitiveStringMultiline')
          app.graph.add(source)
          const node = app.canvas.graph.getNodeById(id)
          source.connect(0, node, node.inputs.findIndex((slot) => slot.name === 'strength'))
        }""",
        node,
    )
    d.settle(page)
    assert "comes from a wire" in shown.locator(".strata-note").text_content()
    assert shown.locator("[data-act=presets]").is_disabled()
