"""Save LoRA and Extract LoRA in the browser: what they say of a run stands on the node, and the file is there for a loader at once."""

import desk_page as d
import pytest

from strata.devtools.models import CHECKPOINT

pytestmark = pytest.mark.browser
LONG = "a_name_that_somebody_gave_it_to_tell_all_about_the_training_in_forty_words_and_more"


def said(page, node, word):
    """The text that a node shows of its last run, once it has the word."""
    page.wait_for_function(
        """([id, word]) => (app.canvas.graph.getNodeById(id)?.widgets ?? []).some((w) => String(w.value ?? '').includes(word))""",
        arg=[node, word],
        timeout=120_000,
    )
    return page.evaluate(
        """([id, word]) => {
          const widget = app.canvas.graph.getNodeById(id).widgets.find((w) => String(w.value ?? '').includes(word))
          const box = (widget.element ?? [...document.querySelectorAll(`[data-node-id='${id}'] textarea, [data-node-id='${id}'] p`)]
            .find((e) => (e.value ?? e.textContent).includes(word)))?.getBoundingClientRect()
          return { text: widget.value, width: box?.width, height: box?.height }
        }""",
        [node, word],
    )


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
    shown = said(page, save, "Saved")
    assert LONG in shown["text"] and "error" in shown["text"]
    # Readable: not a strip of it.
    assert shown["height"] >= 60 and shown["width"] >= width - 60
    page.wait_for_timeout(400)
    d.SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=d.SCREENS / f"save-{d.renderer(page)}-{width}.png")
    # As the loader's own list of files has it, without a restart.
    files = page.evaluate(
        "() => fetch('/object_info/StrataLoraLoader').then((r) => r.json()).then((all) => JSON.stringify(all))"
    )
    assert f"{LONG}_00001_.safetensors" in files


def test_a_difference_of_a_model_to_itself_is_said(page, server):
    one = d.add(page, "CheckpointLoaderSimple", (60, 120), ckpt_name=CHECKPOINT)
    extract = d.add(page, "StrataLoraExtract", (420, 120), filename_prefix="nothing")
    wire(page, one, 0, extract, "model")
    wire(page, one, 0, extract, "base_model")
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function("() => /same|difference|equal/i.test(document.body.innerText)", timeout=60_000)
    page.wait_for_timeout(400)
    page.screenshot(path=d.SCREENS / f"extract-{d.renderer(page)}.png")
