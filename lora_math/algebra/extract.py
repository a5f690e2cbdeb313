"""The difference of two models as a LoRA, one weight at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StrataError
from ..low_rank import LowRank
from .budget import Budget
from .change import Change
from .shrink import Stored, shrink
from .sketch import leading_svd

SAME = 1e-6  # of a weight's norm: a difference below is what converting between types leaves


@dataclass(frozen=True, eq=False)
class Pair:
    """One weight of two models: ``base`` and ``tuned`` give it, as float32 or wider, when it is its turn; ``tuned`` as a new tensor,
    which is written into."""

    name: str
    shape: tuple[int, ...]
    base: Callable[[], Tensor]
    tuned: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Extracted:
    """changes: what was found, by weight, cut to the largest rank; beyond: the norm of what that cut off."""

    changes: Mapping[str, Change]
    beyond: Mapping[str, float]

    def stored(
        self, budget: Budget, dtype: torch.dtype, clip: float = 0.0, overhead=lambda name: 0
    ) -> dict[str, Stored]:
        """As ``shrink``, with the error of the difference itself, not of what was kept of it."""
        found = shrink(self.changes, budget, dtype, clip, overhead)
        return {
            name: Stored(
                layer.up,
                layer.down,
                layer.whole,
                layer.shape,
                math.hypot(layer.norm, self.beyond.get(name, 0.0)),
                math.hypot(layer.error, self.beyond.get(name, 0.0)),
                layer.inner,
            )
            for name, layer in found.items()
        }


def extract(
    pairs: Iterable[Pair], largest_rank: int, tick: Callable[[], None] = lambda: None, name: str = "The tuned model"
) -> Extracted:
    """tuned - base of every weight that differs: matrices and convolutions to ``largest_rank`` singular values, vectors whole.

    At most two weights exist at a time besides the models' own. Nothing is clamped. tick: called after each weight, may raise to stop;
    name: the tuned model's, for messages. Raises StrataError where nothing differs.
    """
    if largest_rank < 1:
        raise StrataError(f"The rank is {largest_rank}: it must be 1 or more.")
    changes, beyond = {}, {}
    for pair in pairs:
        base, delta = pair.base(), pair.tuned()
        size = torch.linalg.vector_norm(base)
        delta = delta.sub_(base) if delta.dtype == base.dtype else delta - base
        del base
        norm = float(torch.linalg.vector_norm(delta))
        if norm > SAME * float(size):
            if Change(None, delta, pair.shape).is_matrix:
                matrix = delta.reshape(pair.shape[0], -1)
                svd = leading_svd(matrix, min(largest_rank, *matrix.shape))
                changes[pair.name] = Change(LowRank(svd.u * svd.s, svd.vh), None, pair.shape)
                beyond[pair.name] = math.sqrt(max(norm**2 - float(svd.s.double().square().sum()), 0.0))
            else:
                changes[pair.name] = Change(None, delta.double(), pair.shape)
        del delta
        tick()
    if not changes:
        raise StrataError(f"{name} has the same weights as its base: there is nothing to extract.")
    return Extracted(changes, beyond)
