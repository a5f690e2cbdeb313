"""Many rows in one LoRA Stack, and many texts of block weights: what a person with a large setup waits for."""

from __future__ import annotations

import gc
import itertools
import tempfile
from pathlib import Path

import torch

from strata.lora_math.blocks import parse
from strata.nodes.comfy import targets
from strata.nodes.comfy.library import CACHE
from strata.nodes.fitting.block_spec import layout_for
from strata.nodes.lora_stack import StrataLoraStack
from strata.nodes.rows.words import described

from . import loras, models
from .machine import alternate
from .results import seconds, table

ROWS, TEXTS = 50, 200


def rows(quick: bool) -> str:
    """A stack of 50 rows, each with block weights of its own, and 200 such texts by themselves."""
    found = [row for name in (("SD1.5",) if quick else ("SD1.5", "SDXL")) for row in _of(name, quick)]
    return table(
        "Stacks: many rows and many block weights", ("model", "", "time"), found, "LoRAs of rank 1 on every layer."
    )


def _of(name: str, quick: bool) -> list[tuple[str, str, str]]:
    model = models.build(name, torch.float16)
    layout = layout_for(targets.model_targets(model), None)
    blocks = [block.name for block in layout.blocks]
    texts = [f"default=0.{number % 10},{blocks[number % len(blocks)]}={number / 1000:g}" for number in range(TEXTS)]
    with tempfile.TemporaryDirectory() as folder:
        files = loras.lora_files(Path(folder), models.lora(model, 1), ROWS)
        strengths = (0.5 + 0.0001 * number for number in itertools.count())

        def written() -> str:
            strength = f"{next(strengths):.4f}"
            return "\n".join(f"<lora:{file}:{strength}:0:lbw={texts[at]}>" for at, file in enumerate(files))

        StrataLoraStack.execute(written(), model=model)
        gc.freeze()
        times = alternate(
            2 if quick else 7,
            stack=lambda: StrataLoraStack.execute(written(), model=model),
            page=lambda: described(written()),
            texts=lambda: [parse(text, layout).resolve(layout) for text in texts],
        )
        gc.unfreeze()
        CACHE.clear()
    labels = {
        "stack": f"{ROWS} rows with block weights each, a moved slider",
        "page": f"what the page is told of {ROWS} rows",
        "texts": f"{TEXTS} texts of block weights, read and resolved",
    }
    return [(name, label, seconds(times[key].median)) for key, label in labels.items()]
