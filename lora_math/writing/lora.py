"""Stored layers under the names that a family's readers know."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapters import Diff, LoRA
from ..adapters.stored import PEFT
from ..algebra.shrink import Stored
from ..reading.state_dict import Entry
from .state_dict import write

# A layer has up, down and alpha.
TENSORS = 3
# Bytes of a header for one tensor besides its name: type, shape and place.
DESCRIBED = 90


def tensors(layers: Mapping[tuple[str, str], Stored], style: str, stubs: bool = False) -> dict[str, Tensor]:
    """The tensors of a file. layers: (module, "weight" or "bias") -> what is stored there.

    Every low-rank layer gets its rank as alpha, a float32, so that it acts at the strength it was computed for in every reader; PEFT's
    style has none, which means the same. stubs: layers of which nothing is left are written with rank 1 and zeros: some programs tell a
    model's family by a single layer; without, they are dropped.
    """
    entries = []
    alphas: dict[str, Tensor] = {}
    for (module, parameter), layer in layers.items():
        if layer.whole is not None:
            if bool(layer.whole.any()):
                entries.append(Entry(module, parameter, Diff(layer.whole), ()))
            continue
        up, down = layer.up, layer.down
        if not layer.rank:
            if not stubs:
                continue
            up, down = up.new_zeros(len(up), 1), down.new_zeros(1, down.shape[1])
        kernel = layer.shape[2:]
        rank = up.shape[1]
        if kernel:
            up, down = up.reshape(*up.shape, *[1] * len(kernel)), down.reshape(rank, layer.shape[1], *kernel)
        entries.append(Entry(module, parameter, LoRA(up, down), ()))
        if style != PEFT:
            alphas[f"{module}.alpha"] = torch.tensor(float(rank))
    return {**write(entries, style).tensors, **alphas}


def overhead(module: str) -> int:
    """Bytes that a file takes for a low-rank layer besides the numbers of its factors, at most."""
    return TENSORS * (len(module.encode()) + len(".lora_down.weight") + DESCRIBED) + 4
