"""The desk's menu of presets: it closes as menus do, asks before it overwrites, and leaves nothing dead behind."""

import desk_page as d
import pytest

pytestmark = pytest.mark.browser
SD15 = {"lora": "sd15.safetensors"}


@pytest.fixture
def desk(page, server):
    yield d.add_pair(page, **SD15)[0]
    for name in ("mine", "MIDD"):
        page.evaluate(
            """async (name) => app.extensionManager && fetch('/strata/presets', {
              method: 'DELETE', body: JSON.stringify({ name, family: 'SD1.5' }), headers: { 'Content-Type': 'application/json' } })""",
            name,
        )


def menu(page, desk):
    return d.element(page, desk).locator(".strata-menu:not(.strata-choices)")


def label(page, desk):
    return d.element(page, desk).locator("[data-act=presets]").text_content()


def open_menu(page, desk):
    d.element(page, desk).locator("[data-act=presets]").click()
    menu(page, desk).locator(".strata-item").first.wait_for()


def choose(page, desk, name):
    open_menu(page, desk)
    menu(page, desk).locator(".strata-search").first.fill(name)
    page.keyboard.press("Enter")
    d.rest(page, 400)


def save(page, desk, name):
    open_menu(page, desk)
    menu(page, desk).locator(".strata-saving input").fill(name)
    page.keyboard.press("Enter")
    # Saved, and the menu is gone; or there is a question.
    for _ in range(100):
        if not menu(page, desk).is_visible() or any(menu(page, desk).locator("[role=alert]").all_text_contents()):
            break
        d.rest(page, 100)
    d.rest(page, 400)


def test_the_button_says_whose_weights_these_are(page, server, desk):
    """The name, with a star once the weights are others, and no name that is not true any more."""
    assert label(page, desk) == "Presets \u25be"
    choose(page, desk, "MIDD")
    assert label(page, desk) == "MIDD \u25be"
    before = d.shown(page, desk)
    weight = before["IN04"]
    d.fader(page, desk, "IN04").focus()
    page.keyboard.press("ArrowDown")
    d.settle(page)
    assert label(page, desk) == "MIDD* \u25be"
    page.keyboard.press("ArrowUp")
    d.settle(page)
    assert d.shown(page, desk)["IN04"] == weight
    assert label(page, desk) == "MIDD \u25be"
    d.choose(page, desk, "preset", "none")
    d.settle(page)
    assert label(page, desk) == "Presets \u25be"
    assert d.shown(page, desk) == before
    save(page, desk, "mine")
    assert label(page, desk) == "mine \u25be"
    assert d.prompt(page, desk)["preset"] == "mine"
    d.element(page, desk).locator("[data-act=reset]").click()
    d.settle(page)
    assert label(page, desk) == "Presets \u25be"
    assert d.prompt(page, desk)["preset"] == "none"
    hidden = "(id) => ['preset', 'invert'].map((name) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).hidden)"
    assert page.evaluate(hidden, desk) == [True, True]


def test_a_name_that_is_taken_is_asked_about(page, server, desk):
    d.set_text(page, desk, "IN4=0.2, default=1")
    mine = d.agree(page, server, desk, **SD15)
    for name, words in (("MIDD", "preset of this pack"), ("mine", ""), ("Mine", "You have"), ("mine", "You have")):
        save(page, desk, name)
        if not words:
            assert not menu(page, desk).is_visible()
            continue
        told = menu(page, desk).locator(".strata-note")
        assert words in told.text_content()
        names = {
            preset["name"] for preset in server.get_json("/strata/presets?family=SD1.5")["presets"] if preset["user"]
        }
        assert name not in names or name == "mine"
        page.keyboard.press("Escape")
    d.set_text(page, desk, "IN4=0.7, default=1")
    save(page, desk, "MIDD")
    assert d.agree(page, server, desk, **SD15) != mine
    menu(page, desk).locator("[data-act=save]").click()
    d.rest(page, 500)
    own = [p for p in server.get_json("/strata/presets?family=SD1.5")["presets"] if p["user"] and p["name"] == "MIDD"]
    assert [d.meaning(server, preset["weights"], **SD15) for preset in own] == [d.shown(page, desk)]
    assert d.shown(page, desk) == {**mine, "IN04": 0.7}
    assert label(page, desk) == "MIDD \u25be"


def test_a_deleted_preset_leaves_no_name_and_no_dead_desk(page, server, desk):
    d.set_text(page, desk, "IN4=0.2, default=1")
    mine = d.agree(page, server, desk, **SD15)
    save(page, desk, "mine")
    other = d.add(page, at=(60, 560), preset="mine", layout="SD1.5")  # one that has the name alone
    d.rest(page, 500)
    d.set_text(page, other, "")
    open_menu(page, desk)
    menu(page, desk).locator("[data-act=delete]").click()
    d.rest(page, 500)
    page.keyboard.press("Escape")
    assert not menu(page, desk).is_visible()
    for node in (desk, other):
        inputs = d.prompt(page, node)
        assert inputs["preset"] == "none"
        assert d.meaning(server, inputs["weights"], **SD15) == mine
        values = page.evaluate(
            "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'preset').options.values", node
        )
        assert "mine" not in values
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.2

    # A workflow from elsewhere names a preset that is not here: the desk says so, and hands may set weights of their own.
    d.set_text(page, desk, "")
    d.choose(page, desk, "preset", "gone")
    d.rest(page, 500)
    d.set_text(page, desk, "")
    note = d.element(page, desk).locator(".strata-foot .strata-note")
    assert "gone" in note.text_content()
    assert note.evaluate("(e) => e.classList.contains('wrong')")
    d.fader(page, desk, "IN04").focus()
    page.keyboard.press("ArrowDown")
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.95
    assert label(page, desk) == "Presets \u25be"


def test_the_menu_closes_after_anything(page, desk):
    """On Escape, a press elsewhere, and the focus elsewhere; also when what had the focus in it is no more."""
    save(page, desk, "mine")
    ways = (
        lambda: page.keyboard.press("Escape"),
        lambda: page.mouse.click(200, 800),
        lambda: d.element(page, desk).locator("[data-act=copy]").focus(),
        lambda: d.element(page, desk).locator("[data-act=presets]").click(),
    )
    for way in ways:
        open_menu(page, desk)
        way()
        assert not menu(page, desk).is_visible()
    for way in ways[:2]:
        open_menu(page, desk)
        if menu(page, desk).locator("[data-act=delete]").count():
            menu(page, desk).locator("[data-act=delete]").click()
        d.rest(page, 300)
        page.evaluate("() => document.activeElement.blur()")
        way()
        assert not menu(page, desk).is_visible()
    assert page.evaluate("() => app.graph.nodes.length") == 2
