"""LoRAs and weights: the norms of the changes, adding them, and the memory that this takes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial

import comfy.float
import comfy.lora
import comfy.utils
import torch

from strata.lora_math.adapters import LoRA
from strata.lora_math.fuse import joined
from strata.nodes.comfy import patch

from . import loras, models
from .machine import alternate, peak_memory, ratio
from .results import seconds, size, table


def analysis(quick: bool) -> str:
    """Where a LoRA's energy lies: the norm of every change."""
    rows = []
    high = 16 if quick else 128
    square = torch.randn(2048, 2048)
    for name, model, rank, without in (
        ("SDXL", models.build("SDXL", torch.float16), 16, ()),
        ("FLUX.1, every layer", models.whole_flux(), high, ()),
        ("FLUX.1, attention and MLP", models.whole_flux(), high, ("_mod.", ".modulation.")),
    ):
        adapters = loras.adapters_of(model, models.lora(model, rank))
        adapters = {key: adapter for key, adapter in adapters.items() if not any(part in key for part in without)}
        shapes = {key: value.shape for key, value in model.model.state_dict().items()}
        # Half of up^T up and half of down down^T, the diagonal included: both are symmetric.
        least = sum(rank * (rank + 1) * (len(a.up) + a.down[0].numel()) for a in adapters.values())
        times = []
        for threads in (1, 2):
            with _threads(threads):
                found = alternate(
                    1 if quick else 9,
                    exact=lambda adapters=adapters, shapes=shapes: [
                        adapter.squared_norm(shapes[key]) for key, adapter in adapters.items()
                    ],
                    square=lambda: square @ square,
                )
            times.append(found["exact"].median)
        floor = found["square"].median * least / (2 * len(square) ** 3)
        rows.append((name, rank, len(adapters), f"{least / 1e9:.1f}", *map(seconds, (*times, floor))))
    return table(
        "Energy of every block",
        ("LoRA for", "rank", "modules", "GFLOP at least", "one thread", "two threads", "floor of two threads"),
        rows,
        "Exact Frobenius norms from the factors; once for a file. One thread in CPU seconds, two in seconds by the clock. The floor is the",
        "least arithmetic at the speed of a product of two 2048x2048 matrices on this machine, which a product as small as the rank does",
        "not reach; reading the factors and casting them are not in it.",
    )


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def applying(quick: bool) -> str:
    """Adding the LoRAs to the weights, weight by weight, as ComfyUI's full load does it."""
    rows = []
    for name, stored in (("SD1.5", torch.float16), ("SDXL", torch.float16), ("FLUX", torch.bfloat16)):
        model = models.build(name, stored)
        for rank in (16, 64):
            tensors = models.lora(model, rank)
            adapters = loras.adapters_of(model, tensors)
            for count in (1, 5, 10):
                core, ours = model.clone(), model.clone()
                loaded = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model.model, {}))
                for _ in range(count):
                    core.add_patches(loaded, 0.8)
                    patch.add(ours, {key: [(0.8, adapter)] for key, adapter in adapters.items()})
                # A sample of the weights, the same for all: every n-th, in the order of their sizes.
                keys = sorted(adapters, key=lambda key: model.model.state_dict()[key].numel())
                keys = keys[(step := {"SD1.5": 18, "SDXL": 100, "FLUX": 6}[name] * (3 if quick else 1)) // 2 :: step]
                found = alternate(
                    1 if quick else 2,
                    core=lambda keys=keys, core=core: _patch_all(core, keys),
                    strata=lambda keys=keys, ours=ours: _patch_all(ours, keys),
                    floor=_floor(model, keys, adapters, count),
                )
                share = len(keys) / len(adapters)
                core, ours, floor = (found[way] for way in ("core", "strata", "floor"))
                times = (seconds(each.median / share) for each in (core, ours, floor))
                ratios = (ratio(core, ours), ratio(core, floor), ratio(ours, floor))
                rows.append((name, rank, count, *times, *ratios))
    return table(
        "Applying patches",
        (
            "model",
            "rank",
            "LoRAs",
            "ComfyUI",
            "Strata",
            "floor",
            "ComfyUI / Strata",
            "ComfyUI / floor",
            "Strata / floor",
        ),
        rows,
        "Every weight is copied to float32, patched and rounded back, as in a full load on this device; seconds for the whole model,",
        "scaled up from a sample of its weights. The floor is that copy, one bare `addmm_` with all factors already joined in float32,",
        "and the rounding: what no way of adding the same matrices in float32 can beat. ComfyUI / floor is therefore the most that can",
        "be gained here. It is bounded because both do the same multiplications, and with several LoRAs of a high rank these are nearly",
        "all of the work on one CPU core; what fusing saves is the passes over memory, one full-size product and sum for each LoRA.",
    )


def _patch_all(patcher, keys) -> None:
    for key in keys:
        patcher.patch_weight_to_device(key, return_weight=True)


def _floor(model, keys, adapters: dict[str, LoRA], count: int):
    factors = {key: joined([(0.8, adapters[key])] * count, torch.float32) for key in keys}

    def run() -> None:
        for key in keys:
            weight = comfy.utils.get_attr(model.model, key)
            wide = weight.to(torch.float32, copy=True)
            up, down, scale = factors[key]
            wide.view(len(wide), -1).addmm_(up, down, alpha=scale)
            comfy.float.stochastic_rounding(wide, weight.dtype)

    return run


def memory(quick: bool) -> str:
    """What patching the largest weight takes beyond the copy that ComfyUI patches in."""
    rows = []
    names = ("SD1.5", "FLUX") if quick else ("SD1.5", "SDXL", "FLUX")
    for name, rank in itertools.product(names, (16, 64)):
        model = models.build(name, torch.float16)
        tensors = models.lora(model, rank)
        adapters = loras.adapters_of(model, tensors)
        key = max(adapters, key=lambda k: model.model.state_dict()[k].numel())
        weight = model.model.state_dict()[key].float()
        for count in (1, 5, 10):
            peaks = []
            for patched in (loras.core(model, tensors, 0.8, count), loras.patched(model, adapters, 0.8, count)):
                calculate = partial(comfy.lora.calculate_weight, patched.patches[key], weight.clone(), key)
                peaks.append(peak_memory(calculate))
            rows.append((name, "x".join(map(str, weight.shape)), rank, count, size(weight.nbytes), *map(size, peaks)))
    return table(
        "Peak extra memory while the largest weight is patched",
        ("model", "weight", "rank", "LoRAs", "its copy", "ComfyUI adds", "Strata adds"),
        rows,
        "Strata adds the joined factors and nothing of the weight's size.",
    )
