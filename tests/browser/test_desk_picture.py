"""What the desk shows: axes, words, what acts when inverted, and all of it at every width, in App mode and in Chinese."""

import desk_page as d
import pytest

from strata.devtools.browser import EMPTY, open_editor, use_renderer

pytestmark = pytest.mark.browser
SD15 = {"lora": "sd15.safetensors"}
OUTSIDE = """(root) => {
  const box = root.getBoundingClientRect()
  return [...root.querySelectorAll('button, input, .strata-fader, .strata-head, .strata-axis i, .strata-scale i')].filter((part) => {
    const place = part.getBoundingClientRect()
    return place.width && (place.left < box.left - 1 || place.right > box.right + 1 || place.bottom > box.bottom + 1)
  }).map((part) => part.outerHTML)
}"""


def resize(page, node, width):
    page.evaluate(
        """([id, width]) => {
          const node = app.graph.getNodeById(id)
          node.setSize([width, node.size[1]])
          node.graph.setDirtyCanvas(true, true)
        }""",
        [node, width],
    )
    d.rest(page, 500)


def test_axes_and_words(page):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=0, IN5=1, default=0.5")
    root = d.element(page, desk)

    def height(name):
        box = d.fader(page, desk, name).locator(".strata-cap").bounding_box()
        return box["y"] + box["height"] / 2

    for text, name in (("1", "IN05"), ("0", "IN04")):
        mark = root.locator(".strata-axis i", has_text=text).first.bounding_box()
        assert abs(mark["y"] + mark["height"] / 2 - height(name)) < 2
    # The bars' own scale: its top is the highest bar, and says what that stands for.
    shares = page.evaluate(
        """async () => {
          const found = await (await fetch('/strata/lora?name=sd15.safetensors')).json()
          return Object.values(found.blocks).map((row) => row.share)
        }"""
    )
    top = root.locator(".strata-scale i").first
    assert float(top.text_content().removesuffix("%")) == pytest.approx(100 * max(shares), rel=0.05)
    bars = [bar.bounding_box()["y"] for bar in root.locator(".strata-energy").all() if bar.bounding_box()["height"] > 0]
    assert abs(min(bars) - top.bounding_box()["y"]) < 2
    # No letter stands for two things, and none for a word that it does not begin.
    words = {group: root.locator(f"[data-group={group}] .strata-head").inner_text().split() for group in ("IN", "OUT")}
    assert words == {"IN": ["IN", "input"], "OUT": ["OUT", "output"]}
    assert root.locator("[data-group=M] .strata-head span").text_content() == "mid"
    assert root.locator("[data-group=OTHER] .strata-head").inner_text() == "other"
    assert "CLIP" in root.locator("[data-name='TE:clip_l'] .strata-number").text_content()
    buttons = root.locator(".strata-head button, .strata-foot button").all()
    assert len(buttons) == 6
    assert all(button.inner_text() in ("", "Mute", "Solo") for button in buttons)
    for act in ("mute", "solo"):
        assert act.title() in root.locator(f"[data-group=IN] [data-act={act}]").get_attribute("aria-label")
    d.screenshot(page, f"words-{d.renderer(page)}", desk)


def test_the_example_is_one_of_the_models_family(page):
    desk, loader = d.add_pair(page, "flux.safetensors")
    shown = """(id) => {
      const widget = app.graph.getNodeById(id).widgets.find((w) => w.name === 'weights')
      const field = document.querySelector(`[data-node-id="${id}"] textarea`)
      return LiteGraph.vueNodesMode ? field.parentElement.innerText : widget.element.placeholder
    }"""
    assert "D6-12=0.5, S*=1" in page.evaluate(shown, desk)
    d.choose(page, loader, "lora_name", "z-image.safetensors")
    d.wait_for_lora(page, desk, "z-image.safetensors")
    assert "L10-20=0.5, TE=0.4" in page.evaluate(shown, desk)


def test_inverted_everything_shows_what_acts(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=0.2, default=1")
    root = d.element(page, desk)
    invert = root.locator("[data-act=invert]")
    assert invert.get_attribute("aria-pressed") == "false"
    d.choose(page, desk, "invert", True)
    d.rest(page, 500)
    acts = {name: round(1 - value, 6) for name, value in d.meaning(server, "IN4=0.2, default=1", **SD15).items()}
    assert d.shown(page, desk) == acts
    assert invert.get_attribute("aria-pressed") == "true"
    assert "IN4=0.8, default=0" in root.locator(".strata-foot .strata-note").text_content()
    root.locator("[data-act=copy]").click()
    assert "IN4=0.8" in page.evaluate("() => navigator.clipboard.readText()")
    # An edit writes what acts, and the switch goes off with it: nothing jumps.
    d.fader(page, desk, "OUT05").focus()
    page.keyboard.press("ArrowUp")
    assert d.agree(page, server, desk, **SD15) == {**acts, "OUT05": 0.05}
    assert d.prompt(page, desk)["invert"] is False
    # The switch again: the button turns it off.
    d.choose(page, desk, "invert", True)
    d.rest(page, 500)
    assert d.shown(page, desk)["IN04"] == 0.2
    invert.click()
    d.rest(page, 500)
    assert d.agree(page, server, desk, **SD15) == {**acts, "OUT05": 0.05}
    d.choose(page, desk, "invert", True)
    d.rest(page, 500)
    root.locator("[data-act=reset]").click()
    d.rest(page, 500)
    assert set(d.agree(page, server, desk, **SD15).values()) == {1}
    inputs = d.prompt(page, desk)
    assert (inputs["weights"], inputs["invert"]) == ("", False)


# Whether the hint's first sentence is seen, and those of its sentences of which only a part is.
HINT = """(root) => {
  const line = root.querySelector('.strata-readout').getBoundingClientRect()
  const boxes = [...root.querySelectorAll('.strata-readout span')].map((span) => [span.textContent, span.getBoundingClientRect()])
  const seen = boxes.filter(([, box]) => box.top < line.bottom - 1)
  const part = seen.filter(([, box]) => box.right > line.right + 4 || box.bottom > line.bottom + 1)
  return [seen.length > 0, part.map(([text]) => text)]
}"""


@pytest.mark.parametrize("lora", ["sd15.safetensors", "flux.safetensors"])
def test_nothing_sticks_out_at_any_width(page, lora):
    desk, _ = d.add_pair(page, lora)
    root = d.element(page, desk)
    for width in (600, 400, 300, 230):
        resize(page, desk, width)
        d.fader(page, desk, "OTHER").hover()
        assert root.evaluate(OUTSIDE) == [], width
        assert root.locator("[data-act=copy]").is_visible()
        page.mouse.move(5, 900)
        assert root.evaluate(HINT) == [True, []], width
        # No row holds next to nothing.
        rows = root.locator(".strata-row").all()
        held = [row.locator(".strata-fader").count() for row in rows]
        assert len(held) == 1 or min(held) > 2, (width, held)
        d.screenshot(page, f"width-{width}-{lora.split('.')[0]}-{d.renderer(page)}", desk)


def test_app_mode(page):
    """Labels in words, all of the desk, no row with nothing in it but one fader."""
    desk, loader = d.add_pair(page, **SD15)
    preview = d.add(page, "PreviewAny", (1300, 120))
    page.evaluate(
        """async ([desk, loader, preview]) => {
          const store = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('appMode')
          const root = app.rootGraph.id
          app.graph.getNodeById(loader).connect(3, app.graph.getNodeById(preview), 0)
          for (const [node, name] of [[desk, 'strata_desk'], [loader, 'strata_line']]) {
            const widget = app.graph.getNodeById(node).widgets.find((w) => w.name === name)
            store.selectedInputs.push([widget.widgetId, name, undefined])
          }
          store.selectedOutputs.push(app.graph.getNodeById(preview).id)
          app.extensionManager.workflow.activeWorkflow.activeMode = 'app'
        }""",
        [desk, loader, preview],
    )
    try:
        labels = page.locator("[data-testid=builder-widget-label]")
        labels.first.wait_for()
        d.rest(page, 800)
        assert [label.inner_text() for label in labels.all()] == ["Block weights", "LoRA file"]
        root = page.locator(".strata-desk")
        assert root.is_visible()
        assert root.evaluate(OUTSIDE) == []
        panel = page.locator("[data-testid=linear-widgets]").bounding_box()
        box = root.bounding_box()
        assert panel["x"] <= box["x"] and box["x"] + box["width"] <= panel["x"] + panel["width"]
        held = [row.locator(".strata-fader").count() for row in root.locator(".strata-row").all()]
        assert len(held) == 1 or min(held) > 2, held
        page.screenshot(path=d.SCREENS / f"app-mode-{d.renderer(page)}.png")
    finally:
        page.evaluate("() => { app.extensionManager.workflow.activeWorkflow.activeMode = 'graph' }")
        d.rest(page, 500)


def test_in_chinese(browser, server):
    """Every word of desk, menu, line and panel; what a file says of itself stays as it is."""
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    page.request.post(f"{server.url}/settings/Comfy.Locale", data='"zh"', headers={"Content-Type": "application/json"})
    try:
        open_editor(page, server)
        for renderer in ("canvas", "vue"):
            use_renderer(page, renderer)
            page.evaluate(EMPTY)
            desk, loader = d.add_pair(page, **SD15)
            root = d.element(page, desk)
            root.locator("[data-act=presets]").click()
            root.locator(".strata-item small").nth(3).wait_for()
            abouts = [about for about in root.locator(".strata-item small").all_text_contents() if about]
            assert [about for about in abouts if about.isascii()] == []
            page.keyboard.press("Escape")
            d.fader(page, desk, "OTHER").hover()
            texts = root.locator(
                "button, .strata-head span, .strata-readout, .strata-note, .strata-legend"
            ).all_inner_texts()
            assert [text for text in texts if text.strip(" *\u25be") and text.isascii()] == []
            line = d.element(page, loader)
            line.locator("[data-act=details]").click()
            d.rest(page, 300)
            assert "\u79e9 1" in line.locator(".strata-verdict").text_content()
            heads = line.locator("h4").all_inner_texts()
            bars = d.element(page, loader, "strata_strengths")
            heads += bars.locator(".strata-strength-name").all_inner_texts()
            heads += [part.get_attribute("title") for part in bars.locator("[title]").all()]
            assert len(heads) > 4
            assert [head for head in heads if head.isascii()] == []
            d.screenshot(page, f"chinese-{renderer}", desk, loader)
    finally:
        page.request.post(
            f"{server.url}/settings/Comfy.Locale", data='"en"', headers={"Content-Type": "application/json"}
        )
        context.close()
