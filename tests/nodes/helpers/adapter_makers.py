"""One random adapter of every algorithm for a weight of a given shape, of a size that training leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch

from strata.lora_math.adapters import BOFT, IA3, OFT, Adapter, DoRA, GLoRA, LoHa, LoKr, LoRA, PeftOFT

Maker = Callable[[torch.Tensor, torch.Generator], Adapter | None]  # None where the algorithm does not fit the shape


def lora(weight, generator, rank: int = 3) -> LoRA:
    make = _normal(generator)
    out, inputs, *kernel = weight.shape
    return LoRA(make(out, rank, *[1] * len(kernel)), make(rank, inputs, *kernel), None, 0.5)


def tucker(weight, generator) -> LoRA:
    make = _normal(generator)
    out, inputs, *kernel = weight.shape
    if not kernel:
        return lora(weight, generator)
    ones = [1] * len(kernel)
    return LoRA(make(out, 3, *ones), make(3, inputs, *ones), make(3, 3, *kernel, size=1.0), 0.5)


def loha(weight, generator, rank: int = 1) -> LoHa:
    """Rank 1 runs by its factors, a high rank by the whole delta. The change is of one size whatever the rank."""
    make = _normal(generator)
    columns = prod(weight.shape[1:])
    halves = [make(*size, size=0.2 / rank**0.25) for size in ((len(weight), rank), (rank, columns)) * 2]
    return LoHa(*halves, None, None, 0.5)


def lokr(weight, generator) -> LoKr | None:
    make = _normal(generator)
    out, inputs, *kernel = weight.shape
    if out % 2 or inputs % 2:
        return None
    return LoKr((make(2, 2, size=0.5),), (make(out // 2, inputs // 2, *kernel, size=0.02),), 0.5)


def glora(weight, generator) -> GLoRA:
    make = _normal(generator)
    out, inputs = weight.shape[:2]
    return GLoRA(make(inputs, 2), make(2, inputs), make(out, 2), make(2, prod(weight.shape[1:])), 0.5)


def ia3(weight, generator, on_input: bool = False) -> IA3:
    return IA3(_normal(generator)(weight.shape[1 if on_input else 0]), on_input)


def oft(weight, generator) -> OFT | None:
    return None if len(weight) % 4 else OFT((_normal(generator)(len(weight) // 4, 4, 4),))


def boft(weight, generator) -> BOFT | None:
    return None if len(weight) % 8 else BOFT(_normal(generator)(2, len(weight) // 4, 4, 4))


def peft_oft(weight, generator) -> PeftOFT | None:
    columns = prod(weight.shape[1:])
    return None if columns % 4 else PeftOFT(_normal(generator)(columns // 4, 6))


def dora(weight, generator, axis: int = 0) -> DoRA:
    inner = lora(weight, generator)
    dims = [d for d in range(weight.ndim) if d != axis]
    trained = torch.linalg.vector_norm(weight.float() + inner.delta(weight.float(), 1.0, torch.float32), dim=dims)
    return DoRA(inner, trained * (1 + _normal(generator)(len(trained))), axis)


MAKERS: dict[str, Maker] = {
    "LoRA": lora,
    "Tucker": tucker,
    "LoHa": loha,
    "LoHa of high rank": lambda weight, generator: loha(weight, generator, 32),
    "LoKr": lokr,
    "GLoRA": glora,
    "IA3": ia3,
    "IA3 on inputs": lambda weight, generator: ia3(weight, generator, True),
    "OFT": oft,
    "BOFT": boft,
    "OFT on inputs": peft_oft,
    "DoRA": dora,
    "DoRA on inputs": lambda weight, generator: dora(weight, generator, 1),
}


def scaled(changes: dict, strength: float) -> dict:
    """Patch key -> terms at another strength."""
    return {key: [(strength * c, adapter) for c, adapter in terms] for key, terms in changes.items()}


def everywhere(model, maker: Maker, seed: int = 0, having: str = "") -> dict:
    """patch key -> [(1.0, adapter)] for every matrix and convolution of a model."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for key, weight in model.model.state_dict().items():
        if key.endswith(".weight") and weight.ndim > 1 and having in key:
            adapter = maker(weight, generator)
            if adapter is not None:
                found[key] = [(1.0, adapter)]
    return found


def _normal(generator):
    return lambda *shape, size=0.05: torch.randn(shape, generator=generator) * size
