"""T-LoRA (Soboleva et al. 2025, arXiv 2507.05964), as LyCORIS (``modules/tlora.py``) and the paper's own code train it.

delta W(t) = scale * sum over j < r(t) of (l_j p_j q_j - l0_j p0_j q0_j): the noisier the picture, the fewer rank columns act, and what
they were before the training is taken off. r(t) = floor(((1000 - t) / 1000) ** exponent * (rank - least)) + least.

The paper's code stores l0, p0 and q0. LyCORIS does not: they are singular values and vectors of the weight that it was trained on, the
largest (``principal``), the smallest (``last``) or those between, and have to be found in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import StrataError
from .base import Adapter, register
from .lora import LoRA
from .matrices import show, wide
from .stored import Parts, Rule

TRAINED, BEFORE = ("p_layer", "q_layer", "lambda_layer"), ("base_p", "base_q", "base_lambda")
# How much of its directions, beyond what chance gives, must lie where the training is said to have begun.
OVERLAP = 0.5


class Beginning(NamedTuple):
    """Where the training of a layer began: up @ down, column by column, up [out, rank] with the singular values in it, down [rank, in]."""

    up: Tensor
    down: Tensor


@register
@dataclass(frozen=True, eq=False)
class TLoRA(LoRA):
    """up [out, 2 rank(, 1...)] and down [2 rank, in(, 1...)]: column j and column rank + j are one of the rank columns that come and go.

    least, exponent: of r(t). All that does not look at the time says what the whole rank does.
    """

    least: int = 1
    exponent: float = 1.0

    name = "T-LoRA"
    varies = True
    suffixes = {
        ".p_layer.weight": "p_layer",
        ".q_layer.weight": "q_layer",
        ".lambda_layer": "lambda_layer",
        ".base_p.weight": "base_p",
        ".base_q.weight": "base_q",
        ".base_lambda": "base_lambda",
        # The paper's code, in diffusers' attention processors.
        "_lora.p_layer.weight": "p_layer",
        "_lora.q_layer.weight": "q_layer",
        "_lora.lambda_layer": "lambda_layer",
        "_lora.base_p.weight": "base_p",
        "_lora.base_q.weight": "base_q",
        "_lora.base_lambda": "base_lambda",
    }
    together = (TRAINED, BEFORE)
    spelled = {}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> TLoRA | TLoRAFromWeight | None:
        if not all(role in parts for role in TRAINED):
            return None
        p, q, values = (parts.pop(role) for role in TRAINED)
        trained = _checked(p, q, values)
        rank = len(values.flatten())
        found = TLoRAFromWeight(*trained, rule.scale(rank), min(rule.least_rank, rank), rule.rank_exponent)
        if not all(role in parts for role in BEFORE):
            return found
        p0, q0, values0 = _checked(*(parts.pop(role) for role in BEFORE))
        if (p0.flatten(1).shape, q0.flatten(1).shape) != (p.flatten(1).shape, q.flatten(1).shape):
            raise StrataError(
                f"it began with factors of {show(p0.shape)} and {show(q0.shape)}, and has {show(p.shape)} and {show(q.shape)}"
            )
        return found.begun(Beginning(p0.flatten(1) * values0, q0.flatten(1)))

    @property
    def rank(self) -> int:
        return self.down.shape[0] // 2

    def written(self) -> tuple[Parts, Rule]:
        raise StrataError("T-LoRA is another LoRA at each step of a sampling, which no plain file can hold")

    def ranks_at(self, timestep: float) -> int:
        """How many rank columns act. timestep: as in ``columns_at``."""
        share = min(max((1000 - timestep) / 1000, 0.0), 1.0) ** self.exponent
        return min(int(share * (self.rank - self.least)) + self.least, self.rank)

    def columns_at(self, timestep: float) -> Tensor:
        return (torch.arange(self.rank) < self.ranks_at(timestep)).float().repeat(2)

    def at(self, timestep: float) -> LoRA:
        here = self.columns_at(timestep).bool()
        return LoRA(self.up[:, here.to(self.up.device)], self.down[here.to(self.down.device)], None, self.scale)


@register
@dataclass(frozen=True, eq=False)
class TLoRAFromWeight(Adapter):
    """What LyCORIS stores: p [out, rank(, 1...)], q [rank, in(, 1...)], values [rank]; ``begun`` makes a T-LoRA of it."""

    p: Tensor
    q: Tensor
    values: Tensor
    scale: float = 1.0
    least: int = 1
    exponent: float = 1.0

    name = "T-LoRA of LyCORIS"
    varies = True
    needs_weight = True
    began_in_weight = True

    def forms(self) -> Iterator[str]:
        yield TLoRA.name

    @property
    def rank(self) -> int:
        return self.q.shape[0]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return self.p.shape[0], prod(self.q.shape[1:])

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        out, columns = self.matrix_shape
        if len(shape) < 2 or out != shape[0] or columns != prod(shape[1:]):
            return f"it changes a {out}x{columns} weight, this one is {show(shape)}"
        return None

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        """weight: the one that it was trained on."""
        return self.begun(beginning(weight.flatten(1), self)).delta(weight, strength, dtype)

    def begun(self, before: Beginning) -> TLoRA:
        """The T-LoRA that began there.

        l p q - p0 q0 as (l p - p0) q + p0 (q - q0): the two products nearly cancel each other, and in half precision their difference
        would be rounding alone.
        """
        precise = torch.promote_types(wide(self.q.dtype), wide(before.down.dtype))
        p, q = self.p.to(precise).flatten(1) * self.values.to(precise), self.q.to(precise).flatten(1)
        p0, q0 = before.up.to(p), before.down.to(q)
        # A pair of singular vectors is one with both signs turned.
        signs = torch.where((q * q0).sum(1) < 0, -1.0, 1.0).to(p)
        p0, q0 = p0 * signs, q0 * signs[:, None]
        up, down = torch.cat([p - p0, p0], 1), torch.cat([q, q - q0])
        kernel = [1] * (self.q.ndim - 2)
        # Nobody has trained in more than single precision; the difference above is what needs it.
        kept = wide(self.q.dtype)
        up, down = up.to(kept).reshape(*up.shape, *kernel), down.to(kept).reshape(*down.shape, *kernel)
        return TLoRA(up, down, None, self.scale, self.least, self.exponent)


def beginning(weight: Tensor, adapter: TLoRAFromWeight, known: Directions | None = None) -> Beginning:
    """Where the training of a layer began, found in its weight [out, in] before any training. Raises StrataError where that is not one of
    the three slices of its singular vectors that LyCORIS begins with.

    known: what ``directions`` found for this weight and adapter.
    """
    found = directions(weight, adapter) if known is None else known
    weight = weight.double()
    vectors = found.vectors.to(weight)
    if found.on_input:
        return Beginning(weight @ vectors.T, vectors)
    down = vectors @ weight
    sizes = torch.linalg.vector_norm(down, dim=1)
    return Beginning(vectors.T * sizes, down / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)[:, None])


class Directions(NamedTuple):
    """vectors [rank, in] where on_input, else [rank, out]: singular vectors of a weight on its smaller side, in the order of its rank
    columns; rows of zeros where the weight has fewer. slice: principal, last or middle."""

    vectors: Tensor
    on_input: bool
    slice: str


def directions(weight: Tensor, adapter: TLoRAFromWeight) -> Directions:
    """Of a weight [out, in], float64 on the weight's device. Raises StrataError as ``beginning`` does. The work is that of all
    eigenvectors of the smaller Gram matrix: half a second for 1280, a quarter of a minute for 3072, on one core."""
    weight = weight.double()
    if not torch.isfinite(weight).all():
        raise StrataError("the model's weight holds NaN or infinity there")
    out, inputs = weight.shape
    on_input = out >= inputs
    gram = weight.T @ weight if on_input else weight @ weight.T
    # Ascending; the singular vectors of the weight in the order of its singular values, as rows.
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1).T
    rank, count = adapter.rank, len(vectors)
    starts = {"principal": 0, "last": max(0, count - rank), "middle": max(0, (count - rank) // 2)}
    p, q = (tensor.to(weight).flatten(1) for tensor in (adapter.p.flatten(1).T, adapter.q))
    best, most = "", -1.0
    for name, start in starts.items():
        some = vectors[start : start + rank]
        other = some @ (weight.T if on_input else weight)
        other = other / torch.linalg.vector_norm(other, dim=1, keepdim=True).clamp_min(1e-300)
        share = min(_share(q, some if on_input else other), _share(p, other if on_input else some))
        if share > most:
            best, most = name, share
    if most < OVERLAP:
        raise StrataError(
            f"it was not trained from this model's weights: only {100 * max(most, 0):.0f} % of its directions lie in one of the slices "
            "(principal, last, middle) that T-LoRA begins with, and what it began with is not in the file"
        )
    found = vectors[starts[best] : starts[best] + rank]
    return Directions(torch.cat([found, found.new_zeros(rank - len(found), found.shape[1])]), on_input, best)


def _share(rows: Tensor, directions: Tensor) -> float:
    """How much of the rows lies in the span of orthonormal directions, beyond what chance gives; 1 where these span everything."""
    chance = len(directions) / directions.shape[1]
    total = float(rows.square().sum())
    if chance >= 1 or not total:
        return 1.0
    inside = float((rows @ directions.T).square().sum()) / total
    return (inside - chance) / (1 - chance)


def _checked(p: Tensor, q: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With the values as a vector."""
    if min(p.ndim, q.ndim) < 2 or prod(p.shape[1:]) != q.shape[0] or values.numel() != q.shape[0]:
        raise StrataError(
            f"its factors ({show(p.shape)}, {show(values.shape)} and {show(q.shape)}) do not fit each other"
        )
    return p, q, values.flatten()
