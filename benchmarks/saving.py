"""Shrinking, extracting and merging, beside the tools that people have for them."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import logging
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from comfy_extras.nodes_lora_extract import extract_lora
from torch import Tensor

from strata.lora_math.algebra.budget import Budget
from strata.lora_math.algebra.extract import Pair, extract
from strata.lora_math.baking import Baked, Recipe, bake, layers_by_name
from strata.lora_math.low_rank import LowRank
from strata.lora_math.reading import state_dict

from . import models
from .machine import clock, peak_memory
from .results import seconds, size, table

RANK, KEPT, EXTRACTED, MERGED = 128, 32, 32, 5
# The longest side of a layer that each dense tool is given: a whole SVD of 10240 x 1280 takes minutes.
LONGEST, LONGEST_OF_ALL = 2048, 1 << 30

Peer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def saving(quick: bool, peers: Path | None = None) -> str:
    """peers: a folder with ``resize_lora.py`` of kohya's sd-scripts and ``lora_nodes.py`` of ComfyUI-KJNodes; None leaves them out."""
    found = []
    for part in (partial(shrinking, peers=peers), extracting, merging):
        found.append(part(quick))
        gc.collect()
        print(found[-1], flush=True)
    return "\n\n".join(found)


def shrinking(quick: bool, peers: Path | None) -> str:
    tensors = _falling(models.lora(models.build("SD1.5" if quick else "SDXL", torch.float16), RANK))
    modules = [key.removesuffix(".lora_up.weight") for key in tensors if key.endswith(".lora_up.weight")]
    found: list[Baked] = []
    ours = clock(lambda: found.append(_shrunk(tensors)))
    memory = peak_memory(lambda: _shrunk(tensors))
    by_shape: dict[tuple, list[str]] = {}
    for module in modules:
        by_shape.setdefault(_shape(tensors, module), []).append(module)
    rows = [(f"Strata, all {len(modules)} modules", seconds(ours), f"{found[0].quality.error:.6f}", size(memory), "")]
    for label, (peer, longest) in _peers(peers, quick).items():
        sample = [of for shape, of in by_shape.items() if len(shape) == 2 and max(shape) <= longest]
        count, chosen = sum(map(len, sample)), {module for of in sample for module in of}
        part = {key: value for key, value in tensors.items() if _module(key) in chosen}
        ours_there = clock(lambda part=part: _shrunk(part))
        spent, error = _measured(tensors, sample, peer)
        ours_error = _measured(tensors, sample, _ours)[1]
        which = f"{count} linear layers" + (f" of at most {longest}" if longest < LONGEST_OF_ALL else "")
        rows.append((f"{which}: Strata", seconds(ours_there), f"{ours_error:.6f}", "", ""))
        rows.append((f"the same: {label}", seconds(spent), f"{error:.6f}", "", f"{spent / ours_there:.0f}"))
    name = "SD1.5" if quick else "SDXL"
    return table(
        f"Shrinking a LoRA for {name} from rank {RANK} to {KEPT}",
        ("", "time", "relative error of the file", "peak memory", "times Strata's"),
        rows,
        "Of the others one linear layer of each size is measured, times how many there are.",
        "Spectra fall with 1 / sqrt(rank). Errors are of what is stored in float16, in float64, over one layer of each size.",
    )


def extracting(quick: bool) -> str:
    """The whole UNet ours; core's extractor on one layer of each of a few sizes."""
    model = models.build("SD1.5" if quick else "SDXL", torch.float16)
    weights = {key: value for key, value in model.model.state_dict().items() if key.endswith((".weight", ".bias"))}
    weights = {key: value for key, value in weights.items() if key.startswith("diffusion_model.")}
    noise = torch.randn(1 << 25) * 1e-3

    def tuned(key: str) -> Tensor:
        whole = weights[key].float()
        whole.view(-1).add_(noise[: whole.numel()] if whole.numel() <= len(noise) else noise.repeat(2)[: whole.numel()])
        return whole

    def pairs() -> Iterator[Pair]:
        for key, value in weights.items():
            yield Pair(key, tuple(value.shape), lambda key=key: weights[key].float(), lambda key=key: tuned(key))

    run = lambda: extract(pairs(), EXTRACTED, Budget(), torch.float16)  # noqa: E731
    whole = clock(run)
    largest = max(value.numel() * 4 for value in weights.values())
    memory = peak_memory(run)
    stored = sum(value.numel() for value in weights.values())
    rows = [(f"Strata, all {len(weights)} weights", seconds(whole), size(memory), "")]
    shapes = Counter(
        tuple(value.shape) for value in weights.values() if value.ndim == 2 and max(value.shape) <= LONGEST
    )
    for shape, count in shapes.most_common(2 if quick else 4):
        key = next(key for key, value in weights.items() if tuple(value.shape) == shape)
        pair = [Pair(key, shape, lambda key=key: weights[key].float(), lambda key=key: tuned(key))]
        ours = clock(lambda pair=pair: extract(pair, EXTRACTED, Budget(), torch.float16))
        difference = tuned(key) - weights[key].float()
        theirs = clock(lambda d=difference: extract_lora(d, EXTRACTED))
        rows.append((f"{shape[0]}x{shape[1]}, {count} of them: Strata", seconds(ours), "", ""))
        rows.append(("the same: ComfyUI", seconds(theirs), "", f"{theirs / ours:.0f}"))
    return table(
        f"Extracting the difference of two UNets of {'SD1.5' if quick else 'SDXL'} at rank {EXTRACTED}",
        ("", "time", "peak memory", "times Strata's"),
        rows,
        f"{stored / 1e9:.2f} billion numbers, all of them different. The largest weight is {size(largest)} in float32: the peak is above",
        "the models, with the LoRA itself and the sketch of one weight in it. ComfyUI takes a whole SVD of each weight.",
    )


def merging(quick: bool) -> str:
    model = models.build("FLUX", torch.bfloat16) if quick else models.whole_flux()
    files = [models.lora(model, EXTRACTED, seed) for seed in range(MERGED)]
    modules = sum(key.endswith(".lora_up.weight") for key in files[0])
    given = sum(value.nbytes for file in files for value in file.values())
    rows = []
    for label, recipe in (
        ("sum, exact", Recipe()),
        (f"sum, shrunk to rank {EXTRACTED}", Recipe(budget=Budget("rank", EXTRACTED))),
        ("sum, shrunk to 99 % of the energy", Recipe(budget=Budget("energy", 0.99))),
        (f"slerp, shrunk to rank {EXTRACTED}", Recipe("slerp", Budget("rank", EXTRACTED))),
        (f"knots ties, shrunk to rank {EXTRACTED}", Recipe("knots ties", Budget("rank", EXTRACTED))),
    ):
        run = lambda recipe=recipe: bake(  # noqa: E731
            layers_by_name([state_dict.parse(file).entries for file in files]), [1 / MERGED] * MERGED, recipe
        )
        rows.append((label, seconds(clock(run)), size(peak_memory(run))))
    return table(
        f"Merging {MERGED} LoRAs of rank {EXTRACTED} for FLUX",
        ("method", "time", "peak memory"),
        rows,
        f"{modules} modules each, {size(given)} of files together, which the peak does not count; it counts the merged LoRA.",
    )


def _shrunk(tensors: Mapping[str, Tensor]) -> Baked:
    return bake(layers_by_name([state_dict.parse(tensors).entries]), [1.0], Recipe(budget=Budget("rank", KEPT)))


def _falling(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a falling spectrum, as training leaves it."""
    fall = torch.arange(1, RANK + 1).float() ** -0.5
    for key, value in tensors.items():
        if key.endswith(".lora_up.weight"):
            value.mul_(fall.reshape(1, -1, *[1] * (value.ndim - 2)))
    return tensors


def _module(key: str) -> str:
    return key.removesuffix(".alpha").removesuffix(".lora_up.weight").removesuffix(".lora_down.weight")


def _shape(tensors: Mapping[str, Tensor], module: str) -> tuple[int, ...]:
    down = tensors[f"{module}.lora_down.weight"]
    return (len(tensors[f"{module}.lora_up.weight"]), *down.shape[1:])


def _factors(tensors: Mapping[str, Tensor], module: str) -> tuple[Tensor, Tensor]:
    return tensors[f"{module}.lora_up.weight"], tensors[f"{module}.lora_down.weight"]


def _measured(tensors: Mapping[str, Tensor], sample: list[list[str]], peer: Peer) -> tuple[float, float]:
    """(time for all layers of the sample, relative error over one layer of each size)."""
    spent = lost = whole = 0.0
    for of in sample:
        up, down = _factors(tensors, of[0])
        found: list[tuple[Tensor, Tensor]] = []
        spent += clock(lambda up=up, down=down, found=found: found.append(peer(up, down))) * len(of)
        exact = LowRank(up, down)
        lost += LowRank.concat([(LowRank(*found[0]), 1.0), (exact, -1.0)]).frobenius_norm() ** 2
        whole += exact.frobenius_norm() ** 2
    return spent, (lost / whole) ** 0.5


def _ours(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    found = _shrunk({"x.lora_up.weight": up, "x.lora_down.weight": down, "x.alpha": torch.tensor(float(RANK))}).tensors
    return found["x.lora_up.weight"], found["x.lora_down.weight"]


def _peers(folder: Path | None, quick: bool) -> dict[str, tuple[Peer, int]]:
    """What other tools do with one linear layer, as their own code does it, rounded to float16 as they save it, and the longest side of
    a layer that they are given here."""
    if folder is None:
        return {}
    kohya, kj = _loaded(folder / "resize_lora.py"), _loaded(folder / "lora_nodes.py")

    def through(module, dynamic) -> Peer:
        def run(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
            merged = module.merge_linear(down.float(), up.float(), "cpu")
            found = module.extract_linear(merged, KEPT, dynamic, None, "cpu", 1.0)
            return found["lora_up"].half(), found["lora_down"].half()

        return run

    return {
        "kohya resize_lora": (through(kohya, None), LONGEST if quick else LONGEST_OF_ALL),
        "KJNodes LoraReduceRank": (through(kj, "disabled"), LONGEST),
    }


def _loaded(path: Path):
    """A file of another project, without what it imports for its own command line."""
    absent = {name: types.ModuleType(name) for name in ("library", "library.utils")}
    absent["library"].train_util = absent["library"].model_util = None
    absent["library.utils"].setup_logging = lambda: None
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, absent), contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    logging.getLogger().setLevel(logging.ERROR)
    return module
