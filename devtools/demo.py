"""``dev.py demo``: the workflow "Try it without any download", run in a real ComfyUI with the trained toy.

Two contact sheets: each LoRA over the strengths, and one picture with each block of the model left out. It fails unless strength 0
gives exactly the picture without the node, and everything else a picture of its own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .contact_sheet import Tile, contact_sheet
from .model_cache import link_models, toy_models
from .served_toy import WORKFLOW, Row, ServedToy
from .server import ROOT, ComfyServer, ServerError, stop_on_sigterm
from .workflow import WorkflowError

STRENGTHS = (0.0, 0.25, 0.5, 0.8, 1.0, 1.3)
BLOCKS = ("D0", "S0", "S1", "S2", "S3")
# RMS over 0..255. Below this nobody sees a difference between two pictures.
VISIBLE = 1.0


STRENGTH_ROWS = (
    Row(
        "robot",
        "robot",
        "robot, with Robot: a subject that the base model has never seen (LoRA of rank 16, trained with PEFT)",
    ),
    Row("blueprint", "castle", "castle, with Blueprint: a style (LoRA of rank 8, trained with PEFT)"),
    Row("moonlight", "owl", "owl, with Moonlight: a style (LoKr, trained with LyCORIS)"),
    Row("picture_book", "renard", "renard, with Picture Book: a style, and a text encoder that learned French words"),
)
BLOCK_ROWS = (
    Row("robot", "robot", "robot, with Robot"),
    Row("blueprint", "fox", "fox, with Blueprint"),
)


def rms(a: Image.Image, b: Image.Image) -> float:
    """Root of the mean squared difference of two pictures, in steps of 0..255."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(np.sqrt(np.mean(difference**2)))


def strength_tiles(toy: ServedToy, row: Row, found: list[str]) -> list[Tile]:
    """The row's pictures; what is wrong with them is added to ``found``."""
    reference = toy.alone(row)
    pictures = {strength: toy.at(row, strength) for strength in STRENGTHS}
    if rms(pictures[0.0], reference) != 0:
        found.append(f"{row.file} at strength 0 is not exactly the picture without the node.")
    found += same({f"{row.file} at {strength:g}": image for strength, image in pictures.items()})
    return [
        (
            f"strength {strength:g}",
            f"differs by {rms(image, reference):.1f}" if strength else "as without the node, bit for bit",
            image,
        )
        for strength, image in pictures.items()
    ]


def block_tiles(toy: ServedToy, row: Row, found: list[str]) -> tuple[list[Tile], list[Tile]]:
    """(each block left out, each block alone), labelled with the node's own text."""
    reference, (everywhere, label) = toy.alone(row), toy.with_blocks(row, "default=1")
    far = rms(everywhere, reference)

    def tile(weights: str) -> Tile:
        image, text = toy.with_blocks(row, weights)
        return text, f"differs by {rms(image, reference):.1f} of {far:.1f}", image

    left_out = [tile(f"{block}=0, default=1") for block in BLOCKS]
    alone = [tile(f"{block}=1, default=0") for block in BLOCKS]
    found += same({f"{row.file} with {text}": image for text, _, image in [(label, "", everywhere), *left_out, *alone]})
    return [(label, f"differs by {far:.1f}", everywhere), *left_out], [("no LoRA", "", reference), *alone]


def same(pictures: dict[str, Image.Image]) -> list[str]:
    """A sentence for each two pictures that nobody can tell apart."""
    pairs = itertools.combinations(pictures.items(), 2)
    return [f"{name} and {other} look the same." for (name, a), (other, b) in pairs if rms(a, b) < VISIBLE]


def main(arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo")
    parser.add_argument("--comfyui", type=Path, required=True)
    options = parser.parse_args(arguments)
    stop_on_sigterm()
    began = time.perf_counter()

    out = ROOT / "out" / "demo"
    out.mkdir(parents=True, exist_ok=True)
    models = toy_models(print)
    print("Starting ComfyUI ...", flush=True)
    server = ComfyServer(options.comfyui, say=print)
    link_models(models, server.base)
    found: list[str] = []
    strengths: dict[str, list[Tile]] = {}
    blocks: dict[str, list[Tile]] = {}
    try:
        with server:
            toy = ServedToy(server, out)
            for row in STRENGTH_ROWS:
                print(row.title, flush=True)
                strengths[row.title] = strength_tiles(toy, row, found)
            for row in BLOCK_ROWS:
                print(f"{row.title}, block by block", flush=True)
                left_out, alone = block_tiles(toy, row, found)
                blocks |= {f"{row.title}: one block left out": left_out, f"{row.title}: one block alone": alone}
    except (ServerError, WorkflowError) as error:
        print(f"\nThe demo failed. {error}", file=sys.stderr)
        return 1

    how = f"{WORKFLOW.stem}, run in ComfyUI on the CPU with a FLUX of 7 million parameters; the same seed everywhere"
    contact_sheet("Strata: four LoRAs, six strengths", how, strengths, out / "strengths.png")
    contact_sheet("Strata: which block carries what", how, blocks, out / "blocks.png")
    print(f"\nContact sheets: {out / 'strengths.png'}\n                {out / 'blocks.png'}")
    print(f"Every picture: {out}\n{time.perf_counter() - began:.0f} s in all.")
    for problem in found:
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
