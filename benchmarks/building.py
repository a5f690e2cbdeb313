"""From files to the MODEL that a loader hands on: chained loaders, many LoRAs in one node, understanding one file."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import comfy.lora
import torch

import nodes
from strata.lora_math.reading import state_dict
from strata.nodes.comfy import targets
from strata.nodes.comfy.library import CACHE
from strata.nodes.fitting.fit import match
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack

from . import loras, models
from .machine import alternate, ratio
from .results import seconds, table


def loaders(quick: bool) -> str:
    """Chained loader nodes."""
    rows = []
    cases = [("SD1.5", 16, 10)]  # model, rank, LoRAs
    if not quick:
        cases += [("SDXL", 16, 1), ("SDXL", 16, 5), ("SDXL", 16, 10), ("SDXL", 64, 1), ("FLUX", 16, 10)]
    for name, rank, count in cases:
        model = models.build(name, torch.float16)
        with tempfile.TemporaryDirectory() as folder:
            files = loras.lora_files(Path(folder), models.lora(model, rank), count)
            kept = [nodes.LoraLoader() for _ in files]
            found = alternate(
                1 if quick else 5,
                core_cold=partial(_core_chain, model, files, None),
                cold=partial(_chain, model, files, True),
                core_warm=partial(_core_chain, model, files, kept),
                warm=partial(_chain, model, files, False),
            )
            for state in ("cold", "warm"):
                a, b = found[f"core_{state}"], found[state]
                rows.append((name, rank, count, state, seconds(a.median), seconds(b.median), ratio(a, b)))
            CACHE.clear()
    return table(
        "Building the MODEL: chained loaders",
        ("model", "rank", "LoRAs", "", "ComfyUI", "Strata", "ratio"),
        rows,
        "Cold reads and understands the files, and Strata looks at every number in them for NaN and infinity; warm is a moved slider.",
        "Nothing is loaded or patched yet. FLUX has 1 double and 2 single blocks here, so fewer names than the whole.",
    )


def stack(quick: bool) -> str:
    """Many LoRAs in one node."""
    rows = []
    for name, count in (("SD1.5", 10),) if quick else (("SD1.5", 10), ("SDXL", 10), ("SDXL", 50)):
        model = models.build(name, torch.float16)
        with tempfile.TemporaryDirectory() as folder:
            files = loras.lora_files(Path(folder), models.lora(model, 16 if count < 50 else 1), count)
            kept = [nodes.LoraLoader() for _ in files]
            text = "\n".join(f"<lora:{file}:0.8:0>" for file in files)
            _chain(model, files, False)  # reads the files
            found = alternate(
                2 if quick else 5,
                core=partial(_core_chain, model, files, kept),
                new_loaders=partial(_core_chain, model, files, None),
                chain=partial(_chain, model, files, False),
                stack=partial(StrataLoraStack.execute, text, model=model),
            )
            ours = found.pop("stack")
            others = [f"{seconds(times.median)}, {ratio(times, ours)}" for times in found.values()]
            rows.append((name, count, *others, seconds(ours.median)))
            CACHE.clear()
    return table(
        "Many LoRAs in one node: a moved slider",
        ("model", "LoRAs", "ComfyUI's loaders", "a new loader for each row", "chained Strata loaders", "LoRA Stack"),
        rows,
        "Behind each time: how many times that of LoRA Stack it is. A new LoraLoader for each row at every run, which reads its file anew,",
        "is how rgthree's Power Lora Loader applies its rows. The LoRAs are of rank 16, of the fifty rank 1.",
    )


def _core_chain(model, files: list[str], kept: list | None) -> None:
    """kept: nodes that hold their files from before, None for new ones."""
    for file, node in zip(files, kept or [nodes.LoraLoader() for _ in files], strict=True):
        model = node.load_lora(model, None, file, 0.8, 0.0)[0]


def _chain(model, files: list[str], cold: bool) -> None:
    if cold:
        CACHE.clear()
        targets._known.clear()
    for file in files:
        model = StrataLoraLoader.execute(file, 0.8, 0.0, model=model).result[0]


def understanding(quick: bool) -> str:
    """From the tensors of one file to the weights that they belong to."""
    rows = []
    for name in ("SD1.5",) if quick else ("SD1.5", "SDXL"):
        model = models.build(name, torch.float16)
        tensors, known = models.lora(model, 16), targets.model_targets(model)
        found = alternate(
            2 if quick else 15,
            core=lambda model=model, tensors=tensors: comfy.lora.load_lora(
                tensors, comfy.lora.model_lora_keys_unet(model.model, {})
            ),
            strata=lambda tensors=tensors, known=known: match(state_dict.parse(tensors, {}).entries, known),
        )
        core, ours = found["core"], found["strata"]
        rows.append((name, len(tensors) // 3, seconds(core.median), seconds(ours.median), ratio(core, ours)))
    return table(
        "Understanding one file",
        ("model", "modules", "ComfyUI", "Strata", "ratio"),
        rows,
        "ComfyUI: its key map and `load_lora`, as at every load; Strata: parsing and finding the weights, once for a file. The names of",
        "the model's weights, which Strata keeps while the model lives, are known.",
    )
