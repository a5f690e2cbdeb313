"""README's first picture: the desk, its loader and what they draw, in the real editor with the trained toy."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image
from playwright.sync_api import Browser

from .browser import open_editor, put, use_renderer
from .example_graphs import TOY, Graph, Node, without_download
from .server import ComfyServer

# What the desk says, on which LoRA, and what is drawn with it.
WEIGHTS, LORA, WORDS = "D0=1, S0-1=0.3..1, S2=-0.2, S3=0.8, TE=1, default=1", "picture_book", "fox"
LEFT, TOP, EDGE = 140, 140, 20  # beside and below the editor's own bars; what the picture shows around the nodes
SHOWN = ("StrataLoraBlockWeights", "StrataLoraLoader", "SaveImage")
# The union of their boxes: [left, top, right, bottom].
BOX = """(shown) => {
  const nodes = app.graph.nodes.filter((node) => shown.includes(node.type))
  const boxes = nodes.map((node) => document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect())
  return [Math.min(...boxes.map((b) => b.left)), Math.min(...boxes.map((b) => b.top)),
    Math.max(...boxes.map((b) => b.right)), Math.max(...boxes.map((b) => b.bottom))]
}"""
DRAWN = """() => {
  const node = app.graph.nodes.find((node) => node.type === 'SaveImage')
  return node.imgs?.[0]?.complete || document.querySelector(`[data-node-id="${node.id}"] img`)?.complete
}"""


def graph() -> Graph:
    whole = without_download()
    # What the picture does not show stands so that its wires leave by the nearest edge.
    left, below = (-3000, 0), (0, 3000)
    away = {
        key: replace(
            node, at=tuple(a + b for a, b in zip(node.at, left if key in ("unet", "clip") else below, strict=True))
        )
        for key, node in whole.items()
    }
    lora = whole["lora"]
    return away | {
        "desk": Node("StrataLoraBlockWeights", (LEFT, TOP), (430, 0), {"weights": WEIGHTS}),
        "lora": replace(
            lora,
            at=(LEFT + 480, TOP),
            values={"lora_name": f"{TOY}_{LORA}.safetensors", "strength_model": 1.0, "strength_clip": 1.0},
            inputs=lora.inputs | {"block_weights": ("desk", "BLOCK_WEIGHTS")},
        ),
        "positive": replace(away["positive"], values={"text": WORDS}),
        "save": replace(away["save"], at=(LEFT + 890, TOP), size=(300, 400)),
    }


def take(browser: Browser, server: ComfyServer) -> Image.Image:
    """The three nodes after a run, at two device pixels for each CSS pixel, in 256 colours."""
    page = browser.new_page(viewport={"width": 1700, "height": 1000}, device_scale_factor=2)
    open_editor(page, server)
    use_renderer(page, "vue")
    page.evaluate("() => app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    put(page, graph())
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(DRAWN, timeout=120_000)
    page.wait_for_timeout(6000)  # until the word of a finished job is gone
    x0, y0, x1, y1 = page.evaluate(BOX, SHOWN)
    clip = {"x": x0 - EDGE, "y": y0 - EDGE, "width": x1 - x0 + 2 * EDGE, "height": y1 - y0 + 2 * EDGE}
    png = page.screenshot(clip=clip)
    page.close()
    return Image.open(io.BytesIO(png)).convert("RGB").quantize(256)
