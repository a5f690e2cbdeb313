"""The picker's filters in both renderers: copies that a pass over the contents finds, families, sizes, files that no model can use; and
what is chosen before the server knows it."""

import json

import desk_page as d
import pytest
import stack_page as s
import torch
from playwright.sync_api import expect
from safetensors.torch import save_file

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def files(server):
    """A LoRA, a copy of it under another name and header, one in another type and twice as strong, and one that is none."""
    folder = server.base / "models" / "loras" / "planted"
    folder.mkdir()
    make = torch.Generator().manual_seed(5)
    tensors = {}
    for block in (4, 5, 7, 8):
        layer = f"lora_unet_input_blocks_{block}_1_transformer_blocks_0_attn2_to_k"
        tensors[f"{layer}.lora_up.weight"] = torch.randn(640, 4, generator=make).half()
        tensors[f"{layer}.lora_down.weight"] = torch.randn(4, 2048, generator=make).half()
    save_file(tensors, folder / "first.safetensors", {"modelspec.lora_default_weight": "0.65"})
    save_file(tensors, folder / "renamed.safetensors", {"ss_output_name": "other"})
    stronger = {key: tensor.bfloat16() * (2 if "up" in key else 1) for key, tensor in tensors.items()}
    save_file(stronger, folder / "stronger.safetensors")
    save_file({"x": torch.ones(2)}, folder / "nothing.safetensors")
    (folder / "page.safetensors").write_text("<html><body>Sign in</body></html>", encoding="utf-8")
    yield folder
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def picker(page, words=""):
    node = s.stack(page, "")
    s.act(page, node, "addLora").click()
    page.keyboard.type(words)
    shown = page.locator(".strata-picker")
    expect(shown.locator(".strata-note").first).not_to_contain_text("learn", timeout=d.READY)
    return node, shown


def test_copies_are_found_by_a_click_and_shown_together(page, files):
    node, shown = picker(page, "planted")
    rows = shown.locator(".strata-choice:not(.waiting)")
    expect(rows).to_have_count(5)
    shown.locator("[data-filter=pickerShown]").select_option("copies")
    go = shown.locator("[data-act=compare]")
    go.click()
    expect(shown.locator(".strata-reading [role=status]")).to_contain_text("files have been read", timeout=d.READY)
    expect(rows).to_have_count(3)
    assert rows.locator(".strata-short").all_text_contents() == ["first", "renamed", "stronger"]
    said = rows.locator(".strata-named > small").all_text_contents()
    assert said == [
        "has 2 copies",
        "Same data as first",
        "Does the same as first \u00b7 100.0 % alike \u00b7 2 \u00d7 as strong",
    ]
    d.SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=d.SCREENS / f"picker-copies-{d.renderer(page)}.png")
    shown.locator("[data-filter=pickerShown]").select_option("unusable")
    expect(rows).to_have_count(2)
    reasons = rows.locator(".strata-named > small")
    assert reasons.all_text_contents() == [
        "It holds no LoRA that is known here.",
        "It is a web page, not a LoRA. The download needed a login or its link was wrong: download the file itself.",
    ]
    assert reasons.last.evaluate("(shown) => shown.scrollHeight <= shown.clientHeight + 1")
    page.screenshot(path=d.SCREENS / f"picker-unusable-{d.renderer(page)}.png")
    # By keys: the search has its words still, and a filter is left as any other field.
    shown.locator("[data-filter=pickerShown]").focus()
    page.keyboard.press("Home")
    expect(rows).to_have_count(5)
    families = shown.locator("[data-filter=family] option").evaluate_all("(all) => all.map((one) => one.value)")
    assert {"", "SDXL", "FLUX.1"} <= set(families)
    shown.locator("[data-filter=family]").select_option("FLUX.1")
    expect(shown.locator(".strata-empty")).to_be_visible()
    page.keyboard.press("Escape")
    # The next who chooses starts with all files.
    s.act(page, node, "addLora").click()
    assert shown.locator("select").evaluate_all("(all) => all.map((one) => one.value)")[1:] == ["all", "", ""]
    page.keyboard.press("Escape")


def test_what_is_not_learned_yet_starts_at_its_recommended_strength_too(page, files):
    """The answer of a server that has only the names so far."""

    def unlearned(route):
        answer = route.fetch()
        found = answer.json()
        keep = ("name", "tag", "favourite", "preview")
        found["rows"] = [{key: row[key] for key in keep} for row in found["rows"]]
        route.fulfill(response=answer, body=json.dumps(found))

    page.route("**/strata/library?*", unlearned)
    try:
        node, shown = picker(page, "planted first")
        expect(shown.locator(".strata-choice:not(.waiting)")).to_have_count(1)
        page.keyboard.press("Enter")
        page.wait_for_function("(id) => app.graph.getNodeById(id).widgets[0].value.includes('first')", arg=node)
        assert s.text(page, node) == "<lora:planted/first:0.65>"
    finally:
        page.unroute("**/strata/library?*")
