"""The grid on LoRA Sweep in both renderers: it grows, opens large, compares, and writes a cell's LoRAs where they came from."""

import itertools

import desk_page as d
import pytest
import stack_page as s
from playwright.sync_api import expect

from strata.devtools.models import CHECKPOINT, LORAS

pytestmark = pytest.mark.browser

VIEW = "((id) => app.canvas.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'strata_sweep')?.element)"
WARM, CONV = LORAS
IDS = itertools.count(100, 50)
RUN = 120_000  # ms; the machine may be busy


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
    page.evaluate(
        "() => { app.canvas.ds.scale = 0.65; app.canvas.ds.offset = [20, 20]; app.canvas.setDirty(true, true) }"
    )
    d.rest(page, 600)
    page.screenshot(path=d.SCREENS / f"sweep-{name}-{d.renderer(page)}.png")


def sweep(page, stack=None, width=460, **values):
    """A sweep that can run, of one step at 64 pixels."""
    # The page keeps what a run told of a node by its id, also of one of a workflow before.
    page.evaluate("(last) => { app.graph.last_node_id = last }", next(IDS))
    plain = {"steps": 1, "cfg": 1.0, "positive": "a fox", "filename_prefix": "sweep/test"}
    node = d.add(page, "StrataSweep", (640, -260), **{**plain, **values})
    page.evaluate(
        """([id, stack, width, checkpoint]) => {
          const make = (kind, at) => {
            const made = LiteGraph.createNode(kind)
            made.pos = at
            app.graph.add(made)
            return made
          }
          const node = app.graph.getNodeById(id)
          const source = make('CheckpointLoaderSimple', [40, 40]), latent = make('EmptyLatentImage', [40, 220])
          const set = (made, name, value) => { made.widgets.find((w) => w.name === name).value = value }
          set(source, 'ckpt_name', checkpoint)
          set(latent, 'width', 64)
          set(latent, 'height', 64)
          const into = (from, slot, name) => from.connect(slot, node, node.inputs.findIndex((input) => input.name === name))
          into(source, 0, 'model')
          into(source, 1, 'clip')
          into(source, 2, 'vae')
          into(latent, 0, 'latent_image')
          if (stack) {
            const from = app.graph.getNodeById(stack)
            into(from, from.outputs.findIndex((output) => output.type === 'LORA_STACK'), 'lora_stack')
          }
          node.setSize([width, node.size[1]])
        }""",
        [node, stack, width, CHECKPOINT],
    )
    d.remember(page)
    return node


def run(page):
    page.evaluate("() => app.queuePrompt(0)")


def finished(page, node, text):
    expect(element(page, node).locator(".strata-sweep-note")).to_have_text(text, timeout=RUN)


def value(page, kind, name):
    return page.evaluate(
        "([kind, name]) => app.graph.nodes.find((node) => node.type === kind)?.widgets.find((w) => w.name === name)?.value",
        [kind, name],
    )


def test_the_grid_grows_opens_and_compares(page):
    node = sweep(page, lora_name=WARM, x_values="0, 0.5, 1", y_axis="seed", y_values="1, 2", seed=1)
    view = element(page, node)
    expect(view.locator(".strata-sweep-note")).to_have_text("Run to see the grid grow here. Every picture is kept.")
    run(page)
    view.locator(".strata-sweep-cell img").first.wait_for(timeout=RUN)
    finished(page, node, "6 of 6 pictures")
    assert view.locator(".strata-sweep-cell img").count() == 6
    assert view.locator(".strata-sweep-column").all_text_contents() == ["0", "0.5", "1"]
    assert view.locator(".strata-sweep-row").all_text_contents() == ["1", "2"]
    d.rest(page, 700)
    grid, box = view.locator(".strata-sweep-grid").bounding_box(), view.bounding_box()
    assert grid["x"] >= box["x"] - 1 and grid["x"] + grid["width"] <= box["x"] + box["width"] + 1
    screenshot(page, "grid")
    page.evaluate("() => { app.canvas.ds.scale = 1 }")
    cell = view.locator(".strata-sweep-cell").nth(1)
    cell.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("() => document.activeElement.dataset.index") == "4"
    page.keyboard.press("Enter")
    large = page.locator("dialog.strata-sweep-large[open]")
    large.wait_for()
    title = large.locator(".strata-sweep-title")
    expect(title).to_contain_text("strength 0.5, seed 2 \u00b7 difference 0.")
    screenshot(page, "large")
    large.locator("[data-act=compare]").click()
    expect(title).to_have_text("strength 0.5, seed 2: now choose another one with the arrows")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("strength 0.5, seed 2 | strength 1, seed 2")
    assert large.locator(".strata-sweep-under").is_visible() and large.locator(".strata-sweep-line").is_visible()
    screenshot(page, "compare")
    large.locator("[data-act=copy]").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == f"<lora:{WARM.removesuffix('.safetensors')}:1>"
    page.keyboard.press("Escape")
    expect(large).to_have_count(0)


def test_a_failing_cell_says_why_and_names_may_be_long(page):
    name = "a_file_that_is_gone_and_has_a_very_long_name_which_no_label_holds.safetensors"
    node = sweep(page, width=300, x_axis="LoRA file", lora_name=WARM, x_values=f"{WARM}\n{name}")
    run(page)
    finished(page, node, "1 of 2 pictures, 1 failed")
    view = element(page, node)
    expect(view.locator(".strata-sweep-cell.wrong")).to_contain_text("is not in your loras folders")
    d.rest(page, 700)
    screenshot(page, "failed")
    page.evaluate("() => { app.canvas.ds.scale = 1 }")
    column = view.locator(".strata-sweep-column").nth(1)
    end = column.locator("span").last
    assert end.text_content() == "_no_label_holds"[-9:] and column.text_content() == name.removesuffix(".safetensors")
    # The reason whole, in the place of a picture; nothing to compare or to use.
    view.locator(".strata-sweep-cell.wrong").press("Enter")
    large = page.locator("dialog.strata-sweep-large[open]")
    expect(large.locator(".strata-sweep-reason")).to_contain_text("is not in your loras folders")
    assert large.locator("[data-act=compare]").is_disabled() and large.locator("[data-act=use]").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert large.locator(".strata-sweep-frame").is_visible() and not large.locator(".strata-sweep-reason").is_visible()
    page.keyboard.press("Escape")


def test_use_writes_a_cells_strengths_into_the_loader_in_one_step(page):
    loader = d.add(page, "StrataLoraLoader", (40, 420), lora_name=WARM, strength_model=1.0, strength_clip=1.0)
    node = sweep(page, loader, x_values="0.25, 0.75")
    run(page)
    finished(page, node, "2 of 2 pictures")
    element(page, node).locator(".strata-sweep-cell").first.click()
    large = page.locator("dialog.strata-sweep-large[open]")
    large.locator("[data-act=use]").click()
    expect(large.locator("[data-act=use]")).to_have_text("Written")
    page.keyboard.press("Escape")
    assert value(page, "StrataLoraLoader", "strength_model") == 0.25
    assert value(page, "StrataLoraLoader", "strength_clip") == 0.25
    d.undo(page)
    assert value(page, "StrataLoraLoader", "strength_model") == 1


def test_use_writes_a_stacks_line_with_block_weights(page):
    stack = s.stack(page, f"<lora:{CONV}:0.5>\nlock <lora:{WARM}:0.8> // mine", at=(40, 420), width=420)
    node = sweep(page, stack, x_axis="without block", x_values="row 2: IN04", compare_with="nothing")
    run(page)
    finished(page, node, "1 of 1 pictures")
    element(page, node).locator(".strata-sweep-cell").first.click()
    large = page.locator("dialog.strata-sweep-large[open]")
    large.locator("[data-act=use]").click()
    expect(large.locator("[data-act=use]")).to_have_text("Written")
    page.keyboard.press("Escape")
    first, second = s.text(page, stack).split("\n")
    stem = WARM.removesuffix(".safetensors")
    assert first == f"<lora:{CONV.removesuffix('.safetensors')}:0.5>"
    assert second.startswith(f"lock <lora:{stem}:0.8:lbw=") and "IN4=0" in second and second.endswith("> // mine")
