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


def test_the_line_before_a_run(page):
    loader = d.add(page, "StrataLoraLoader", lora_name="sd15.safetensors")
    d.rest(page, 700)
    assert line(page, loader).startswith("SD1.5 LoRA, rank 1")


def test_values_keep_their_places_in_a_workflow(page):
    loader = d.add(page, "StrataLoraLoader", lora_name="sd15.safetensors", strength_model=0.5)
    node = page.evaluate("(id) => app.graph.getNodeById(id).serialize().widgets_values", loader)
    assert node == ["sd15.safetensors", 0.5, 1, "auto", "error", "masked"]
    assert "strata_line" not in d.prompt(page, loader)


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
    d.rest(page, 1500)
    root = d.element(page, loader)
    root.locator("[data-act=details]").click()
    root.locator(".strata-word").first.wait_for()
    assert root.locator(".strata-word").first.text_content() == "<img src=x onerror=alert(1)>"
    assert "<script>" in root.locator("dl").text_content()
    assert root.locator("dl script, .strata-details img").count() == 0
    root.locator(".strata-word").nth(1).click()
    d.rest(page, 200)
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
