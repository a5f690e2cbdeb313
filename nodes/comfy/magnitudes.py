"""How large a model's own weights are, from a sample.

An editor shows two digits, and reading the whole of a large model takes seconds; unpacking one from 4 bits takes minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .internals import find

if TYPE_CHECKING:
    from comfy.quant_ops import QuantizedTensor

# How many numbers of a weight are looked at, and how many of them lie side by side: a line or two of the memory's cache.
SAMPLE = 1 << 16
CHUNK = 64
# Layouts of ComfyUI's quantized layers (comfy_kitchen.tensor). INT4: two signed numbers in a byte. GROUPED: numbers of a row that share
# a scale, and the bytes that they take; the scales of four groups of 128 rows lie together (comfy_kitchen.float_utils.to_blocked, as
# cuBLAS wants it): a tile. INT4_IN_GROUPS: two codes in a byte, a scale for each group of a row and one for each row (ComfyUI 0.33).
INT4 = "TensorCoreConvRotW4A4Layout"
GROUPED = {"TensorCoreNVFP4Layout": (16, 8), "TensorCoreMXFP8Layout": (32, 32)}
INT4_IN_GROUPS = "AsymW4A8Int8Layout"
TILE_ROWS, TILE_GROUPS, TILES = 128, 4, 16


@dataclass(frozen=True, eq=False)
class Magnitude:
    """means: mean square of every ``step``-th chunk of ``size`` numbers, in the weight's order, float32."""

    means: Tensor
    step: int
    size: int

    def squared_norm(self, shape: tuple[int, ...], start: int = 0) -> float:
        """Squared Frobenius norm of a part of the weight: ``shape``, from the ``start``-th number in memory on."""
        first, last = (-(-at // (self.size * self.step)) for at in (start, start + prod(shape)))
        part = self.means[first:last] if last > first else self.means
        return prod(shape) * float(part.mean(dtype=torch.float64))


def is_quantized(weight: Tensor) -> bool:
    """Whether a weight is one of ComfyUI's quantised tensors: numbers of 8 bits or fewer with their scales beside them."""
    kind = find(
        "comfy.quant_ops",
        "QuantizedTensor",
        "Quantised weights are taken for plain ones: the report does not say that they were rounded, and the editor may show no bars.",
    )
    return kind is not None and isinstance(weight, kind)


def magnitudes(patcher) -> Mapping[str, Magnitude]:
    """State-dict key -> magnitude, on the CPU, of what a ModelPatcher's model was loaded with, whatever patches it carries right now.

    Without weights that tell nothing: on ``meta``, or packed in a way that only their loader takes apart.
    """
    samples: dict[str, Magnitude] = {}
    for key, weight in _loaded_weights(patcher):
        if weight.numel() and not weight.is_meta:
            try:
                sample = _quantized(weight) if is_quantized(weight) else _plain(weight)
            # A number to look at must not keep a LoRA out of a format that came after this was written.
            except Exception as problem:
                logging.debug("[Strata] %s cannot be measured: %s", key, problem)
                sample = None
            if sample is not None:
                samples[key] = sample
    gathered: dict[torch.device, list[str]] = {}
    for key, sample in samples.items():
        gathered.setdefault(sample.means.device, []).append(key)
    found = {}
    # One transfer for each device, not one for each weight.
    for keys in gathered.values():
        parts = [samples[key].means for key in keys]
        for key, means in zip(keys, torch.cat(parts).cpu().split([len(part) for part in parts]), strict=True):
            found[key] = replace(samples[key], means=means)
    return found


def _loaded_weights(patcher) -> Iterator[tuple[str, Tensor]]:
    """(key, weight before any patch). ModelPatcher.get_key_patches, which tells the same, fails on quantized layers in ComfyUI 0.30: their
    state dict has scales that are no parameters."""
    for key, weight in patcher.model.named_parameters(remove_duplicate=False):
        if key in patcher.backup:
            weight = patcher.backup[key].weight
        elif key in patcher.hook_backup:
            weight = patcher.hook_backup[key][0]
        yield key, weight


def _plain(weight: Tensor) -> Magnitude | None:
    # ComfyUI-GGUF's weights are bytes that carry the shape of what they stand for.
    if not weight.dtype.is_floating_point or hasattr(weight, "tensor_shape"):
        return None
    return _sample(weight.detach())


def _quantized(weight: QuantizedTensor) -> Magnitude | None:
    """Mostly of the numbers as they are stored. Layouts that rotate groups of columns before they round ("convrot") keep a group's
    sum of squares."""
    name, stored, params = weight.layout_cls.__name__, weight._qdata, weight.params
    if getattr(params, "transposed", False):
        return None
    if name in GROUPED:
        return _tiles(weight, *GROUPED[name])
    if name == INT4_IN_GROUPS:
        return _groups(weight)
    rows, scale = weight.shape[0], params.scale.flatten()
    if len(scale) not in (1, rows) or not (name == INT4 or stored.shape == weight.shape):
        return None
    sample = _sample(stored, _squares_of_int4) if name == INT4 else _sample(stored)
    sample = replace(sample, size=sample.size * weight.numel() // stored.numel())
    starts = torch.arange(len(sample.means), device=stored.device) * (sample.step * sample.size)
    row = starts // (weight.numel() // rows)
    return replace(sample, means=sample.means * scale.float().square().expand(rows)[row])


def _sample(stored: Tensor, squares: Callable[[Tensor], Tensor] | None = None) -> Magnitude:
    """Of numbers that can be sliced. squares: chunks as they are stored [n, size] -> squares of their numbers, or these in means."""
    size = gcd(stored.numel(), CHUNK)
    step = _step(stored.numel() // SAMPLE, stored.numel() // len(stored) // size if stored.ndim else 1)
    chunks = stored.reshape(-1, size)[::step]
    return Magnitude((squares(chunks) if squares else chunks.float().square()).mean(1), step, size)


def _squares_of_int4(pairs: Tensor) -> Tensor:
    return ((pairs << 4 >> 4).float().square() + (pairs >> 4).float().square()) / 2


def _step(wanted: int, per_row: int) -> int:
    """About that many, such that each row is met at other columns than the one before."""
    step = max(1, wanted)
    while step > 1 and gcd(step, per_row) > 1:
        step += 1
    return step


def _tiles(weight: QuantizedTensor, numbers: int, packed: int) -> Magnitude:
    """Of whole tiles, put below each other: a matrix that is one tile wide, which the layout unpacks as any other."""
    (rows, columns), stored, params = weight.shape, weight._qdata, weight.params
    down, across = rows // TILE_ROWS, columns // (TILE_GROUPS * numbers)
    if weight.numel() <= SAMPLE or not down * across:
        return _sample(weight.dequantize())
    step = _step(down * across // TILES, across)
    at = torch.arange(0, down * across, step, device=stored.device)
    row, column = at // across, at % across
    # Bytes, as PyTorch indexes few of the types in 8 bits.
    tiles = stored.view(torch.uint8)[: down * TILE_ROWS, : across * TILE_GROUPS * packed]
    tiles = tiles.unflatten(1, (across, -1)).unflatten(0, (down, -1)).transpose(1, 2)[row, column]
    field = "block_scale" if hasattr(params, "block_scale") else "scale"
    scales = getattr(params, field)
    blocks = scales.view(torch.uint8).reshape(-(-rows // TILE_ROWS), -1, TILE_ROWS, TILE_GROUPS)[row, column]
    shape = len(at) * TILE_ROWS, TILE_GROUPS * numbers
    cut = replace(params, **{field: blocks.flatten(0, 1).view(scales.dtype)}, orig_shape=shape)
    squares = weight.layout_cls.dequantize(tiles.flatten(0, 1).view(stored.dtype), cut).float().square()
    return Magnitude(squares.view(len(at), -1).mean(1), step, TILE_ROWS * columns // across)


def _groups(weight: QuantizedTensor) -> Magnitude:
    """Of pieces of rows, put below each other: a narrow matrix, which the layout unpacks as any other.

    It rotates groups of columns back after unpacking, 256 wide mostly; a narrower rotation keeps the sum of squares as well, and lets
    more rows be met by as many numbers.
    """
    (rows, columns), params = weight.shape, weight.params
    size = next((n for n in (16, 64, 256) if n >= CHUNK and n % params.group_size == columns % n == 0), columns)
    across = columns // size
    # Rows differ more than the numbers of a row do: four times as many tell each third of a fused weight.
    step = _step(weight.numel() // (4 * SAMPLE), across)
    at = torch.arange(0, rows * across, step, device=params.scale.device)

    def pieces(values: Tensor) -> Tensor:
        return values.reshape(rows * across, -1)[at]

    cut = replace(
        params,
        # Bytes, as PyTorch indexes few of the types in 8 bits.
        scale=pieces(params.scale.view(torch.uint8)).view(params.scale.dtype),
        s_channel=params.s_channel[at // across],
        correction=None if params.correction is None else pieces(params.correction.t()).t(),
        convrot_groupsize=params.convrot_groupsize if size == columns else size,
        orig_shape=(len(at), size),
    )
    squares = weight.layout_cls.dequantize(pieces(weight._qdata), cut).float().square()
    return Magnitude(squares.mean(1), step, size)
