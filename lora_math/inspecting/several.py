"""Several LoRAs together: the angle between them, the directions that they share, and how strong their sum is.

All follows from inner products of the factors. Those of one weight are found once, at strength 1; strengths come in afterwards.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.change import Term, shape_of
from ..baking import Layer
from ..energy import upper_gram
from ..errors import StrataError
from ..low_rank import mirrored, square_root

# The part of a change whose directions are compared: those of its noise are not.
ENERGY = 0.9
# The most multiplications for one weight and for all.
LAYER_WORK, TOTAL_WORK = 2e10, 4e11
# The most numbers of the changes of one weight that are no product: half a gigabyte.
MULTIPLIED_OUT = 1 << 26
MAX_LORAS = 16
# Of a sum against its parts as if they had nothing in common, in energy; of shared directions against chance.
REINFORCES, CANCELS = 1.25, 0.8
COLLIDES, OVER_CHANCE = 0.15, 3.0


@dataclass(frozen=True, eq=False)
class Meeting:
    """What several LoRAs do to one weight, each at strength 1.

    at: their places among the LoRAs; gram: [n, n] inner products; overlap, chance: [n, n], the share of the directions that hold most of
    the energy which two have in common, mean of outputs and inputs (Hu et al. 2021, section 7.2), and what random directions would have;
    NaN where it is not known.
    """

    name: str
    module: str
    at: tuple[int, ...]
    gram: Tensor
    overlap: Tensor
    chance: Tensor


@dataclass(frozen=True, eq=False)
class Meetings:
    """layers: one for each weight; unknown: (module, why) of those whose change depends on the weight, or is too large to compare."""

    layers: tuple[Meeting, ...]
    unknown: tuple[tuple[str, str], ...]


def meet(layers: Sequence[Layer], tick: Callable[[], None] = lambda: None) -> Meetings:
    """layers: every weight with the terms of each LoRA. Raises nothing but what ``tick`` raises."""
    found, unknown, left = [], [], TOTAL_WORK
    for layer in layers:
        tick()
        terms = {at: _without_weight(of) for at, of in sorted(layer.terms.items())}
        try:
            work = _work(list(terms.values()))
            if work > min(LAYER_WORK, left):
                raise StrataError("too large to be compared here")
            left -= work
            found.append(_meeting(layer, terms))
        except StrataError as problem:
            unknown.append((layer.shown or layer.module, str(problem)))
    return Meetings(tuple(found), tuple(unknown))


def _without_weight(terms: Sequence[Term]) -> list[Term]:
    """DoRAs as what they add before they rescale."""
    return [(coefficient, adapter.without_norms) for coefficient, adapter in terms]


def _work(terms: Sequence[Sequence[Term]]) -> float:
    adapters = [adapter for of in terms for _, adapter in of]
    for adapter in adapters:
        if adapter.needs_weight or adapter.shape_after is not None:
            raise StrataError(f"{adapter.name} depends on the weight")
    size = max(math.prod(_matrix(shape_of(of))) for of in terms)
    ranks = [adapter.factor_rank for adapter in adapters]
    # These are multiplied out, and all at once in memory.
    if None in ranks:
        return math.inf if size * len(adapters) > MULTIPLIED_OUT else size * len(adapters) * 4.0
    return sum(_matrix(shape_of(terms[0]))) * sum(ranks) ** 2 / 2 + 20.0 * sum(rank**3 for rank in ranks)


def _meeting(layer: Layer, terms: dict[int, list[Term]]) -> Meeting:
    shapes = {_matrix(_shape(layer, of)) for of in terms.values()}
    if len(shapes) > 1:
        raise StrataError(f"it is {' and '.join(f'{out}x{columns}' for out, columns in sorted(shapes))}")
    for of in terms.values():
        for _, adapter in of:
            if (reason := adapter.mismatch(_shape(layer, of))) is not None:
                raise StrataError(reason)
    factors = [[adapter.factors(torch.float64) for _, adapter in of] for of in terms.values()]
    if all(pair is not None for of in factors for pair in of):
        ups = [
            torch.cat([up * c for (up, _), (c, _) in zip(of, t, strict=True)], 1)
            for of, t in zip(factors, terms.values(), strict=True)
        ]
        downs = [torch.cat([down for _, down in of]) for of in factors]
        return Meeting(layer.shown or layer.module, layer.module, tuple(terms), *_products(ups, downs))
    flat = torch.stack([_dense(_shape(layer, of), of).flatten() for of in terms.values()])
    nothing = torch.full((len(terms), len(terms)), math.nan, dtype=torch.float64)
    return Meeting(layer.shown or layer.module, layer.module, tuple(terms), flat @ flat.T, nothing, nothing)


def _shape(layer: Layer, terms: Sequence[Term]) -> tuple[int, ...]:
    return layer.shape if layer.shape is not None else shape_of(terms)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """(out, in * kernel); a single number is 1x1. Raises StrataError for sizes that a damaged file makes up."""
    if any(size < 0 for size in shape):
        raise StrataError("it has a negative size")
    return (shape[0] if shape else 1), math.prod(shape[1:])


def _dense(shape: tuple[int, ...], terms: Sequence[Term]) -> Tensor:
    return sum(adapter.delta(torch.empty(shape), c, torch.float64) for c, adapter in terms)


def _products(ups: Sequence[Tensor], downs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(gram, overlap, chance) of the products up [out, r_i] @ down [r_i, in]."""
    ranks = [up.shape[1] for up in ups]
    outer = _blocks(mirrored(upper_gram(torch.cat(ups, 1).T, torch.float64)), ranks)
    inner = _blocks(mirrored(upper_gram(torch.cat(downs), torch.float64)), ranks)
    count, sizes = len(ups), (ups[0].shape[0], downs[0].shape[1])
    gram = torch.stack([torch.stack([(outer[i][j] * inner[i][j]).sum() for j in range(count)]) for i in range(count)])
    overlap, chance = torch.full_like(gram, math.nan), torch.full_like(gram, math.nan)
    bases = [_directions(outer[i][i], inner[i][i]) for i in range(count)]
    for i in range(count):
        for j in range(count):
            if bases[i] is not None and bases[j] is not None:
                (left_i, right_i), (left_j, right_j) = bases[i], bases[j]
                few, many = sorted((left_i.shape[1], left_j.shape[1]))
                shared = (left_i.T @ outer[i][j] @ left_j).square().sum() + (
                    right_i.T @ inner[i][j] @ right_j
                ).square().sum()
                overlap[i, j] = shared / (2 * few)
                chance[i, j] = (many / sizes[0] + many / sizes[1]) / 2
    return gram, overlap, chance


def _blocks(matrix: Tensor, sizes: Sequence[int]) -> list[list[Tensor]]:
    return [list(rows.split(list(sizes), 1)) for rows in matrix.split(list(sizes))]


def _directions(outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor] | None:
    """([r, k], [r, k]): the left singular vectors that hold most of the energy are up @ the first, the right ones down^T @ the second.

    outer: up^T up; inner: down down^T. None where the product is zero.
    """
    if not outer.numel():
        return None
    root = square_root(inner)
    values, vectors = torch.linalg.eigh(root.T @ outer @ root)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if not values[0] > 0:
        return None
    kept = torch.cumsum(values, 0)
    count = int(torch.searchsorted(kept, ENERGY * kept[-1])) + 1
    values, vectors = values[:count], vectors[:, :count]
    left = root @ vectors / values.sqrt()
    return left, outer @ left / values.sqrt()


@dataclass(frozen=True, eq=False)
class Together:
    """Some weights, at given strengths. gram: [N, N] inner products; met: [N, N], whether two change a weight in common; overlap, chance:
    as of a meeting, mean weighted by energy."""

    gram: Tensor
    met: Tensor
    overlap: Tensor
    chance: Tensor

    @property
    def norms(self) -> Tensor:
        """[N] of each LoRA alone."""
        return self.gram.diagonal().clamp_min(0).sqrt()

    @property
    def norm(self) -> float:
        """Of all of them applied."""
        return math.sqrt(max(float(self.gram.sum()), 0.0))

    @property
    def cosines(self) -> Tensor:
        """[N, N]; NaN where one of the two changes nothing here, or they change no weight in common."""
        norms = self.norms
        scale = torch.outer(norms, norms)
        return torch.where((scale > 0) & self.met, self.gram / scale, math.nan).clamp(-1, 1)

    @property
    def ratio(self) -> float:
        """The sum's norm over the strongest one's; 0 where none changes anything."""
        most = float(self.norms.max()) if len(self.norms) else 0.0
        return self.norm / most if most else 0.0

    @property
    def interference(self) -> float:
        """Energy of the sum over the sum of energies: 1 for LoRAs that have nothing in common, N for N equal ones, 0 for opposites."""
        alone = float(self.gram.diagonal().sum())
        return float(self.gram.sum()) / alone if alone > 0 else 1.0

    @property
    def kind(self) -> str:
        """ "alone", "reinforce", "cancel", "collide" (not aligned, but in the same directions), or "apart"."""
        if int((self.norms > 0).sum()) < 2:
            return "alone"
        if self.interference >= REINFORCES:
            return "reinforce"
        if self.interference <= CANCELS:
            return "cancel"
        over = (self.overlap >= COLLIDES) & (self.overlap >= OVER_CHANCE * self.chance)
        return "collide" if bool(over.fill_diagonal_(False).any()) else "apart"


def together(meetings: Sequence[Meeting], strengths: Sequence[Sequence[float]], count: int) -> Together:
    """strengths: of each meeting, one for each of its LoRAs; count: LoRAs."""
    gram, weights, overlap, chance = (torch.zeros(count, count, dtype=torch.float64) for _ in range(4))
    met = torch.zeros(count, count, dtype=torch.bool)
    for meeting, given in zip(meetings, strengths, strict=True):
        c = torch.tensor(given, dtype=torch.float64)
        at = torch.tensor(meeting.at)
        place = at[:, None], at
        gram[place] += meeting.gram * torch.outer(c, c)
        met[place] = True
        lengths = meeting.gram.diagonal().clamp_min(0).sqrt() * c.abs()
        weight = torch.where(meeting.overlap.isnan(), 0.0, torch.outer(lengths, lengths))
        weights[place] += weight
        overlap[place] += weight * meeting.overlap.nan_to_num()
        chance[place] += weight * meeting.chance.nan_to_num()
    # Where nothing is known this is NaN.
    return Together(gram, met, overlap / weights, chance / weights)


_DIGITS = re.compile(r"[0-9]+")


def epochs(names: Sequence[str]) -> list[list[int]]:
    """Which names are of one training at several times: they differ in one number, or lack it (the last one), in its order; three or more.

    >>> epochs(["cat-000020.safetensors", "dog.safetensors", "cat-000010.safetensors", "cat.safetensors"])
    [[2, 0, 3]]
    """
    groups: dict[tuple[str, str], dict[float, int]] = {}
    stems = [os.path.splitext(name)[0] for name in names]
    for at, stem in enumerate(stems):
        for match in list(_DIGITS.finditer(stem))[-4:]:
            groups.setdefault((stem[: match.start()], stem[match.end() :]), {})[float(match[0][:15])] = at
    for (before, after), group in groups.items():
        for at, stem in enumerate(stems):
            if before and stem == before.rstrip("-_. ") + after:
                group[math.inf] = at
    found, taken = [], set()
    for group in sorted(groups.values(), key=len, reverse=True):
        row = [at for _, at in sorted(group.items())]
        if len(row) >= 3 and not taken.intersection(row):
            found.append(row)
            taken.update(row)
    return found
