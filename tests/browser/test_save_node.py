"""Save LoRA in the browser: what it says of a run stands on the node, and the file is there for a loader at once."""

import desk_page as d
import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
LONG = "a_name_that_somebody_gave_it_to_tell_all_about_the_training_in_forty_words_and_more"


def said(page, node, word):
    """What a node shows of its last run, once it has the word and the run has ended."""
    find = "(id) => app.canvas.graph.getNodeById(id)?.widgets?.some((widget) => widget.name === 'strata_result')"
    page.wait_for_function(find, arg=node, timeout=120_000)
    line = d.element(page, node, "strata_result").locator(".strata-result-text")
    expect(line).to_contain_text(word)
    # ComfyUI's own text is gone from here on.
    page.wait_for_function("async () => (await app.api.getQueue()).Running.length === 0")
    d.rest(page, 400)
    expect(line).to_be_visible()
    return line


def wire(page, from_node, output, to_node, name):
    page.evaluate(
        """([from, output, to, name]) => {
          const graph = app.canvas.graph, target = graph.getNodeById(to), source = graph.getNodeById(from)
          const slot = typeof output === 'number' ? output : source.outputs.findIndex((o) => o.name === output)
          source.connect(slot, target, target.inputs.findIndex((i) => i.name === name))
        }""",
        [from_node, output, to_node, name],
    )


@pytest.mark.parametrize("width", [230, 400])
def test_a_stack_becomes_a_file_that_a_loader_takes_at_once(page, server, width):
    loader = d.add(page, "StrataLoraLoader", (60, 120), lora_name="sd15.safetensors")
    name = f"{d.renderer(page)}_{width}/{LONG}"
    save = d.add(page, "StrataLoraSave", (420, 120), filename_prefix=name, shrink="size", amount=0.2)
    wire(page, loader, "LORA_STACK", save, "lora_stack")
    page.evaluate(
        "([id, width]) => { const node = app.canvas.graph.getNodeById(id); node.setSize([width, node.size[1]]) }",
        [save, width],
    )
    page.evaluate("() => app.queuePrompt(0)")
    line = said(page, save, "Saved")
    shown = line.inner_text()
    # A narrow node shows two rows: what matters comes before the name.
    assert shown.startswith("Saved, error ") and shown.endswith(f"{LONG}_00001_.safetensors") and shown.index(":") < 40
    # Whatever the renderer, none of its lines is cut.
    whole = "(shown) => shown.scrollHeight <= shown.clientHeight + 1 && shown.parentElement.clientHeight >= shown.scrollHeight - 1"
    page.wait_for_function(whole, arg=line.element_handle(), timeout=10_000)
    d.SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=d.SCREENS / f"save-{d.renderer(page)}-{width}.png")
    # As the loader's own list of files has it, without a restart.
    files = page.evaluate(
        "() => fetch('/object_info/StrataLoraLoader').then((r) => r.json()).then((all) => JSON.stringify(all))"
    )
    assert f"{LONG}_00001_.safetensors" in files
