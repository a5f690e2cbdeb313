"""The picture on Inspect LoRA in both renderers: without a run, with hover, and what a click does."""

import desk_page as d
import pytest
import stack_page as s
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

VIEW = "((id) => app.canvas.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'strata_inspect')?.element)"
ROWS = "<lora:sd15:0.8>\n<lora:sd15:0.4>"


def inspect(page, at=(900, 120), width=460, **values):
    node = d.add(page, "StrataLoraInspect", at, **values)
    page.evaluate(
        "([id, width]) => { const node = app.graph.getNodeById(id); node.setSize([width, node.size[1]]) }",
        [node, width],
    )
    d.remember(page)
    return node


def element(page, node):
    page.evaluate(
        f"""(id) => {{
          document.querySelectorAll('[data-test-node]').forEach((other) => other.removeAttribute('data-test-node'));
          {VIEW}(id).dataset.testNode = id
        }}""",
        node,
    )
    return page.locator(f"[data-test-node='{node}']")


def screenshot(page, name):
    """For people to look at."""
    d.SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=d.SCREENS / f"inspect-{name}-{d.renderer(page)}.png")


def connect(page, source, target, name="lora_stack"):
    page.evaluate(
        """([source, target, name]) => {
          const [from, to] = [source, target].map((id) => app.graph.getNodeById(id))
          const slot = from.outputs.findIndex((output) => output.type === 'LORA_STACK')
          from.connect(slot, to, to.inputs.findIndex((input) => input.name === name))
        }""",
        [source, target, name],
    )
    d.remember(page)


def shown(page, node, text):
    element(page, node).locator("svg text", has_text=text).first.wait_for(timeout=30_000)


def values(page, kind):
    return page.evaluate(
        """(kind) => app.graph.nodes.filter((node) => node.type === kind).map((node) => ({
          ...Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.value])),
          stack: node.inputs.find((input) => input.name === 'lora_stack')?.link ?? null}))""",
        kind,
    )


def test_one_lora_is_shown_without_a_run(page):
    node = inspect(page, lora_name="sd15.safetensors")
    shown(page, node, "keeps 99 %")
    view = element(page, node)
    assert view.locator("svg").get_attribute("aria-label").startswith("sd15: SD1.5 LoRA, rank 1")
    # The node is as high as its picture.
    box, drawing = view.bounding_box(), view.locator("svg").bounding_box()
    assert drawing["y"] + drawing["height"] <= box["y"] + box["height"] + 2
    assert abs(drawing["width"] - box["width"]) < 3
    view.locator("rect[data-hover^='IN04:']").first.hover()
    tip = view.locator(".strata-inspect-tip")
    assert "% of the energy" in tip.text_content() and tip.is_visible()
    screenshot(page, "one")


def test_a_stack_is_shown_live_and_its_strengths_are_scaled_in_one_step(page):
    loader = d.add(
        page, "StrataLoraLoader", (40, 500), lora_name="sd15.safetensors", strength_model=0.4, strength_clip=0.4
    )
    rows = s.stack(page, ROWS)
    connect(page, loader, rows)
    node = inspect(page, theme="light")
    connect(page, rows, node)
    shown(page, node, "3 LoRAs together")
    view = element(page, node)
    shown(page, node, "2 x as strong as the strongest")
    screenshot(page, "stack")
    view.locator("[role=button]").first.click()
    d.rest(page, 600)
    assert s.text(page, rows) == "<lora:sd15:0.4>\n<lora:sd15:0.2>"
    (found,) = values(page, "StrataLoraLoader")
    assert (found["strength_model"], found["strength_clip"]) == (0.2, 0.2)
    shown(page, node, "x 0.4")
    d.undo(page)
    assert s.text(page, rows) == ROWS
    assert values(page, "StrataLoraLoader")[0]["strength_model"] == 0.4


def test_what_cannot_be_known_before_a_run_is_said(page):
    node = inspect(page)
    note = element(page, node).locator(".strata-inspect-note")
    expect(note).to_have_text("Connect a LORA_STACK, or choose a LoRA.")
    prompt = d.add(page, "StrataLoraFromPrompt", (40, 120), text="<lora:sd15:1>")
    connect(page, prompt, node)
    expect(note).to_have_text("These LoRAs come from another node: run once to see them.")
    assert element(page, node).locator("svg").count() == 0


def test_a_click_on_the_needed_rank_makes_a_save_node_in_one_step(page):
    rows = s.stack(page, "<lora:sd15:0.8>")
    node = inspect(page)
    connect(page, rows, node)
    shown(page, node, "keeps 99 %")
    element(page, node).locator("rect[data-act*='save']").first.click()
    d.rest(page, 1000)
    (made,) = values(page, "StrataLoraSave")
    assert (made["shrink"], made["amount"]) == ("rank", 1)
    assert made["stack"] is not None
    screenshot(page, "save")
    d.undo(page)
    assert values(page, "StrataLoraSave") == []


def test_auto_follows_the_editors_colours_in_picture_and_prompt(page):
    node = inspect(page, lora_name="sd15.safetensors")
    shown(page, node, "keeps 99 %")
    backs = {}
    try:
        for theme in ("dark", "light"):
            page.evaluate("(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
            page.wait_for_function(
                "([id, theme]) => app.graphToPrompt().then(({ output }) => output[id].inputs.theme === theme)",
                arg=[node, theme],
            )
            d.rest(page, 1800)  # the clock looks once a second, and the server draws anew
            backs[theme] = element(page, node).evaluate("(shown) => getComputedStyle(shown).backgroundColor")
            screenshot(page, f"auto-{theme}")
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert backs == {"dark": "rgb(27, 28, 32)", "light": "rgb(255, 255, 255)"}
    saved = page.evaluate("(id) => app.graph.getNodeById(id).serialize().widgets_values", node)
    assert saved[1] == "auto"
