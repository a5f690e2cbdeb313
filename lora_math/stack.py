"""Several adapters on one layer, run on its input: f'(x) = f(x) + what each of them adds, the weight untouched.

Neighbours that are low-rank products share one product down and one product up; where there are so many that the weight itself is less,
what they add is multiplied out. All strengths that may change lie in one small tensor (``Gains``), so that a new strength is a new
number there and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod

import torch
from torch import Tensor

from .adapters import Adapter
from .adapters.matrices import RowMap
from .extremes import largest
from .fuse import apply_all_, joined
from .gains import Gain, Gains, spread
from .layer import Layer

# How many times the numbers of a weight the factors on it must have to be multiplied out: less is not worth the multiplying.
WHOLE = 1.5

# (layer, x, y) -> y with one more change; it may write into y.
Step = Callable[[Layer, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LiveTerm:
    """coefficient * the adapter's change of a layer's weight, or of its bias.

    part: (axis, start, length) of the weight that it changes, None for all of it; rows: as in ``Adapter.apply_``;
    group: which of the strengths over time multiplies it.
    """

    coefficient: float
    adapter: Adapter
    part: tuple[int, int, int] | None = None
    rows: RowMap | None = None
    is_bias: bool = False
    group: int = 0

    def of(self, tensor: Tensor) -> Tensor:
        """The part of the whole weight or bias that it changes, a view, with the rows where the model has them."""
        return tensor if self.part is None else tensor.narrow(*self.part)

    def now(self, strength: float, timestep: float) -> LiveTerm:
        """What it is at one moment. strength: of its group; timestep: as in ``Adapter.columns_at``."""
        return replace(self, coefficient=self.coefficient * strength, adapter=self.adapter.at(timestep))

    def apply_(self, weight: Tensor, dtype: torch.dtype) -> None:
        apply_all_(self.of(weight), [(self.coefficient, self.adapter)], dtype, self.rows)


Prepare = Callable[[LiveTerm, Adapter, Sequence[LiveTerm]], Adapter]


def build(
    terms: Iterable[LiveTerm],
    layer: Layer,
    gains: Gains,
    device: torch.device,
    dtype: torch.dtype,
    prepare: Prepare | None = None,
    fixed: Collection[int] = (),
) -> list[Step]:
    """The steps that turn f(x) into f'(x), with their factors on ``device`` in ``dtype``.

    prepare: (term, its adapter on the device, the terms before it) -> ``adapter.prepared`` for the weight that the adapter meets;
    needed only where an adapter ``prepares_from_weight``; fixed: groups whose strength stays 1, everywhere. Biases come last: no other
    term depends on them.
    """
    terms = list(terms)
    weights = [term for term in terms if not term.is_bias]
    ready = [_ready(term, weights[:at], layer, device, prepare) for at, term in enumerate(weights)]
    steps: list[Step] = []
    for is_product, run in groupby(zip(weights, ready, strict=True), key=lambda pair: pair[1].is_product):
        if is_product:
            steps += _products(list(run), layer, gains, device, dtype, fixed)
        else:
            for term, adapter in run:
                gain = gains.add([term.coefficient], term.group)
                steps.append(Single(term, in_dtype(adapter, device, dtype), gain, tuple(steps)))
    if biases := [term for term in terms if term.is_bias]:
        steps.append(_Biases(biases, layer, gains, device))
    return steps


def run(steps: Iterable[Step], layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    """f'(x) from y = f(x). Writes into y where it can."""
    for step in steps:
        y = step(layer, x, y)
    return y


def nbytes(terms: Iterable[LiveTerm], dtype: torch.dtype) -> int:
    """An estimate of what the factors take once they are on the device."""
    count = 0

    def add(tensor: Tensor) -> Tensor:
        nonlocal count
        count += tensor.numel()
        return tensor

    for term in terms:
        term.adapter.map_tensors(add)
    return count * dtype.itemsize


def weight_before(term: LiveTerm, earlier: Iterable[LiveTerm], weight: Tensor) -> Tensor:
    """The weight that ``term``'s adapter meets: after the terms before it, its own part, in its own order of rows.

    weight: the layer's own, in float32 or wider; changed in place.
    """
    for other in earlier:
        other.apply_(weight, weight.dtype)
    part = term.of(weight)
    return part if term.rows is None else term.rows(part)


def _ready(term: LiveTerm, earlier, layer: Layer, device: torch.device, prepare: Prepare | None) -> Adapter:
    adapter = term.adapter.map_tensors(lambda tensor: tensor.to(device))
    if adapter.prepares_from_weight:
        if prepare is None:
            raise ValueError(f"{adapter.name} needs the weight")
        return prepare(term, adapter, earlier)
    shape = term.of(torch.empty(layer.weight_shape, device="meta"))
    return adapter.prepared(shape, layer.groups)


def in_dtype(adapter: Adapter, device: torch.device, dtype: torch.dtype) -> Adapter:
    """Matrices in ``dtype``. Vectors keep their own: they are small, and some are differences from 1."""
    return adapter.map_tensors(
        lambda tensor: tensor.to(device, dtype if tensor.ndim > 1 and tensor.is_floating_point() else tensor.dtype)
    )


def _products(
    pairs: list[tuple[LiveTerm, Adapter]], layer: Layer, gains: Gains, device, dtype, fixed: Collection[int]
) -> list[Step]:
    """Which is less follows from shapes alone, so that the same LoRAs are always the same sum."""
    may = [_may_be_multiplied_out(*pair, fixed) for pair in pairs]
    ready = [(term.coefficient, adapter) for (term, adapter), can in zip(pairs, may, strict=True) if can]
    numbers, outputs = prod(layer.weight_shape), layer.weight_shape[0]
    if sum(adapter.factor_rank for _, adapter in ready) * (outputs + numbers // outputs) < WHOLE * numbers:
        return [_factors(pairs, layer, gains, device, dtype)]
    up, down, scale = joined(ready, dtype)
    whole = _Whole((up @ down).mul_(scale).reshape(layer.weight_shape).to(device, dtype))
    others = [pair for pair, can in zip(pairs, may, strict=True) if not can]
    return [whole, _factors(others, layer, gains, device, dtype)] if others else [whole]


def _may_be_multiplied_out(term: LiveTerm, adapter: Adapter, fixed: Collection[int]) -> bool:
    is_plain = term.part is None and term.rows is None and not term.adapter.varies
    return is_plain and term.group in fixed and adapter.factor_rank is not None


class _Whole:
    """y += change @ x, of many products that are one strength for good."""

    def __init__(self, change: Tensor):
        self.change = change

    def __call__(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        added = layer.dense(x, self.change.to(x.dtype))
        return y.add_(added) if y.is_contiguous() and y.dtype == added.dtype else y + added.to(y.dtype)


def _factors(pairs: list[tuple[LiveTerm, Adapter]], layer: Layer, gains: Gains, device, dtype) -> Step:
    downs, parts, scales, groups, varying, adding = [], [], [], [], [], []
    inputs = layer.weight_shape[1]
    # Columns for the same outputs stand side by side.
    by_place = sorted(pairs, key=lambda pair: str(pair[0].part))
    for (part, rows), some in groupby(by_place, key=lambda pair: (pair[0].part, pair[0].rows)):
        ups = []
        for term, adapter in some:
            up, down, scale = adapter.product()
            if dtype == torch.float16 and up.dtype.itemsize >= 2 and up.dtype != dtype:
                up, down = _balanced(up, down)
            ups.append(up if rows is None else rows(up))
            # It reads some of the inputs: the others get zeros.
            if part is not None and part[0] == 1:
                whole = down.new_zeros(down.shape[0], inputs, down.shape[1] // part[2])
                whole[:, part[1] : part[1] + part[2]] = down.unflatten(1, (part[2], -1))
                down = whole.flatten(1)
            downs.append(down)
            own = range(len(scales), len(scales) + len(down))
            if term.adapter.varies:
                varying.append((own, term.adapter))
            if term.adapter.adds_by_itself:
                adding.append((own, _Offsets(term.adapter)))
            scales += [term.coefficient * scale] * down.shape[0]
            groups += [term.group] * down.shape[0]
        outputs = None if part is None or part[0] == 1 else slice(part[1], part[1] + part[2])
        parts.append((outputs, _side_by_side(ups, 1, device, dtype)))
    down = _side_by_side(downs, 0, device, dtype)
    offsets = None
    if adding:
        adds = {column for columns, _ in adding for column in columns}
        offsets = gains.add([scale * (at in adds) for at, scale in enumerate(scales)], groups, adding)
    return _Products(down, parts, gains.add(scales, groups, varying), groups, offsets)


class _Offsets:
    """An adapter's offsets as the numbers that vary in a ``Gains``."""

    def __init__(self, adapter: Adapter):
        self.columns_at = adapter.offsets_at


def _side_by_side(factors: Sequence[Tensor], axis: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """As ``torch.cat``, cast on the way: the factors of many LoRAs are gigabytes, which are not copied twice."""
    if len(factors) == 1:
        return factors[0].to(device, dtype).contiguous()
    shape = list(factors[0].shape)
    shape[axis] = sum(factor.shape[axis] for factor in factors)
    whole = torch.empty(shape, dtype=dtype, device=device)
    for place, factor in zip(whole.split([f.shape[axis] for f in factors], axis), factors, strict=True):
        place.copy_(factor)
    return whole


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with the size shared between the factors by a power of two, which rounds nothing: half precision ends at 65504."""
    high, low = largest(up), largest(down)
    if max(high, low) <= 256 or not high * low:
        return up, down
    shift = round(math.log2(low / high) / 2)
    return up * 2.0**shift, down * 2.0**-shift


class _Products:
    """y += up @ (gain * (down @ x) + offset), the ups of different parts of the output one after the other."""

    def __init__(
        self,
        down: Tensor,
        parts: list[tuple[slice | None, Tensor]],
        gain: Gain,
        groups: Sequence[int],
        offset: Gain | None = None,
    ):
        self.down = down
        self.gain, self.offset = gain, offset
        # Of each rank column.
        self.groups = list(groups)
        start, self.parts = 0, []
        for outputs, up in parts:
            self.parts.append((outputs, slice(start, start + up.shape[1]), up))
            start += up.shape[1]

    def __call__(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        h = layer.inner(x, self.down.to(x.dtype))
        h = h.mul_(self._shaped(self.gain, layer, h))
        if self.offset is not None:
            h = h.add_(self._shaped(self.offset, layer, h))
        if layer.where is not None:
            h = h.mul_(self._where(layer, layer.where).to(h.dtype))
        if layer.groups > 1:
            return self._grouped(layer, h, y)
        in_place = y.is_contiguous() and y.dtype == h.dtype
        target = y if in_place else torch.zeros(y.shape, dtype=h.dtype, device=y.device)
        add = self._conv if layer.is_conv else self._linear
        for outputs, columns, up in self.parts:
            add(h, target, outputs, columns, up.to(h.dtype))
        return y if in_place else y.add_(target)

    @staticmethod
    def _shaped(gain: Gain, layer: Layer, h: Tensor) -> Tensor:
        """Shaped so that it multiplies h, or is added to it."""
        values = gain.values
        values = values if layer.groups == 1 else torch.cat([values] * layer.groups, -1)
        if values.ndim == 1:
            return layer.channels(values)
        values = spread(values, len(h)).to(h.dtype)
        return values.reshape(len(h), -1, *[1] * (h.ndim - 2)) if layer.is_conv else _over_places(values, h)

    def _where(self, layer: Layer, where: Tensor) -> Tensor:
        """Shaped so that it multiplies h: a group's columns at the group's places, between the two factors."""
        one = len(set(self.groups)) == 1
        columns = where[self.groups[:1] if one else self.groups * layer.groups]
        return columns.movedim(0, 1 if layer.is_conv else -1)

    @staticmethod
    def _linear(h, y, outputs, columns, up) -> None:
        h, y = h.flatten(0, -2)[:, columns], y.view(-1, y.shape[-1])
        (y if outputs is None else y[:, outputs]).addmm_(h, up.T)

    @staticmethod
    def _conv(h, y, outputs, columns, up) -> None:
        h, y = h.flatten(2)[:, columns], y.view(*y.shape[:2], -1)
        (y if outputs is None else y[:, outputs]).baddbmm_(up.expand(len(h), -1, -1), h)

    def _grouped(self, layer: Layer, h: Tensor, y: Tensor) -> Tensor:
        """h [batch, groups * rank, *space]: a group's outputs read that group's part of it. Never in parts of the output."""
        ((_, _, up),) = self.parts
        by_group = up.to(h.dtype).unflatten(0, (layer.groups, -1))
        pieces = h.unflatten(1, (layer.groups, -1)).flatten(3)
        return y + torch.einsum("gor,bgrp->bgop", by_group, pieces).reshape(y.shape)


class Single:
    """One adapter by its own forward form, over the layer as the steps before it leave it."""

    def __init__(self, term: LiveTerm, adapter: Adapter, gain: Gain, earlier: tuple[Step, ...]):
        self.term, self.adapter, self.gain, self.earlier = term, adapter, gain, earlier

    def __call__(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        places = layer.over_places(self.term.group, y)
        if places is None:
            return self._changed(layer, x, y)
        before = y.clone()
        return before + places * (self._changed(layer, x, y) - before)

    def _changed(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        strength = self.gain.values[..., 0]
        if strength.ndim:
            strength = spread(strength[:, None], len(y)).reshape(-1, *[1] * (y.ndim - 1)).to(y.dtype)
        if self.earlier:
            whole = layer
            layer = replace(layer, base=lambda v: run(self.earlier, whole, v, whole.base(v)))
        part, rows = self.term.part, self.term.rows
        if part is None and rows is None:
            return self.adapter.forward(layer, x, y, strength)
        axis = 1 if layer.is_conv else -1
        # Such an adapter does not depend on W: only its shape is needed.
        if part is not None and part[0] == 1:
            shape = (layer.weight_shape[0], part[2], *layer.kernel)
            change = self.adapter.response(replace(layer, weight_shape=shape), x.narrow(axis, *part[1:]))
            return y + strength * (change if rows is None else _reordered(change, axis, rows))

        def mine(z: Tensor, along: int) -> Tensor:
            z = z if part is None else z.narrow(along, *part[1:])
            return z if rows is None else _reordered(z, along, rows)

        inner = replace(
            layer,
            base=lambda v: mine(layer.base(v), axis),
            weight_shape=(layer.weight_shape[0] if part is None else part[2], *layer.weight_shape[1:]),
            bias=None if layer.bias is None else mine(layer.bias, 0),
        )
        changed = self.adapter.forward(inner, x, mine(y, axis), strength)
        changed = changed if rows is None else _reordered(changed, axis, rows)
        if part is None:
            return changed
        y.narrow(axis, *part[1:]).copy_(changed)
        return y


class _Biases:
    """y += sum of gain * change of the bias."""

    def __init__(self, terms: list[LiveTerm], layer: Layer, gains: Gains, device: torch.device):
        bias = torch.zeros(layer.weight_shape[0]) if layer.bias is None else layer.bias
        bias = bias.to(device, torch.float32)
        changes = torch.zeros(len(terms), layer.weight_shape[0], device=device)
        for whole, term in zip(changes, terms, strict=True):
            rows = term.rows or (lambda tensor: tensor)
            adapter = term.adapter.map_tensors(lambda tensor: tensor.to(device))
            term.of(whole).copy_(rows(adapter.delta(rows(term.of(bias)), 1.0, torch.float32)))
        self.changes = changes
        self.groups = [term.group for term in terms]
        self.gain = gains.add([term.coefficient for term in terms], self.groups)

    def __call__(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        if layer.where is None:
            return y.add_(self._of_all(layer, y, self.gain.values @ self.changes))
        for at, group in enumerate(self.groups):
            change = self._of_all(layer, y, self.gain.values[..., at : at + 1] @ self.changes[at : at + 1])
            y = y + layer.over_places(group, y) * change
        return y

    @staticmethod
    def _of_all(layer: Layer, y: Tensor, change: Tensor) -> Tensor:
        """[out] or [samples, out], shaped so that it is added to y."""
        change = change.to(y.dtype)
        if change.ndim == 1:
            return layer.channels(change)
        change = spread(change, len(y))
        return change.reshape(*change.shape, *[1] * (y.ndim - 2)) if layer.is_conv else _over_places(change, y)


def _over_places(values: Tensor, h: Tensor) -> Tensor:
    """[batch, n] so that it meets h [batch, ..., n]."""
    return values.reshape(len(values), *[1] * (h.ndim - 2), -1)


def _reordered(z: Tensor, axis: int, rows: RowMap) -> Tensor:
    return rows(z.movedim(axis, 0)).movedim(0, axis)
