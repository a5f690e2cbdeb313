"""One LoRA in a few numbers: where its energy lies, how much rank it needs, what sticks out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layers import LayerNumbers

# The part of the energy to keep: what is left out is a tenth of the change's length.
KEEP = 0.99
# The least part of a layer's energy in one direction, and times the median of the largest singular values.
SPIKE_SHARE, SPIKE_SIZE = 0.5, 3.0
# The part of the energy below which layers, taken together, hardly matter.
LITTLE = 0.01


@dataclass(frozen=True, eq=False)
class Part:
    """Several layers together: a block, or all.

    layers: how many, broken ones not among them; energy: sum of squared Frobenius norms, of those that are known; share: of the whole
    LoRA's; stored: the largest stored rank, None where there is none.
    kept: [k], the share of the energy that stays where every layer is cut to rank 1, 2 ...; empty where no singular values are known.
    rank: the smallest that keeps 99 % of the energy when it is the most that a layer may have, None where no singular values are known;
    effective: mean effective rank, weighted by energy.
    """

    layers: int
    energy: float
    share: float
    stored: int | None
    kept: Tensor
    rank: int | None
    effective: float

    @property
    def norm(self) -> float:
        return math.sqrt(self.energy)


@dataclass(frozen=True, eq=False)
class Numbers:
    """blocks: in the order in which they were first met. spikes: layers whose change is mostly one direction that is far larger than
    others' are; little: how many of the layers hold less than 1 % of the energy together; unknown: how many weights have no singular
    values here (too large, or they depend on the weight)."""

    layers: tuple[LayerNumbers, ...]
    whole: Part
    blocks: dict[str, Part]
    spikes: tuple[LayerNumbers, ...]
    little: int
    dead: int
    broken: int
    unknown: int


def numbers(layers: Sequence[LayerNumbers], blocks: Sequence[str]) -> Numbers:
    """blocks: the block of each layer."""
    by_block: dict[str, list[LayerNumbers]] = {}
    for layer, block in zip(layers, blocks, strict=True):
        by_block.setdefault(block, []).append(layer)
    total = math.fsum(_energy(layer) for layer in layers)
    return Numbers(
        layers=tuple(layers),
        whole=_part(layers, total),
        blocks={name: _part(some, total) for name, some in by_block.items()},
        spikes=_spikes(layers),
        little=_little([_energy(layer) for layer in layers if not layer.broken], total),
        dead=sum(layer.dead for layer in layers),
        broken=sum(layer.broken for layer in layers),
        unknown=sum(layer.values is None and layer.parameter == "weight" and not layer.broken for layer in layers),
    )


def _energy(layer: LayerNumbers) -> float:
    return 0.0 if layer.norm is None else layer.norm**2


def _part(layers: Sequence[LayerNumbers], total: float) -> Part:
    sound = [layer for layer in layers if not layer.broken]
    energy = math.fsum(map(_energy, sound))
    ranks = [layer.rank for layer in sound if layer.rank is not None]
    known = [layer for layer in sound if layer.values is not None and layer.norm]
    kept, rank = _kept(known)
    weight = math.fsum(map(_energy, known))
    effective = math.fsum(_energy(layer) * layer.effective_rank for layer in known) / weight if weight else 0.0
    return Part(
        len(sound), energy, energy / total if total else 0.0, max(ranks, default=None), kept, rank, float(effective)
    )


def _kept(layers: Sequence[LayerNumbers]) -> tuple[Tensor, int | None]:
    if not layers:
        return torch.zeros(0, dtype=torch.float64), None
    energy = torch.zeros(max(len(layer.values) for layer in layers), dtype=torch.float64)
    for layer in layers:
        energy[: len(layer.values)] += layer.values.square()
    kept = torch.cumsum(energy, 0)
    kept = kept / kept[-1]
    return kept, int(torch.searchsorted(kept, KEEP * (1 - 1e-12))) + 1


def _spikes(layers: Sequence[LayerNumbers]) -> tuple[LayerNumbers, ...]:
    """The largest first. A layer of rank 1 has but one direction: only its size could tell, and of that the medians are too few."""
    known = [layer for layer in layers if layer.values is not None and layer.norm]
    if len(known) < 3:
        return ()
    usual = statistics.median(layer.largest for layer in known)
    found = [
        layer
        for layer in known
        if len(layer.values) > 1 and layer.first_share >= SPIKE_SHARE and layer.largest >= SPIKE_SIZE * usual
    ]
    return tuple(sorted(found, key=lambda layer: -layer.largest))


def _little(energies: Sequence[float], total: float) -> int:
    count, held = 0, 0.0
    for energy in sorted(energies):
        held += energy
        if held >= LITTLE * total:
            break
        count += 1
    return count
