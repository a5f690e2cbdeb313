"""The loader's line, its details, the link of the strengths and their range, in both renderers; and a run of both nodes."""

import json

import desk_page as d
import pytest
import torch
from safetensors.torch import save_file

from strata.devtools.models import CHECKPOINT

pytestmark = pytest.mark.browser


def line(page, loader):
    return d.element(page, loader).locator(".strata-verdict").first.text_content()


def value(page, node, name):
    return page.evaluate(
        "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).value", [node, name]
    )


def test_the_line_before_a_run(page):
    loader = d.add(page, "StrataLoraLoader", lora_name="sd15.safetensors")
    page.wait_for_timeout(700)
    assert line(page, loader).startswith("SD1.5 LoRA, rank 1")


def test_values_keep_their_places_in_a_workflow(page):
    loader = d.add(page, "StrataLoraLoader", lora_name="sd15.safetensors", strength_model=0.5)
    node = page.evaluate("(id) => app.graph.getNodeById(id).serialize().widgets_values", loader)
    assert node == ["sd15.safetensors", 0.5, 1, "patch", "error"]
    assert "strata_line" not in d.prompt(page, loader)


def test_linked_strengths_move_together(page):
    loader = d.add(page, "StrataLoraLoader", lora_name="sd15.safetensors")
    page.wait_for_timeout(400)
    d.element(page, loader).locator("[data-act=link]").click()
    d.choose(page, loader, "strength_model", 0.4)
    assert value(page, loader, "strength_clip") == pytest.approx(0.4)
    d.element(page, loader).locator("[data-act=link]").click()
    d.choose(page, loader, "strength_model", 0.9)
    assert value(page, loader, "strength_clip") == pytest.approx(0.4)


def test_sliders_span_two_and_more_where_a_value_lies_outside(page):
    loader = d.add(page, "StrataLoraLoader", lora_name="sd15.safetensors")
    widget = "app.graph.getNodeById(id).widgets.find((w) => w.name === 'strength_model')"
    reach = f"(id) => [{widget}.options.min, {widget}.options.max]"
    assert page.evaluate(reach, loader) == [-2, 2]
    page.wait_for_timeout(400)
    d.element(page, loader).locator("[data-act=details]").click()
    field = d.element(page, loader).locator("[data-strength=strength_model]")
    field.fill("-7.5")
    field.press("Enter")
    page.wait_for_timeout(400)
    assert value(page, loader, "strength_model") == -7.5
    assert page.evaluate(reach, loader) == [-8, 8]
    assert d.prompt(page, loader)["strength_model"] == -7.5


def test_the_end_of_a_slider_leads_beyond_it(page):
    """ComfyUI's sliders take no more than they show: one that stands at its end says where to type more."""
    loader = d.add(page, "StrataLoraLoader", lora_name="sd15.safetensors")
    page.wait_for_timeout(700)
    more = d.element(page, loader).locator("[data-act=beyond]")
    assert not more.is_visible()
    if d.renderer(page) == "vue":
        field = page.locator("input[role=spinbutton]").first
        field.click()
        page.keyboard.press("Control+a")
        page.keyboard.type("3")
        page.keyboard.press("Enter")
        page.wait_for_timeout(400)
        assert value(page, loader, "strength_model") == 2  # should this ever be 3, then the button has had its day
    else:
        x, y = page.evaluate(
            """(id) => {
              const node = app.graph.getNodeById(id), slider = node.widgets.find((w) => w.name === 'strength_model')
              return app.canvasPosToClientPos([node.pos[0] + node.size[0] - 20, node.pos[1] + slider.y + 10])
            }""",
            loader,
        )
        page.mouse.move(x - 30, y)
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=4)
        page.mouse.up()
        page.wait_for_timeout(400)
    assert more.text_content() == "Beyond 2 ..."
    assert d.prompt(page, loader)["strength_model"] == 2
    more.click()
    page.keyboard.type("-7.25")
    page.keyboard.press("Enter")
    page.wait_for_timeout(400)
    assert d.prompt(page, loader)["strength_model"] == -7.25
    d.screenshot(page, f"beyond-{d.renderer(page)}", loader)
    page.keyboard.press("Control+a")
    page.keyboard.type("0.5")
    page.keyboard.press("Enter")
    d.element(page, loader).locator("[data-act=details]").click()
    page.wait_for_timeout(400)
    assert d.prompt(page, loader)["strength_model"] == 0.5
    assert not more.is_visible()


def test_details_show_hostile_headers_as_text(page, server):
    header = {
        "modelspec.trigger_phrase": "<img src=x onerror=alert(1)>, ohwx",
        "ss_output_name": "<script>document.title = 'broken'</script>",
        "ss_tag_frequency": json.dumps({"1_x": {f"tag {n}": n for n in range(100_000)}}),
        "ss_datasets": "{broken",
    }
    save_file(
        {"lora_unet_input_blocks_1_1_proj_in.diff": torch.zeros(320, 320)},
        server.base / "models" / "loras" / "evil.safetensors",
        header,
    )
    loader = d.add(page, "StrataLoraLoader", lora_name="evil.safetensors")
    page.wait_for_timeout(1500)
    root = d.element(page, loader)
    root.locator("[data-act=details]").click()
    root.locator(".strata-word").first.wait_for()
    assert root.locator(".strata-word").first.text_content() == "<img src=x onerror=alert(1)>"
    assert "<script>" in root.locator("dl").text_content()
    assert root.locator("dl script, .strata-details img").count() == 0
    root.locator(".strata-word").nth(1).click()
    page.wait_for_timeout(200)
    assert page.evaluate("() => navigator.clipboard.readText()") == "ohwx"


def test_a_run_shows_its_verdict(page):
    desk, loader = d.add_pair(page, "strata_demo_warm.safetensors")
    weight = 0.75 if page.evaluate("() => LiteGraph.vueNodesMode") else 0.5  # a repeated prompt would not run again
    d.set_text(page, desk, f"OUT*={weight}, default=1")
    d.make_runnable(page, loader, CHECKPOINT)
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(
        f"(id) => {d.ELEMENT}(id)?.querySelector('.strata-verdict')?.title.includes('x {weight}')",
        arg=loader,
        timeout=120_000,
    )
    assert "applied" in line(page, loader)
