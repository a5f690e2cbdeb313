"""What a person reads when something is wrong: the verdict first, all of it, on the node; and a panel that never grows beyond its node."""

import desk_page as d
import pytest
import torch
from safetensors.torch import save_file

from strata.devtools.models import CHECKPOINT

pytestmark = pytest.mark.browser


def line(page, loader):
    return d.element(page, loader).locator(".strata-verdict")


def is_red(locator):
    return locator.evaluate("(e) => e.classList.contains('wrong')")


def is_whole(locator):
    """Nothing of it is cut off, to the right or below."""
    return locator.evaluate("(e) => e.scrollWidth <= e.clientWidth + 1 && e.scrollHeight <= e.clientHeight + 1")


def test_a_failed_run_turns_the_line_red(page, server):
    loader = d.add(page, "StrataLoraLoader", (600, 120), lora_name="flux.safetensors")
    d.make_runnable(page, loader, CHECKPOINT)
    d.rest(page, 700)
    assert not is_red(line(page, loader))
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(
        f"(id) => {d.ELEMENT}(id).querySelector('.strata-verdict').classList.contains('wrong')",
        arg=loader,
        timeout=120_000,
    )
    told = line(page, loader).text_content()
    assert told.startswith("FLUX.1 LoRA, the model is SD1.5")
    assert "Choose a LoRA made for SD1.5" in told
    for width in (600, 300, 230):
        page.evaluate(
            "([id, w]) => { const n = app.graph.getNodeById(id); n.setSize([w, n.size[1]]) }", [loader, width]
        )
        d.rest(page, 500)
        assert is_whole(line(page, loader)), width
        box, node = line(page, loader).bounding_box(), d.element(page, loader).bounding_box()
        assert box["y"] + box["height"] <= node["y"] + node["height"] + 1
    d.element(page, loader).locator("[data-act=details]").click()
    d.rest(page, 300)
    problem = d.element(page, loader).locator(".strata-details pre.wrong")
    assert problem.text_content() == told
    assert is_whole(problem)
    d.screenshot(page, f"failed-{d.renderer(page)}", loader)
    # ComfyUI's own words for it have a class, not somebody's path.
    (entry,) = server.get_json("/history?max_items=1").values()
    (failed,) = (data for event, data in entry["status"]["messages"] if event == "execution_error")
    assert failed["exception_type"] == "strata.StrataError"
    # Another choice is another story, and so is the next run.
    d.choose(page, loader, "lora_name", "sd15.safetensors")
    d.rest(page, 500)
    assert not is_red(line(page, loader))
    d.choose(page, loader, "lora_name", "flux.safetensors")
    d.rest(page, 500)
    assert is_red(line(page, loader))
    page.evaluate("() => comfyAPI.api.api.dispatchCustomEvent('execution_start', { prompt_id: 'next', timestamp: 0 })")
    d.rest(page, 300)
    assert not is_red(line(page, loader))
    page.keyboard.press("Escape")


def test_a_long_message_grows_into_no_node_below_and_scrolls_there(page):
    """Two loaders close under each other: the message has what room there is, and is whole behind its button."""
    above = d.add(page, "StrataLoraLoader", (600, 120), lora_name="flux.safetensors")
    below = d.add(page, "StrataLoraLoader", (600, 900), lora_name="sd15.safetensors")
    d.make_runnable(page, above, CHECKPOINT)
    d.rest(page, 900)
    page.evaluate(
        """([above, below]) => {
          const [one, other] = [above, below].map((id) => app.graph.getNodeById(id))
          one.setSize([230, one.computeSize()[1]])
          other.pos = [620, one.pos[1] + one.size[1] + 50]
        }""",
        [above, below],
    )
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(
        f"(id) => {d.ELEMENT}(id).querySelector('.strata-verdict').classList.contains('wrong')",
        arg=above,
        timeout=120_000,
    )
    d.rest(page, 600)
    page.keyboard.press("Escape")
    end = "(id) => { const { pos, size } = app.graph.getNodeById(id); return pos[1] + size[1] }"
    title = "(id) => app.graph.getNodeById(id).pos[1] - LiteGraph.NODE_TITLE_HEIGHT"
    assert page.evaluate(end, above) <= page.evaluate(title, below)
    told = line(page, above)
    assert not is_whole(told) and told.bounding_box()["height"] >= 30
    told.click()
    before = page.evaluate("() => app.canvas.ds.scale")
    page.mouse.wheel(0, 400)
    d.rest(page, 300)
    assert told.evaluate("(e) => e.scrollTop + e.clientHeight >= e.scrollHeight - 2")
    assert page.evaluate("() => app.canvas.ds.scale") == before
    # Two lines never scroll, not even by a part of a px.
    page.evaluate(
        "(id) => { const n = app.graph.getNodeById(id); n.setSize([600, n.computeSize()[1]]); app.canvas.setDirty(true, true) }",
        above,
    )
    d.rest(page, 600)
    assert told.bounding_box()["height"] < 40
    assert told.evaluate("(e) => e.scrollHeight <= e.clientHeight")
    # With room below it is whole again.
    page.evaluate("(id) => { app.graph.getNodeById(id).pos = [900, 1200] }", below)
    page.evaluate(
        "(id) => { const n = app.graph.getNodeById(id); n.setSize([240, n.size[1]]); app.canvas.setDirty(true, true) }",
        above,
    )
    d.rest(page, 600)
    assert is_whole(told)


def test_a_file_that_cannot_be_read_says_why_without_its_name(page, server):
    path = server.base / "models" / "loras" / "style" / "page.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_text("<html><body>Sign in</body></html>", encoding="utf-8")
    loader = d.add(page, "StrataLoraLoader", lora_name="style/page.safetensors")
    page.wait_for_function(
        f"(id) => {d.ELEMENT}(id).querySelector('.strata-verdict').classList.contains('wrong')", arg=loader
    )
    d.rest(page, 300)
    told = line(page, loader).text_content()
    assert "page.safetensors" not in told.split(":")[0]
    assert told[0].isupper()
    assert is_whole(line(page, loader))
    d.element(page, loader).locator("[data-act=details]").click()
    d.rest(page, 300)
    assert "page.safetensors" in d.element(page, loader).locator(".strata-details pre.wrong").text_content()


def test_details_scroll_within_their_node(page, server):
    """A header of many long lines, in the narrowest node and a wide one: the node is no longer for it, and no word is cut to letters."""
    header = {f"ss_some_key_number_{n}": "a value of several words " * 4 for n in range(80)}
    save_file(
        {"lora_unet_input_blocks_1_1_proj_in.diff": torch.zeros(320, 320)},
        server.base / "models" / "loras" / "long.safetensors",
        header,
    )
    loader = d.add(page, "StrataLoraLoader", lora_name="long.safetensors")
    d.rest(page, 900)
    root = d.element(page, loader)
    root.locator("[data-act=details]").click()
    root.locator("dd").first.wait_for(state="attached")
    details = root.locator(".strata-details")
    for width in (230, 300, 400, 600):
        page.evaluate("([id, w]) => { const n = app.graph.getNodeById(id); n.setSize([w, 560]) }", [loader, width])
        d.rest(page, 500)
        assert details.bounding_box()["height"] < 420
        assert root.bounding_box()["height"] < 460
        assert page.evaluate(
            "(e) => e.scrollHeight > e.clientHeight && getComputedStyle(e).overflowY === 'auto'",
            details.element_handle(),
        )
        assert root.locator("dd").first.bounding_box()["width"] > 90
    d.screenshot(page, f"details-{d.renderer(page)}", loader)
    page.evaluate("(id) => app.graph.getNodeById(id).setSize([600, 640])", loader)
    d.rest(page, 300)
    height = page.evaluate("(id) => app.graph.getNodeById(id).size[1]", loader)
    root.locator("[data-act=details]").click()
    d.rest(page, 300)
    assert page.evaluate("(id) => app.graph.getNodeById(id).size[1]", loader) < height - 200
