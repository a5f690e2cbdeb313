"""How large a model's own weights are, from a sample.

An editor shows two digits, and reading the whole of a large model takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, prod

import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

SAMPLE = 1 << 16  # numbers per weight
CHUNK = 64  # of them side by side: a line or two of the memory's cache


@dataclass(frozen=True, eq=False)
class Magnitude:
    """means: mean square of every ``step``-th chunk of ``size`` numbers, in the weight's order, float32 on the CPU."""

    means: Tensor
    step: int
    size: int

    def squared_norm(self, shape: tuple[int, ...], start: int = 0) -> float:
        """Squared Frobenius norm of a part of the weight: ``shape``, from the ``start``-th number in memory on."""
        first, last = (-(-at // (self.size * self.step)) for at in (start, start + prod(shape)))
        part = self.means[first:last] if last > first else self.means
        return prod(shape) * float(part.mean(dtype=torch.float64))


def magnitudes(patcher) -> Mapping[str, Magnitude]:
    """State-dict key -> magnitude of what a ModelPatcher's model was loaded with, whatever patches it carries right now.

    Without weights that tell nothing: on ``meta``, or packed in a way that only whole weights can be taken out of.
    """
    samples: dict[str, tuple[Tensor, int, int, float]] = {}
    for key, patches in patcher.get_key_patches().items():
        weight, scale = _plain(patches[0][0])
        if weight is not None and weight.numel():
            samples[key] = (*_sample(weight.detach()), scale)
    gathered: dict[torch.device, list[str]] = {}
    for key, (means, *_) in samples.items():
        gathered.setdefault(means.device, []).append(key)
    found = {}
    for keys in gathered.values():  # one transfer for each device, not one for each weight
        parts = [samples[key][0] for key in keys]
        for key, means in zip(keys, torch.cat(parts).cpu().split([len(part) for part in parts]), strict=True):
            _, step, size, scale = samples[key]
            found[key] = Magnitude(means * scale**2, step, size)
    return found


def _sample(weight: Tensor) -> tuple[Tensor, int, int]:
    """(mean squares of chunks, step, size). Each row is met at other columns than the one before."""
    size = gcd(weight.numel(), CHUNK)
    step = max(1, weight.numel() // SAMPLE)
    per_row = weight.numel() // len(weight) // size if weight.ndim else 1
    while step > 1 and gcd(step, per_row) > 1:
        step += 1
    return weight.reshape(-1, size)[::step].float().square().mean(1), step, size


def _plain(weight: Tensor) -> tuple[Tensor | None, float]:
    """(numbers that can be sliced, what they are multiplied by)."""
    if isinstance(weight, QuantizedTensor):
        scale = getattr(weight.params, "scale", None)
        if weight.storage_shape != tuple(weight.shape) or not isinstance(scale, Tensor) or scale.numel() != 1:
            return None, 1.0
        return weight._qdata, float(scale)
    if weight.is_meta or not weight.dtype.is_floating_point or hasattr(weight, "tensor_shape"):
        return None, 1.0
    return weight, 1.0
