"""A loader's strengths as bars: any value, at any width, by mouse and keyboard, in both renderers; kept in ComfyUI's own widgets."""

import json

import desk_page as d
import pytest

pytestmark = pytest.mark.browser
MODEL, CLIP = "strength_model", "strength_clip"


def values(page, node):
    inputs = d.prompt(page, node)
    return inputs[MODEL], inputs[CLIP]


def loader_of(page, width=None, **strengths):
    loader = d.add(page, "StrataLoraLoader", (500, 120), lora_name="sd15.safetensors", **strengths)
    if width:
        page.evaluate(
            "([id, w]) => { const n = app.graph.getNodeById(id); n.setSize([w, n.size[1]]) }", [loader, width]
        )
    d.rest(page, 500)
    return loader


def pull(page, bar, pixels, modifiers=()):
    box = bar.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for key in modifiers:
        page.keyboard.down(key)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=max(4, abs(int(pixels)) // 4))
    page.mouse.up()
    for key in modifiers:
        page.keyboard.up(key)


def type_into(page, bar, text):
    bar.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def test_a_drag_reaches_every_step_in_a_narrow_node(page):
    loader = loader_of(page, 230)
    bar = d.strength(page, loader, MODEL)
    seen = []
    box = bar.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + 10
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(131):  # to the left, px by px
        page.mouse.move(x - step, y)
        page.evaluate("() => new Promise(requestAnimationFrame)")  # the browser hands on one move a frame
        seen.append(float(bar.get_attribute("aria-valuenow")))
    page.mouse.up()
    assert seen == sorted(seen, reverse=True)
    assert {1.0, 0.8, 0.6, 0.5, 0.2, 0.0, -0.1} <= set(seen)
    assert all(abs(value * 20 - round(value * 20)) < 1e-9 for value in seen)
    # 0.5 holds a little longer than its neighbours.
    assert seen.count(0.5) > max(seen.count(0.6), seen.count(0.4), seen.count(0.7))
    assert values(page, loader)[0] == seen[-1]


def test_fine_drags_negative_bars_and_what_resets(page):
    loader = loader_of(page)
    bar = d.strength(page, loader, MODEL)
    pull(page, bar, 60, ["Shift"])
    fine = values(page, loader)[0]
    assert 1 < fine < 1.3
    assert fine == round(fine, 2)
    pull(page, bar, -60, ["Shift"])
    assert values(page, loader)[0] == pytest.approx(1, abs=0.021)
    type_into(page, bar, "-0.5")
    fill, zero = (bar.locator(f".strata-strength-{part}").bounding_box() for part in ("fill", "zero"))
    assert abs(fill["x"] + fill["width"] - zero["x"]) < 2  # from 0 to the left
    negative = fill["x"], bar.locator(".strata-strength-fill").evaluate("(e) => getComputedStyle(e).backgroundColor")
    bar.click(button="right")
    assert values(page, loader)[0] == 1
    assert page.locator(".litecontextmenu, .p-contextmenu").count() == 0
    fill = bar.locator(".strata-strength-fill")
    assert abs(fill.bounding_box()["x"] - zero["x"]) < 2
    assert fill.evaluate("(e) => getComputedStyle(e).backgroundColor") != negative[1]


def test_any_value_is_typed_and_nothing_is_cut(page):
    loader = loader_of(page, 300)
    bar = d.strength(page, loader, MODEL)
    for text, value in (("3.5", 3.5), ("0,7", 0.7), ("-100", -100), ("0.123", 0.123), ("\u22122", -2), ("1", 1)):
        type_into(page, bar, text)
        assert values(page, loader)[0] == value, text
        assert float(bar.get_attribute("aria-valuenow")) == value
    assert bar.locator(".strata-strength-value").text_content() == "1.00"
    for value, said in (
        (37.125, "37.125"),
        (0.001, "0.001"),
        (1, "1.00"),
    ):  # as ComfyUI's own row and its scripts set it
        d.choose(page, loader, MODEL, value)
        d.settle(page)
        assert (values(page, loader)[0], bar.locator(".strata-strength-value").text_content()) == (value, said)
    for text in ("250", "abc", "1,5,5"):
        type_into(page, bar, text)
        note = d.element(page, loader, "strata_strengths").locator(".strata-note")
        assert "-100 to 100" in note.text_content()
        assert text in note.text_content()
        assert values(page, loader)[0] == 1
        page.keyboard.press("Escape")
        assert note.text_content() == ""
    # A script or a person's other tool sets ComfyUI's widget: that counts as well.
    d.choose(page, loader, MODEL, 7.5)
    d.rest(page, 300)
    assert values(page, loader)[0] == 7.5
    assert bar.get_attribute("aria-valuenow") == "7.5"


def test_keys_and_undo(page):
    loader = loader_of(page)
    page.evaluate("() => { globalThis.heard = []; addEventListener('keydown', (event) => heard.push(event.key)) }")
    d.number_nodes(page, loader)
    bar = d.strength(page, loader, MODEL)
    bar.focus()
    told = []
    for key, value in (
        ("ArrowLeft", 0.95),
        ("Shift+ArrowRight", 0.96),
        ("PageDown", 0.7),
        ("End", 2),
        ("Home", -2),
        ("Delete", 1),
    ):
        page.keyboard.press(key)
        told.append(values(page, loader)[0])
        assert told[-1] == value, key
    page.keyboard.press("5")
    page.keyboard.press("Escape")
    assert values(page, loader)[0] == 1
    pull(page, bar, -30)
    assert values(page, loader)[0] < 0.8
    assert page.evaluate("() => heard.filter((key) => key !== 'Shift')") == []
    for value in (1, -2, 2, 0.7):
        page.keyboard.press("Control+z")
        page.wait_for_function(
            "([id, value]) => app.graph.getNodeById(id)?.widgets.find((w) => w.name === 'strength_model').value === value",
            arg=[loader, value],
            timeout=10_000,
        )
        d.rest(page, 300)


def test_the_link_keeps_their_ratio_or_makes_them_equal(page):
    loader = loader_of(page)
    link = d.element(page, loader, "strata_strengths").locator("[data-act=link]")
    model, clip = (d.strength(page, loader, name) for name in (MODEL, CLIP))
    type_into(page, clip, "0.5")
    assert values(page, loader) == (1, 0.5)
    link.click()  # their ratio
    assert link.get_attribute("aria-pressed") == "true"
    assert values(page, loader) == (1, 0.5)
    type_into(page, model, "0.8")
    assert values(page, loader) == (0.8, 0.4)
    type_into(page, model, "0")
    assert values(page, loader) == (0, 0)
    type_into(page, clip, "-1")
    assert values(page, loader) == (-2, -1)
    link.click()  # the same
    assert values(page, loader) == (-2, -2)
    type_into(page, clip, "0.7")
    assert values(page, loader) == (0.7, 0.7)
    d.choose(page, loader, MODEL, 0.3)
    assert values(page, loader) == (0.3, 0.3)
    link.click()  # each on its own
    assert link.get_attribute("aria-pressed") == "false"
    type_into(page, model, "1")
    assert values(page, loader) == (1, 0.3)


def test_the_values_are_comfyuis_own(page):
    """Saved, loaded, duplicated and wired as those of any FLOAT widget."""
    loader = loader_of(page, strength_model=0.5)
    type_into(page, d.strength(page, loader, CLIP), "3.25")
    node = page.evaluate("(id) => app.graph.getNodeById(id).serialize()", loader)
    assert node["widgets_values"] == ["sd15.safetensors", 0.5, 3.25, "auto", "error", "masked"]
    assert not {"strata_line", "strata_strengths"} & d.prompt(page, loader).keys()
    saved = page.evaluate("() => JSON.stringify(app.rootGraph.serialize())")
    page.evaluate(
        "async (saved) => app.loadGraphData(JSON.parse(saved), true, false, app.extensionManager.workflow.activeWorkflow)",
        saved,
    )
    d.rest(page, 700)
    assert values(page, loader) == (0.5, 3.25)
    assert d.strength(page, loader, CLIP).get_attribute("aria-valuenow") == "3.25"
    assert len(json.loads(saved)["nodes"]) == 1
    # A wire: ComfyUI's own row comes back as its end, and the bar goes.
    page.evaluate(
        """(id) => {
          const source = LiteGraph.createNode('PrimitiveFloat'), node = app.graph.getNodeById(id)
          app.graph.add(source)
          source.connect(0, node, node.inputs.findIndex((input) => input.name === 'strength_model'))
        }""",
        loader,
    )
    d.rest(page, 600)
    shown = """(id) => ['strength_model', 'strength_clip'].map(
      (name) => !app.graph.getNodeById(id).widgets.find((w) => w.name === name).options.hidden)"""
    assert page.evaluate(shown, loader) == [True, False]
    assert not d.strength(page, loader, MODEL).is_visible()
    assert d.strength(page, loader, CLIP).is_visible()
    if d.renderer(page) == "vue":
        assert page.locator(f"[data-node-id='{loader}']").get_by_text("strength_model", exact=True).first.is_visible()
    d.screenshot(page, f"strength-wired-{d.renderer(page)}", loader)
    page.evaluate(
        "(id) => { const n = app.graph.getNodeById(id); n.disconnectInput(n.inputs.findIndex((i) => i.name === 'strength_model')) }",
        loader,
    )
    d.rest(page, 600)
    assert d.strength(page, loader, MODEL).is_visible()
    assert page.evaluate(shown, loader) == [False, False]


def test_a_refused_text_takes_no_room_for_good(page):
    loader = loader_of(page)
    size = "(id) => [...app.graph.getNodeById(id).size]"
    before = page.evaluate(size, loader)
    type_into(page, d.strength(page, loader, MODEL), "nonsense")
    note = d.element(page, loader, "strata_strengths").locator(".strata-note")
    assert "nonsense" in note.text_content()
    page.keyboard.press("Escape")
    d.rest(page, 300)
    assert note.text_content() == ""
    assert page.evaluate(size, loader) == before
