"""How much of each layer's spectrum to keep: by rank, by the energy or the error of the whole, or by the size of the file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..choices import Kind
from ..errors import StrataError


@dataclass(frozen=True)
class Budget:
    """kind "exact": all that is not zero. "rank": at most so many for each layer. "energy": the least that keeps this share (0 to 1) of
    the squared norm of the whole LoRA. "error": the least whose relative error ||kept - all|| / ||all|| is at most this. "size": the best
    that fits into so many bytes.

    header: bytes of a size that the file's header is left.

    energy, error and size choose over all layers at once, the singular values with the most energy for each stored number first.
    """

    kind: Kind = "exact"
    amount: float = 0.0
    header: int = 0

    def __post_init__(self):
        wrong = {
            "rank": self.amount < 1 or self.amount != int(self.amount) if math.isfinite(self.amount) else True,
            "energy": not 0 < self.amount <= 1,
            "error": not 0 <= self.amount < 1,
            "size": not 0 < self.amount < math.inf,
        }
        if wrong.get(self.kind, self.kind != "exact"):
            needs = {
                "rank": "a whole number from 1",
                "energy": "above 0 and at most 1",
                "error": "at least 0 and below 1",
            }
            raise StrataError(f"{self.kind} is {self.amount:g}: it must be {needs.get(self.kind, 'above 0')}.")


def choose(
    budget: Budget, spectra: Sequence[Tensor], costs: Sequence[int], fixed: int = 0, beyond: float = 0.0
) -> list[int]:
    """How many singular values of each layer to keep.

    spectra: [k] each, descending; costs: bytes of one more rank in that layer; fixed: bytes that the file takes with none; beyond: norm of
    what no spectrum holds any more. It counts as lost: where too much of it is, everything else is kept.
    Raises StrataError where not even one rank of one layer fits into the size.
    """
    full = [int((s > 0).sum()) for s in spectra]
    if budget.kind == "exact":
        return full
    if budget.kind == "rank":
        return [min(n, int(budget.amount)) for n in full]
    if not any(full):
        return full
    layer = torch.cat([torch.full((n,), i) for i, n in enumerate(full)])
    energy = torch.cat([s[:n].double() for s, n in zip(spectra, full, strict=True)]).square_()
    cost = torch.tensor(costs, dtype=torch.float64)[layer]
    # A layer's values fall and all cost the same: what is taken of it is always its first ones.
    order = torch.argsort(energy / cost, descending=True, stable=True)
    if budget.kind == "size":
        fixed += budget.header
        room = budget.amount - fixed
        taken = _fitting(cost[order], room)
        if not taken.any():
            raise StrataError(
                f"The size is too small: {fixed / 1e6:.2f} MB go to names and to what cannot be shrunk, and nothing is left."
            )
        # A layer whose next value did not fit must not go on with a later one.
        return _prefixes(layer[order], taken, len(full))
    share = budget.amount if budget.kind == "energy" else 1 - budget.amount**2
    running = torch.cumsum(energy[order], 0)
    wanted = share * (float(running[-1]) + beyond**2) * (1 - 1e-12)
    count = int(torch.searchsorted(running, wanted)) + 1
    return torch.bincount(layer[order[: min(count, len(order))]], minlength=len(full)).tolist()


def _fitting(costs: Tensor, room: float) -> Tensor:
    """Which of the costs, in this order, fit: all up to the first that does not, and smaller ones behind it as long as there is room."""
    taken = torch.cumsum(costs, 0) <= room
    left = room - float(costs[taken].sum())
    smallest = float(costs.min())
    for at in (~taken).nonzero().flatten().tolist():
        if left < smallest:
            break
        if costs[at] <= left:
            taken[at] = True
            left -= float(costs[at])
    return taken


def _prefixes(layers: Tensor, taken: Tensor, count: int) -> list[int]:
    return torch.bincount(layers[taken], minlength=count).tolist()


def show(budget: Budget) -> str:
    """As a report says it."""
    said: Mapping[str, str] = {
        "exact": "exact",
        "rank": f"at most rank {budget.amount:g}",
        "energy": f"{100 * budget.amount:g} % of the energy",
        "error": f"an error of at most {100 * budget.amount:g} %",
        "size": f"{budget.amount / 1e6:g} MB",
    }
    return said[budget.kind]
