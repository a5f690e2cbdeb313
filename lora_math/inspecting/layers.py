"""The numbers of one LoRA's layers: how large each change is, and in how many directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapters import Adapter
from ..family import component
from ..low_rank import singular_values_of_all
from ..reading.state_dict import Entry

# The most multiplications for one layer's singular values: a second or so.
LAYER_WORK = 4e9
# And for all of a file's: half a minute on two cores at the very most.
TOTAL_WORK = 4e11
# Layers that are looked at together.
BATCH = 64


@dataclass(frozen=True, eq=False)
class LayerNumbers:
    """One change of one weight or bias, at strength 1.

    module: its name in the file; part: "model" or a text encoder's name; rank: as it is stored, None where the word has no meaning.
    norm: Frobenius, None where it depends on the weight; values: singular values, descending, float64, None where they are not known.
    broken: whether a tensor of it holds NaN, infinity or numbers beyond all sense; then nothing else is known.
    """

    module: str
    part: str
    algorithm: str
    parameter: str
    rank: int | None
    shape: tuple[int, int] | None
    norm: float | None
    values: Tensor | None
    broken: bool = False

    @property
    def dead(self) -> bool:
        """Whether it changes nothing at all."""
        return self.norm == 0

    @property
    def largest(self) -> float | None:
        """The largest singular value, sigma 1: how far the change can stretch an input."""
        if self.values is None:
            return None
        return float(self.values[0]) if len(self.values) else 0.0

    @property
    def first_share(self) -> float:
        """sigma 1^2 / sum sigma^2: the energy in the layer's first direction; 0 where it is not known."""
        if self.values is None or not self.norm:
            return 0.0
        return float(self.values[0] / torch.linalg.vector_norm(self.values)) ** 2

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of sigma^2 / sum sigma^2 (Roy and Vetterli 2007, with energies for their amplitudes): 1 for one direction,
        n for n equal ones; 0 where it is not known."""
        return 0.0 if self.values is None or not self.norm else effective_rank(self.values)


def effective_rank(values: Tensor) -> float:
    """Of singular values that are not all zero."""
    share = (values / values.max()).square()
    share = share / share.sum()
    return float(torch.special.entr(share).sum().exp())


def measure(
    entries: Sequence[Entry], broken: Collection[str] = (), tick: Callable[[], None] = lambda: None
) -> list[LayerNumbers]:
    """The numbers of every entry of a file, in its order.

    broken: keys of tensors whose numbers are not to be looked at; tick: called for each layer, may raise to stop. The singular values of
    very large products are left out, those of the cheapest layers come first.
    """
    broken = frozenset(broken)
    left, wanted = TOTAL_WORK, set()
    works = [entry.adapter.spectrum_work if entry.parameter == "weight" else math.inf for entry in entries]
    for at in sorted(range(len(entries)), key=works.__getitem__):
        if works[at] > LAYER_WORK or works[at] > left:
            break
        left -= works[at]
        wanted.add(at)
    unsound = {at for at, entry in enumerate(entries) if broken.intersection(entry.keys) or not _is_whole(entry)}
    values: dict[int, Tensor] = {}
    for start in range(0, len(entries), BATCH):
        some = range(start, min(start + BATCH, len(entries)))
        for _ in some:
            tick()
        sound = [at for at in some if at in wanted and at not in unsound]
        values.update(zip(sound, _values([entries[at].adapter for at in sound]), strict=True))
    return [_numbers(entry, values.get(at), at in unsound) for at, entry in enumerate(entries)]


def _is_whole(entry: Entry) -> bool:
    """Whether its factors fit each other: else no weight can take them."""
    shape = entry.adapter.matrix_shape
    return shape is None or entry.adapter.mismatch(shape) is None


def _values(adapters: Sequence[Adapter]) -> list[Tensor]:
    """The singular values of each."""
    products = [adapter.plain_product for adapter in adapters]
    together = iter(singular_values_of_all([product[:2] for product in products if product is not None]))
    return [
        adapter.singular_values() if product is None else next(together) * abs(product[2])
        for adapter, product in zip(adapters, products, strict=True)
    ]


def _numbers(entry: Entry, values: Tensor | None, broken: bool) -> LayerNumbers:
    adapter = entry.adapter
    about = (entry.module, component(entry.module), adapter.name, entry.parameter, adapter.rank, adapter.matrix_shape)
    norm = None
    if values is not None:
        norm = float(torch.linalg.vector_norm(values))
    elif not broken:
        norm = _norm(adapter)
    if norm is not None and not math.isfinite(norm):
        values, norm, broken = None, None, True
    return LayerNumbers(*about, norm, values, broken)


def _norm(adapter: Adapter) -> float | None:
    shape = adapter.weight_shape
    squared = adapter.squared_norm(shape) if shape is not None else None
    return None if squared is None else math.sqrt(squared)
