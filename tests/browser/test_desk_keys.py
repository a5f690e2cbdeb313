"""Keys, typed numbers and right clicks on the desk: one step of undo each, nothing silently changed, nothing for ComfyUI to hear."""

import desk_page as d
import pytest

pytestmark = pytest.mark.browser
SD15 = {"lora": "sd15.safetensors"}

# Every key that reaches the window after the nodes had it; ComfyUI's own shortcuts listen there.
LISTEN = """() => {
  globalThis.heard = []
  addEventListener('keydown', (event) => heard.push(event.key))
}"""


def note(page, desk):
    return d.element(page, desk).locator(".strata-foot .strata-note").text_content()


def undo_until(page, desk, text):
    """One Ctrl+Z, which loads the graph anew; waits for its end."""
    page.keyboard.press("Control+z")
    page.wait_for_function(
        "([id, text]) => app.canvas.graph.getNodeById(id)?.widgets.find((w) => w.name === 'weights').value === text",
        arg=[desk, text],
        timeout=10_000,
    )
    d.rest(page, 300)


def test_each_key_is_one_step_of_undo(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.number_nodes(page, desk)
    texts = [d.text(page, desk)]
    d.fader(page, desk, "IN07").focus()
    page.keyboard.press("Delete")  # it stands at 1 already
    assert d.text(page, desk) == texts[0]
    for name, weight in (("IN04", 0.5), ("OUT03", 0.3)):
        d.drag(page, desk, name, weight)
        texts.append(d.text(page, desk))
    d.fader(page, desk, "IN07").focus()
    for key in ("PageDown", "PageDown", "m"):
        page.keyboard.press(key)
        texts.append(d.text(page, desk))
    assert len(set(texts)) == 6
    for text in reversed(texts[:-1]):
        undo_until(page, desk, text)
        d.agree(page, server, desk, **SD15)


def test_a_held_key_and_an_interrupted_stroke_end_their_steps(page):
    """Whatever is left open would keep ComfyUI from recording anything from then on."""
    desk, _ = d.add_pair(page, **SD15)
    count = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.changeCount"
    fader = d.fader(page, desk, "IN04")
    fader.focus()
    page.keyboard.down("ArrowDown")
    page.keyboard.down("ArrowDown")  # the browser repeats it
    page.keyboard.down("ArrowDown")
    assert d.text(page, desk) == "IN4=0.85, default=1"
    page.keyboard.up("ArrowDown")
    assert page.evaluate(count) == 0
    box = fader.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60, steps=3)
    assert page.evaluate(count) == 1
    page.evaluate("(id) => app.graph.remove(app.graph.getNodeById(id))", desk)
    assert page.evaluate(count) == 0
    page.mouse.up()
    assert page.evaluate(count) == 0


def test_no_plain_key_reaches_comfyui(page):
    """M opens ComfyUI's model library, W its workflows, R reads all lists anew; on a desk that is off they do nothing either."""
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=zero")
    page.evaluate(LISTEN)
    d.fader(page, desk, "IN04").focus()
    for key in ("m", "s", "w", "r", "q", "n", "ArrowDown", "Delete", "5", ".", "Enter", "Escape", "Home", "PageUp"):
        page.keyboard.press(key)
    d.element(page, desk).locator("[data-act=copy]").focus()
    for key in ("m", "Delete"):
        page.keyboard.press(key)
    assert page.evaluate("() => heard") == []
    assert page.evaluate("() => app.extensionManager.sidebarTab.activeSidebarTabId") is None
    assert d.text(page, desk) == "IN4=zero"
    assert page.evaluate("(id) => Boolean(app.graph.getNodeById(id))", desk)
    d.set_text(page, desk, "IN4=0.5")
    d.fader(page, desk, "IN04").focus()
    for key in ("w", "q", "m"):
        page.keyboard.press(key)
    assert page.evaluate("() => heard") == []


def test_typed_numbers_are_taken_as_typed_or_refused_with_words(page, server):
    desk, _ = d.add_pair(page, **SD15)
    fader, field = d.fader(page, desk, "IN04"), d.element(page, desk).locator(".strata-input")
    fader.focus()
    page.keyboard.type("0,75")
    page.keyboard.press("Enter")
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.75
    for typed in ("250", "-100.5", "1e9", "abc"):
        page.keyboard.press("Enter")
        page.keyboard.press("Control+a")
        page.keyboard.type(typed)
        page.keyboard.press("Enter")
        assert "-100 to 100" in note(page, desk)
        assert typed in note(page, desk)
        assert page.evaluate("() => document.activeElement.className") == "strata-input"
        assert d.text(page, desk) == "IN4=0.75, default=1"
        page.keyboard.press("Escape")
        assert note(page, desk) == ""
    assert field.input_value() == "0.75"
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.type("-100")
    page.keyboard.press("Enter")
    assert d.agree(page, server, desk, **SD15)["IN04"] == -100


def test_a_master_gives_the_proportions_back(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN0-5=0.5, IN6=0, IN7=-0.25, default=1")
    before = d.agree(page, server, desk, **SD15)
    master = d.fader(page, desk, "IN*")
    for away, back in (("0", "1"), ("0.07", "1"), ("-1", "1")):
        for typed in (away, back):
            master.focus()
            page.keyboard.type(typed)
            page.keyboard.press("Enter")
        assert d.agree(page, server, desk, **SD15) == before
    d.drag(page, desk, "IN*", 0)
    assert {d.shown(page, desk)[f"IN{n:02d}"] for n in range(12)} == {0}
    master.focus()
    for _ in range(4):
        page.keyboard.press("PageUp")
    assert d.agree(page, server, desk, **SD15) == before
    d.drag(page, desk, "IN*", 0)
    d.fader(page, desk, "IN02").focus()
    page.keyboard.press("ArrowUp")  # a hand on one of them: these are the proportions from now on
    master.focus()
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    values = d.agree(page, server, desk, **SD15)
    assert {name for name, value in values.items() if name.startswith("IN") and value} == {"IN02"}


def test_the_pointed_fader_stays_while_the_pointer_goes_to_the_foot(page, server):
    desk, _ = d.add_pair(page, **SD15)
    root = d.element(page, desk)
    d.fader(page, desk, "OUT05").hover()
    foot = root.locator(".strata-foot")
    box = foot.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 5, steps=12)
    assert foot.locator(".strata-name").text_content() == "OUT05"
    foot.locator("[data-act=solo]").click()
    values = d.agree(page, server, desk, **SD15)
    assert {name for name, value in values.items() if value} == {"OUT05"}
    foot.locator("[data-act=solo]").click()
    # Open canvas: over the workflow's tab an editor shows its card, and takes no Ctrl+Z until that has faded.
    page.mouse.move(300, 900)
    assert set(d.agree(page, server, desk, **SD15).values()) == {1}
    d.number_nodes(page, desk)
    foot_mute = lambda: (d.fader(page, desk, "OUT05").hover(), foot.locator("[data-act=mute]").click())  # noqa: E731
    foot_mute()
    undo_until(page, desk, "default=1")


def test_a_right_click_offers_what_keys_do(page, server):
    desk, _ = d.add_pair(page, **SD15)
    menu = d.element(page, desk).locator(".strata-choices")

    def choose(at):
        d.fader(page, desk, "OUT05").click(button="right")
        assert menu.get_by_role("menuitem").count() == 4
        menu.get_by_role("menuitem").nth(at).click()
        assert not menu.is_visible()

    choose(0)
    assert d.agree(page, server, desk, **SD15)["OUT05"] == 0
    choose(0)
    assert d.agree(page, server, desk, **SD15)["OUT05"] == 1
    choose(1)
    assert {name for name, value in d.agree(page, server, desk, **SD15).items() if value} == {"OUT05"}
    choose(1)
    choose(3)
    page.keyboard.type("0.4")
    page.keyboard.press("Enter")
    assert d.agree(page, server, desk, **SD15)["OUT05"] == 0.4
    choose(2)
    assert d.agree(page, server, desk, **SD15)["OUT05"] == 1
    # By keyboard, and closed again by Escape and by a press elsewhere; no other menu opens.
    d.fader(page, desk, "IN04").focus()
    d.fader(page, desk, "IN04").dispatch_event("contextmenu", {"clientX": 500, "clientY": 500})
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert not menu.is_visible()
    assert page.evaluate("() => document.activeElement.dataset.name") == "IN04"
    d.fader(page, desk, "IN04").click(button="right")
    page.mouse.click(200, 800)
    assert not menu.is_visible()
    assert page.locator(".litecontextmenu, .p-contextmenu").count() == 0
