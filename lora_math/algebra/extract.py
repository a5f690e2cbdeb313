"""The difference of two models as a LoRA, one weight at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import StrataError
from ..low_rank import LowRank
from .budget import Budget
from .change import Change, OnDemand
from .shrink import Stored, passes, shrink
from .sketch import leading_svd

# The part of a weight's norm below which a difference is what converting between types leaves.
SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Pair:
    """One weight of two models: ``base`` and ``tuned`` give it, as float32 or wider, when it is its turn; ``tuned`` as a new tensor,
    which is written into."""

    name: str
    shape: tuple[int, ...]
    base: Callable[[], Tensor]
    tuned: Callable[[], Tensor]


def differences(
    pairs: Iterable[Pair], largest_rank: int, tick: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, Change, float]]:
    """(name, tuned - base, norm of what was cut off) of every weight that differs: matrices and convolutions to ``largest_rank``
    singular values, vectors whole.

    At most two weights exist at a time besides the models' own. Nothing is clamped. tick: called after each weight, may raise to stop.
    """
    for pair in pairs:
        base, delta = pair.base(), pair.tuned()
        size = torch.linalg.vector_norm(base)
        delta = delta.sub_(base) if delta.dtype == base.dtype else delta - base
        del base
        norm = float(torch.linalg.vector_norm(delta))
        if not math.isfinite(norm):
            raise StrataError(
                f"{pair.name} holds NaN or infinity in one of the models: nothing can be extracted from it."
            )
        if norm > SAME * float(size):
            if Change(None, delta, pair.shape).is_matrix:
                matrix = delta.reshape(pair.shape[0], -1)
                svd = leading_svd(matrix, min(largest_rank, *matrix.shape))
                beyond = math.sqrt(max(norm**2 - float(svd.s.double().square().sum()), 0.0))
                yield pair.name, Change(LowRank(svd.u * svd.s, svd.vh), None, pair.shape), beyond
            else:
                yield pair.name, Change(None, delta.double(), pair.shape), 0.0
        del delta
        tick()


def _packed(change: Change, dtype: torch.dtype) -> Callable[[], Change]:
    """The change again, out of what takes less room than its float64."""
    shape = change.shape
    if change.low is None:
        whole = change.whole.to(dtype)
        return lambda: Change(None, whole.double(), shape)
    up, down = change.low.up.to(dtype), change.low.down.to(dtype)
    return lambda: Change(LowRank(up, down), None, shape)


def extract(
    pairs: Iterable[Pair],
    largest_rank: int,
    budget: Budget,
    dtype: torch.dtype,
    clip: float = 0.0,
    overhead: Callable[[str], int] = lambda name: 0,
    tick: Callable[[], None] = lambda: None,
    tuned: str = "The tuned model",
) -> dict[str, Stored]:
    """The layers of a LoRA that turns one model into the other, as ``shrink`` stores them; errors are of the whole difference.

    A budget for each layer ("rank", "exact") stores it at once; one over all layers has to hold them until the last is known.
    tuned: that model's name, for messages. Raises StrataError where nothing differs.
    """
    if largest_rank < 1:
        raise StrataError(f"The rank is {largest_rank}: it must be 1 or more.")
    found: dict[str, Stored] = {}
    held: dict[str, Callable[[], Change]] = {}
    beyond: dict[str, float] = {}
    for name, change, cut in differences(pairs, largest_rank, tick):
        beyond[name] = cut
        if passes(budget) == 1:
            found.update(shrink({name: change}, budget, dtype, clip))
        else:
            held[name] = _packed(change, torch.promote_types(dtype, torch.float32))
    if not beyond:
        raise StrataError(f"{tuned} has the same weights as its base: there is nothing to extract.")
    rest = math.hypot(*beyond.values()) if held else 0.0
    found.update(shrink(OnDemand(held), budget, dtype, clip, overhead, tick, beyond=rest))
    return {
        name: replace(layer, norm=math.hypot(layer.norm, beyond[name]), error=math.hypot(layer.error, beyond[name]))
        for name, layer in found.items()
    }
