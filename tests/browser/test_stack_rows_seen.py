"""What a row shows of its file, and how rows are moved by a finger, in both renderers."""

from functools import partial

import av
import desk_page as d
import numpy as np
import pytest
import stack_page as s
import torch
from PIL import Image
from playwright.sync_api import expect
from safetensors.torch import save_file

from strata.devtools.models import CHECKPOINT

pytestmark = pytest.mark.browser

NAMES = ("seen by its picture and told by its ending, epoch 000012", "seen by its film")


@pytest.fixture(scope="module")
def files(server):
    """A LoRA with a picture and a recommended strength, and one with a film."""
    folder = server.base / "models" / "loras" / "seen"
    folder.mkdir()
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{layer}.lora_up.weight": torch.ones(640, 4), f"{layer}.lora_down.weight": torch.ones(4, 2048)}
    metadata = {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora", "modelspec.lora_default_weight": "0.65"}
    for name in NAMES:
        save_file(tensors, folder / f"{name}.safetensors", metadata)
    Image.new("RGB", (64, 80), (200, 90, 60)).save(folder / f"{NAMES[0]}.png")
    with av.open(str(folder / f"{NAMES[1]}.webm"), "w") as film:
        stream = film.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in range(0, 250, 30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), "rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    yield [f"seen/{name}" for name in NAMES]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def hover(page, node, at):
    s.row(page, node, at).locator(".strata-file").hover()
    return page.locator(".strata-preview")


def test_a_picture_or_a_film_comes_while_the_pointer_rests_and_goes_with_it(page, files):
    node = s.stack(page, "\n".join(f"<lora:{name}:1>" for name in files))
    picture = hover(page, node, 0).locator("img")
    page.wait_for_function("(shown) => shown.naturalWidth > 0", arg=picture.element_handle(), timeout=d.READY)
    film = hover(page, node, 1).locator("video")
    page.wait_for_function("(shown) => shown.currentTime > 0 && shown.muted && shown.loop", arg=film.element_handle())
    page.mouse.move(300, 900)
    expect(page.locator(".strata-preview")).to_have_count(0)
    s.act(page, node, "addLora").click()
    page.keyboard.type("seen by")
    page.wait_for_function("() => document.querySelectorAll('.strata-choice:not(.waiting)').length === 2")
    found = page.locator(".strata-choice")
    assert found.count() == 2
    assert found.locator("img, video").count() == 2
    d.rest(page, 500)
    assert found.locator("video").evaluate("(shown) => shown.paused")  # a still
    d.SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=d.SCREENS / f"picker-pictures-{d.renderer(page)}.png")
    page.keyboard.press("Escape")


def test_the_recommended_strength_is_a_tick_and_what_a_new_row_starts_with(page, files):
    node = s.stack(page, f"<lora:{files[0]}:1>")
    tick = s.row(page, node, 0).locator(".strata-tick").first
    assert tick.evaluate("(shown) => getComputedStyle(shown).left") != "auto"
    assert tick.get_attribute("hidden") is None
    assert float(tick.evaluate("(shown) => parseFloat(shown.style.left)")) == pytest.approx(50 + 50 * 0.65 / 2)
    assert "0.65" in s.row(page, node, 0).locator(".strata-strength").first.get_attribute("title")
    s.act(page, node, "addLora").click()
    page.keyboard.type("film")
    page.keyboard.press("Enter")
    page.wait_for_function("(id) => app.graph.getNodeById(id).widgets[0].value.includes('film')", arg=node)
    assert s.text(page, node).split("\n")[1] == f"<lora:{files[1]}:0.65>"


def test_a_family_that_the_model_does_not_take_is_red_and_says_so(page):
    page.evaluate("() => { app.nodeOutputs = {} }")  # of other tests' nodes
    node = s.stack(page, "<lora:sd15:1>\n<lora:flux:1>")
    badges = s.element(page, node).locator(".strata-family")
    d.comes(page, lambda: badges.evaluate_all("(all) => all.map((one) => one.className)"), ["strata-family"] * 2)
    page.evaluate(
        """([id, checkpoint]) => {
          const source = LiteGraph.createNode('CheckpointLoaderSimple'), preview = LiteGraph.createNode('PreviewAny')
          for (const [node, x] of [[source, 60], [preview, 950]]) { node.pos = [x, 620]; app.graph.add(node) }
          const node = app.graph.getNodeById(id)
          source.widgets.find((w) => w.name === 'ckpt_name').value = checkpoint
          node.widgets.find((w) => w.name === 'on_problem').value = 'warn'
          source.connect(0, node, 0)
          node.connect(4, preview, 0)
        }""",
        [node, CHECKPOINT],
    )
    page.evaluate("async () => { await app.queuePrompt(0, 1) }")
    wrong = s.row(page, node, 1).locator(".strata-family.wrong")
    wrong.wait_for(timeout=d.READY)
    assert wrong.text_content() == "FLUX.1"
    expect(wrong).to_have_attribute("title", "The connected model is no FLUX.1.")
    assert s.row(page, node, 0).locator(".strata-family.wrong").count() == 0
    said = s.row(page, node, 1).locator(".strata-said")  # whole, not only a tooltip
    expect(said).to_contain_text("SD1.5")
    s.still(page, node)
    assert said.evaluate("(shown) => shown.scrollHeight <= shown.clientHeight")
    d.screenshot(page, f"stack-red-{d.renderer(page)}", node)


def test_a_long_name_keeps_its_end(page, files):
    node = s.stack(page, f"<lora:{files[0]}:1>", width=320)
    short = s.row(page, node, 0).locator(".strata-short")
    assert short.text_content() == NAMES[0]  # whole, for whoever reads it
    start, end = short.locator("> span").first, short.locator("> span").last
    assert start.evaluate("(shown) => shown.scrollWidth > shown.clientWidth")
    assert end.text_content() == "ch 000012"
    assert end.evaluate("(shown) => shown.scrollWidth <= shown.clientWidth + 1")
    # Where the usual end is the same for neighbours it reaches back to the word or number that is not.
    names = {
        "wan22_i2v_a14b_style_rank64_bf16_high_noise_v2": "high_noise_v2",
        "wan22_i2v_a14b_style_rank64_bf16_low_noise_v2": "low_noise_v2",
        "my_character_lora_epoch12_rank64_bf16": "12_rank64_bf16",
        "a_slow_and_shallow_style_of_drawing": "f_drawing",
    }
    node = s.stack(page, "\n".join(f"<lora:{name}:1>" for name in names), width=320)
    for at, tail in enumerate(names.values()):
        assert s.row(page, node, at).locator(".strata-short > span").last.text_content() == tail


def test_a_narrow_row_shows_its_block_weights_and_whole_letters(page, files):
    """Beside block weights and a strength over time a name has no room for the whole of its end: it loses letters, no half of one."""
    rows = f"<lora:{files[0]}:1:lbw=OUT*=0.5, default=1:at=0@0%, 1@100%>\nlock <lora:{files[0]}:1:lbw=OUT*=0.5, default=1> // mine"
    node = s.stack(page, rows, width=230)
    for at in (0, 1):
        row = s.row(page, node, at)
        sign = row.locator(".strata-marks svg:visible")
        expect(sign).to_have_count(1)
        expect(sign.locator("path")).to_have_attribute("d", "M6 20V10M12 20V4M18 20v-7")
        end = row.locator(".strata-short > span").last
        letters = partial(
            end.evaluate,
            """(end) => {
              const box = end.getBoundingClientRect()
              return [...end.children].map((letter) => letter.getBoundingClientRect()).map(({ left, top, bottom }) =>
                top >= box.bottom - 1 || bottom <= box.top + 1 ? 'out' : left >= box.left - 0.5 ? 'in' : 'cut')
            }""",
        )
        if not at:  # the other one has the room
            d.comes(page, lambda letters=letters: "out" in letters(), True)
        found = letters()
        assert "cut" not in found and found[-4:] == ["in"] * 4, found


def test_a_finger_moves_a_row(page):
    node = s.stack(page, "<lora:sd15:1>\n<lora:sdxl:1>\n<lora:flux:1>")
    s.element(page, node)
    first, last = (s.row(page, node, at).locator(".strata-handle").bounding_box() for at in (0, 2))
    touch = page.context.new_cdp_session(page)
    where = lambda box, down: {"x": box["x"] + 5, "y": box["y"] + down}  # noqa: E731
    points = [where(first, 12), {"x": first["x"] + 5, "y": first["y"] + 40}, where(last, 24)]
    for kind, point in zip(("touchStart", "touchMove", "touchMove"), points, strict=True):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        d.rest(page, 60)
    expect(s.element(page, node).locator(".strata-drop")).to_have_count(1)  # where it would go
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    s.says(page, node, "<lora:sdxl:1>\n<lora:flux:1>\n<lora:sd15:1>")
    touch.detach()


def test_one_row_and_none(page):
    node = s.stack(page, "<lora:sd15:1>", width=230)
    box = s.element(page, node).bounding_box()
    inner = s.row(page, node, 0).bounding_box()
    assert inner["y"] + inner["height"] <= box["y"] + box["height"] + 1
    buttons = s.element(page, node).locator(".strata-bar .strata-button")
    for at in range(buttons.count()):  # wrapped, and none is cut off or lies on the row
        place = buttons.nth(at).bounding_box()
        assert place["x"] + place["width"] <= box["x"] + box["width"] + 1
        assert place["y"] + place["height"] <= inner["y"] + 1
    d.screenshot(page, f"stack-narrow-{d.renderer(page)}", node)
    s.row(page, node, 0).locator(".strata-file").focus()
    page.keyboard.press("Delete")
    s.says(page, node, "")
    expect(s.element(page, node).locator(".strata-verdict")).to_contain_text("Add a LoRA")
