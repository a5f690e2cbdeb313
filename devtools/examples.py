"""``dev.py examples``: rewrites example_workflows/ from ``example_graphs``.

Each graph is built in the real editor, in Chromium, and saved as the editor saves it. The pack's own version and the ``models`` that a
loader names are written beside what the editor knows. The pictures, of the templates and of the docs, are drawn by the trained toy.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright
from safetensors.torch import save_file

from . import desk_picture, pictures
from .browser import launch, open_editor, put
from .example_graphs import FLUX_DETAIL, GRAPHS, PIXEL_ART_XL, WAN_SPEED_HIGH, WAN_SPEED_LOW, Graph
from .model_cache import demo_models, link_models, toy_models
from .models import LORAS
from .served_toy import ServedToy
from .server import ROOT, ComfyServer, stop_on_sigterm
from .workflow import NOTES

FOLDER = ROOT / "example_workflows"
IMAGES = ROOT / "web" / "docs" / "images"
DRAWN = ROOT / "out" / "examples"
PYPROJECT = ROOT / "pyproject.toml"
VIEW = (1760, 1000)
# LoRAs that are not for SD1.5: a layer, its shape [out, in], and the family as headers name it.
LAYERS = {
    PIXEL_ART_XL.name: ("input_blocks_4_1_transformer_blocks_0_attn2_to_k", 640, 2048, "stable-diffusion-xl-v1-base"),
    FLUX_DETAIL.name: ("double_blocks_0_img_attn_proj", 3072, 3072, "flux-1-dev"),
    WAN_SPEED_HIGH.name: ("blocks_0_self_attn_q", 5120, 5120, "wan2.2-t2v-a14b"),
    WAN_SPEED_LOW.name: ("blocks_0_self_attn_q", 5120, 5120, "wan2.2-t2v-a14b"),
}


def build(page: Page, graph: Graph) -> dict[str, Any]:
    """The graph as the editor saves it."""
    put(page, graph)
    return json.loads(page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).workflow)"))


def finish(workflow: dict[str, Any], name: str, server: ComfyServer) -> dict[str, Any]:
    """What does not come from the editor: an id that stays, and, as Manager writes them, the packs that the nodes come from."""
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"strata/{name}"))
    workflow["extra"]["ds"] = {"scale": 0.7, "offset": [80, 220]}
    core = {"cnr_id": "comfy-core", "ver": server.get_json("/system_stats")["system"]["comfyui_version"]}
    ours = {"cnr_id": "strata-lora", "ver": re.search(r'^version = "(.+)"', PYPROJECT.read_text("utf-8"), re.M)[1]}
    for node in workflow["nodes"]:
        if node["type"] not in NOTES:
            node["properties"] |= ours if node["type"].startswith("Strata") else core
    return workflow


def stand_ins(base: Path) -> None:
    """Small files under the names of the real ones, of the right families."""
    named = [(node.model, *node.more_models) for graph in GRAPHS.values() for node in graph.values() if node.model]
    for model in (model for several in named for model in several):
        path = base / "models" / model.directory / model.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if model.directory != "loras":
            path.touch()
        elif model.name in LAYERS:
            layer, out, into, family = LAYERS[model.name]
            factors = {"lora_up": torch.ones(out, 16), "lora_down": torch.ones(16, into)}
            tensors = {f"lora_unet_{layer}.{name}.weight": factor for name, factor in factors.items()}
            save_file(tensors, path, {"modelspec.architecture": f"{family}/lora"})
        else:
            path.hardlink_to(base / "models" / "loras" / LORAS[0])


def write_workflows(server: ComfyServer, only: Sequence[str] | None = None) -> None:
    with sync_playwright() as playwright, launch(playwright) as browser:
        page = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        open_editor(page, server)
        for name, graph in GRAPHS.items():
            if only and name not in only:
                continue
            workflow = finish(build(page, graph), name, server)
            (FOLDER / f"{name}.json").write_text(json.dumps(workflow, indent=2, ensure_ascii=False) + "\n", "utf-8")
            print(name, flush=True)


def write_desk(server: ComfyServer) -> None:
    with sync_playwright() as playwright, launch(playwright) as browser:
        # Without loss: small letters stay sharp.
        desk_picture.take(browser, server).save(IMAGES / "desk.webp", lossless=True, quality=100, method=6)
        print("desk.webp", flush=True)


def write_pictures(server: ComfyServer) -> None:
    DRAWN.mkdir(parents=True, exist_ok=True)
    toy = ServedToy(server, DRAWN)
    for folder, ending, make in ((FOLDER, "jpg", pictures.thumbnails), (IMAGES, "webp", pictures.strips)):
        for name, picture in make(toy).items():
            pictures.save(picture, folder / f"{name}.{ending}")
            print(f"{name}.{ending}", flush=True)


def write_thumbnails(server: ComfyServer, names: Sequence[str]) -> None:
    """Of those that can be drawn alone."""
    DRAWN.mkdir(parents=True, exist_ok=True)
    toy = ServedToy(server, DRAWN)
    for name in names:
        if name in pictures.THUMBNAILS:
            pictures.save(pictures.THUMBNAILS[name](toy), FOLDER / f"{name}.jpg")
            print(f"{name}.jpg", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py examples")
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--pictures", action="store_true", help="only what the toy draws, which needs no browser")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="only the workflow of this name and its picture"
    )
    parser.add_argument("--desk", action="store_true", help="only the picture of the desk")
    options = parser.parse_args()
    stop_on_sigterm()
    server = ComfyServer(options.comfyui, say=print)
    for models in (demo_models(options.comfyui, print), toy_models(print)):
        link_models(models, server.base)
    stand_ins(server.base)
    with server:
        everything = not (options.pictures or options.desk)
        if everything:
            write_workflows(server, options.only)
        if options.only:
            write_thumbnails(server, options.only)
            return 0
        if everything or options.desk:
            write_desk(server)
        if everything or options.pictures:
            write_pictures(server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
