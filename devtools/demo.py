"""``dev.py demo``: the shipped example workflow, run in a real ComfyUI at several strengths of two LoRAs.

It fails unless strength 0 gives exactly the picture without the node, and every other strength a picture of its own.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .contact_sheet import contact_sheet
from .model_cache import demo_models, link_models
from .models import CHECKPOINT, LORAS
from .server import ROOT, ComfyServer, ServerError, stop_on_sigterm
from .workflow import Prompt, WorkflowError, nodes_of, to_prompt

WORKFLOW = ROOT / "example_workflows" / "LoRA on SD1.5.json"
LOADER = "StrataLoraLoader"
STRENGTHS = (-0.8, 0.0, 0.4, 0.8, 1.2)
SIZE = 128
STEPS = 6
# RMS over 0..255. Below this nobody sees a difference between two pictures.
VISIBLE = 1.0


def small(prompt: Prompt, size: int = SIZE, steps: int = STEPS) -> Prompt:
    """The same SD1.5 prompt with the demo's checkpoint and LoRAs, of a size that a CPU can do."""
    prompt = copy.deepcopy(prompt)
    for class_type, values in {
        "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
        "EmptyLatentImage": {"width": size, "height": size},
        "KSampler": {"steps": steps},
    }.items():
        for node_id in nodes_of(prompt, class_type):
            prompt[node_id]["inputs"].update(values)
    for node_id, lora in zip(nodes_of(prompt, LOADER), LORAS, strict=False):
        prompt[node_id]["inputs"]["lora_name"] = lora
    return prompt


def with_lora(prompt: Prompt, lora: str, strength: float) -> Prompt:
    """The same prompt with this LoRA at this strength, on the model and on CLIP."""
    prompt = copy.deepcopy(prompt)
    for node_id in nodes_of(prompt, LOADER):
        prompt[node_id]["inputs"].update(lora_name=lora, strength_model=strength, strength_clip=strength)
    return prompt


def without_loader(prompt: Prompt) -> Prompt:
    """The same prompt without our node: what took MODEL and CLIP from it takes them from where it got them."""
    prompt = copy.deepcopy(prompt)
    for node_id in nodes_of(prompt, LOADER):
        inputs = prompt.pop(node_id)["inputs"]
        source = {0: inputs["model"], 1: inputs["clip"]}
        for node in prompt.values():
            for name, value in node["inputs"].items():
                if isinstance(value, list) and value[0] == node_id:
                    node["inputs"][name] = source[value[1]]
    return prompt


def rms(a: Image.Image, b: Image.Image) -> float:
    """Root of the mean squared difference of two pictures, in steps of 0..255."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(np.sqrt(np.mean(difference**2)))


def make_pictures(server: ComfyServer, out: Path) -> tuple[Image.Image, dict[str, dict[float, Image.Image]]]:
    """Run everything; returns (picture without our node, LoRA -> strength -> picture). The files go to ``out``."""

    def picture(prompt: Prompt, name: str) -> Image.Image:
        png = server.image(server.run(prompt))
        (out / f"{name}.png").write_bytes(png)
        return Image.open(io.BytesIO(png)).convert("RGB")

    prompt = small(to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.object_info()))
    reference = picture(without_loader(prompt), "no_lora")
    pictures: dict[str, dict[float, Image.Image]] = {lora: {} for lora in LORAS}
    for lora, strength in itertools.product(LORAS, STRENGTHS):
        name = f"{Path(lora).stem}_{strength:+.1f}"
        pictures[lora][strength] = picture(with_lora(prompt, lora, strength), name)
    return reference, pictures


def problems(reference: Image.Image, pictures: dict[str, dict[float, Image.Image]]) -> list[str]:
    """What is wrong with the pictures, in words; empty if they are as they should be."""
    found = []
    if float(np.asarray(reference, np.float64).std()) < 5:
        found.append("The picture without a LoRA is flat.")
    changed: dict[str, Image.Image] = {"no LoRA": reference}
    for lora, by_strength in pictures.items():
        for strength, image in by_strength.items():
            if strength == 0:
                if rms(image, reference) != 0:
                    found.append(f"{lora} at strength 0 is not exactly the picture without the node.")
            else:
                changed[f"{lora} at {strength:+.1f}"] = image
    for (name, image), (other_name, other) in itertools.combinations(changed.items(), 2):
        if rms(image, other) < VISIBLE:
            found.append(f"{name} and {other_name} look the same.")
    return found


def report(reference: Image.Image, pictures: dict[str, dict[float, Image.Image]], sheet: Path) -> None:
    """Print the table of distances and write the contact sheet."""
    print("\nHow far each picture lies from the one without a LoRA (RMS, 0..255):\n")
    print("strength".ljust(34) + "".join(f"{strength:+8.1f}" for strength in STRENGTHS))
    rows: dict[str, list[tuple[str, str, Image.Image]]] = {}
    for lora, by_strength in pictures.items():
        far = {strength: rms(image, reference) for strength, image in by_strength.items()}
        print(lora.ljust(34) + "".join(f"{far[strength]:8.2f}" for strength in STRENGTHS))
        rows[lora] = [
            (
                f"strength {strength:+.1f}" if strength else "strength 0",
                f"differs by {far[strength]:.1f}" if far[strength] else "identical to the reference",
                image,
            )
            for strength, image in by_strength.items()
        ]
    subtitle = (
        f"{WORKFLOW.name}, run in ComfyUI on the CPU: {SIZE} x {SIZE}, {STEPS} steps, the same seed everywhere. "
        "The checkpoint was never trained; its pictures are fields of colour."
    )
    contact_sheet("Strata: two LoRAs, five strengths", subtitle, ("no LoRA", reference), rows, sheet)


def main(arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo")
    parser.add_argument("--comfyui", type=Path, required=True)
    options = parser.parse_args(arguments)
    stop_on_sigterm()
    began = time.perf_counter()

    out = ROOT / "out" / "demo"
    out.mkdir(parents=True, exist_ok=True)
    models = demo_models(options.comfyui, print)
    print("Starting ComfyUI ...", flush=True)
    server = ComfyServer(options.comfyui, say=print)
    link_models(models, server.base)
    try:
        with server:
            print(f"Running {WORKFLOW.name}: {len(LORAS)} LoRAs at {len(STRENGTHS)} strengths ...", flush=True)
            reference, pictures = make_pictures(server, out)
    except (ServerError, WorkflowError) as error:
        print(f"\nThe demo failed. {error}", file=sys.stderr)
        return 1

    sheet = out / "contact_sheet.png"
    report(reference, pictures, sheet)
    found = problems(reference, pictures)
    print(f"\nContact sheet: {sheet}\nEvery picture: {out}\n{time.perf_counter() - began:.0f} s in all.")
    for problem in found:
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
