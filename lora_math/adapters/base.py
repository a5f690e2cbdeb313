"""What every adapter can do. The formulas themselves live one to a file beside this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..energy import sum_of_squares
from ..errors import StrataError
from ..layer import Layer
from ..low_rank import LowRank, singular_values_of
from .matrices import RowMap, product_spectrum_work
from .stored import KOHYA, Parts, Rule


@dataclass(frozen=True, eq=False)
class Adapter:
    """A change of one weight, as one algorithm describes it.

    Weights are [out, in] or [out, in / groups, *kernel]. Every field is a tensor, a number, a string, None, a tuple of those or another
    adapter, so that ``record`` can hand an adapter through ComfyUI, which moves nested tuples of tensors between devices.
    """

    name: ClassVar[str]
    # File suffix -> role. A role that ends in "*" below stands for any PEFT adapter name: ".lora_A.*.weight".
    suffixes: ClassVar[Mapping[str, str]] = {}

    # Roles that say nothing without each other.
    together: ClassVar[tuple[tuple[str, ...], ...]] = ()
    # Style -> role -> the suffix that ``write`` gives it. A style that is missing here cannot hold this adapter.
    spelled: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> Adapter | None:
        """The adapter in these tensors, with the roles it used removed from ``parts``; None when they hold none of this kind."""
        raise NotImplementedError

    @classmethod
    def lacks(cls, roles: Collection[str]) -> str | None:
        """Why ``parse`` finds nothing in these roles although some are its own: "lora_up without lora_down"; None when none lacks."""
        for group in cls.together:
            here = [role for role in group if role in roles]
            if here and len(here) < len(group):
                return f"{' and '.join(here)} without {' and '.join(role for role in group if role not in roles)}"
        return None

    def forms(self) -> Iterator[str]:
        """The algorithm's name, then names for what is rare in this form of it: what programs read in different ways."""
        yield self.name

    def unscaled(self) -> Adapter:
        """The same change with no scale beside the tensors: multiplied into one of them, in at least single precision."""
        return self

    def written(self) -> tuple[Parts, Rule]:
        """What ``parse`` makes this adapter from: (role -> tensor, what is said beside them)."""
        raise StrataError(f"{self.name} is never stored in a file")

    def write(self, style: str) -> tuple[Parts, Rule]:
        """The inverse of reading a module of a file: (suffix -> tensor, what its header or configuration must say beside them).

        style: KOHYA, with alpha as a float32 tensor; or PEFT, which has no place for alpha that all readers look at: there the scale is
        multiplied into a factor. Raises StrataError where the style has no spelling for what this adapter holds.
        """
        parts, rule = (self if style == KOHYA else self.unscaled()).written()
        spelling = self.spelled.get(style, {})
        unknown = [role for role in parts if role not in spelling]
        if unknown:
            raise StrataError(f"{self.name} with {' and '.join(unknown)} cannot be written as {style} does")
        tensors = {spelling[role]: tensor for role, tensor in parts.items()}
        if style == KOHYA:
            if rule.alpha is not None:
                tensors[".alpha"] = torch.tensor(rule.alpha, dtype=torch.float32)
            rule = rule._replace(alpha=None)
        return tensors, rule

    def write_bias(self) -> tuple[Parts, Rule]:
        """As ``write``, in every style, for a change of the bias of a layer."""
        raise StrataError(f"{self.name} on a bias cannot be written")

    @property
    def rank(self) -> int | None:
        """Rank of the delta as trained, None where the word has no meaning."""
        return None

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        """(out, in * kernel) of the weight it was trained for, None where the tensors do not say."""
        return None

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """The weight's shape as far as the tensors tell it: with the kernel where they are stored so, else ``matrix_shape``."""
        return self.matrix_shape

    @property
    def shape_after(self) -> tuple[int, ...] | None:
        """Shape of the patched weight where it differs from the base weight's, else None."""
        return None

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        """Why this adapter cannot change a weight of this shape, or None when it can."""
        raise NotImplementedError

    def meeting(self, shape: tuple[int, ...], is_bias: bool = False) -> Adapter:
        """What this adapter is on a weight, or a bias, of this shape: itself, but for what may replace one of another shape."""
        return self

    def bias_adapter(self) -> Adapter | None:
        """What the same training did to the layer's bias, where it has one and the change follows from the weight's; else None."""
        return None

    @property
    def reach(self) -> float:
        """No number of the change at strength 1 is larger than this; infinity where only computing it would tell."""
        return math.inf

    def reach_within(self, largest: float) -> float:
        """``reach``, or a larger number that is quicker to have: no number of the file that it was read from is larger than ``largest``."""
        return self.reach

    @property
    def without_norms(self) -> Adapter:
        """What this adapter adds before it scales the sum to norms of its own (DoRA); itself where it has none."""
        return self

    @property
    def is_untrained(self) -> bool:
        """Whether its factors make no change at all. Of an adapter over another one, that one."""
        return self.reach == 0

    @property
    def is_idle(self) -> bool:
        """Whether it changes no weight, whatever that is, where that is known at once: nothing was trained, or its alpha is 0."""
        return False

    def squared_norm(self, shape: tuple[int, ...]) -> float | None:
        """||delta W||_F^2 at strength 1 for a weight of this shape; None where it depends on W itself (OFT, IA3).

        In single precision: all its terms belong to one sum of squares, and an editor needs three digits. DoRA counts what it adds
        before it rescales.
        """
        return None if self.needs_weight else sum_of_squares(self.delta(torch.empty(shape), 1.0, torch.float32))

    def cut(self, start: int, length: int, total: int) -> Adapter | None:
        """The part of this adapter, made for a weight of ``total`` rows, that changes ``length`` of them from ``start`` on.

        None where a part of the change cannot be had without the whole weight (OFT). What comes out may await something.
        """
        return None if self.needs_weight or self.shape_after is not None else Rows(self, start, length, total)

    # Whether it needs to know something of other weights of the model first: its norms are over rows of several weights.
    awaits: ClassVar[bool] = False

    def columns(self, weight: Tensor) -> Tensor:
        """What an adapter that awaits it has to know of each of the weights."""
        raise NotImplementedError

    def knowing(self, beyond: Tensor) -> Adapter:
        """The adapter that knows the sum of ``columns`` of the other weights."""
        raise NotImplementedError

    # Whether it is stored as a difference from a part of the weight that it was trained on, and has to be told that part (T-LoRA).
    began_in_weight: ClassVar[bool] = False

    # Whether the delta depends on W itself, not only on its shape.
    needs_weight: ClassVar[bool] = False

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        """W' - W at ``strength``, shaped as ``weight``, computed in ``dtype``."""
        raise NotImplementedError

    def apply_(self, weight: Tensor, strength: float, dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
        """Turns ``weight`` into W' in place and returns it (a new tensor only where ``shape_after`` is not None).

        dtype: what to compute the delta in; weight: any float dtype, contiguous or a narrowed view; rows: the order of the model's
        rows, where it is not that of the weight the adapter was trained on.
        """
        if rows is None:
            return weight.add_(self.delta(weight, strength, dtype))
        return weight.add_(rows(self.delta(rows(weight) if self.needs_weight else weight, strength, dtype)))

    # Whether strength s makes s times the change of strength 1.
    is_linear: ClassVar[bool] = True
    # Whether the change is scale * up @ down and nothing of the layer but its input is looked at: neighbours of that kind are one product.
    is_product: ClassVar[bool] = False

    def product(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, float]:
        """(up [out, R], down [R, in / groups * kernel], scale) whose scale * up @ down is the delta at strength 1.

        dtype: of the factors, None for their own. Only where ``is_product``.
        """
        raise NotImplementedError(f"{self.name} is no plain product")

    # Whether the change is another one at each step of a sampling (T-LoRA, TC-LoRA). Such an adapter is a product, and a number that
    # differs from step to step multiplies each of its rank columns. What all else here says of it is said with every one of these
    # numbers at 1.
    varies: ClassVar[bool] = False

    def columns_at(self, timestep: float) -> Tensor:
        """[R] float32 on the CPU: what multiplies each column of ``product``'s up at this moment; ``reach`` knows how large they get.

        timestep: how noisy the picture is, as trainers count it: from 1000, noise alone, down to 0. Only where ``varies``.
        """
        raise NotImplementedError(f"{self.name} is the same all the time")

    # Whether it adds something to what a layer computes whatever the layer's input is (TC-LoRA), which no weight can hold.
    adds_by_itself: ClassVar[bool] = False

    def offsets_at(self, timestep: float) -> Tensor:
        """[R] float32 on the CPU: what is added to each rank column, after ``columns_at`` has multiplied it. Only where
        ``adds_by_itself``. timestep: as in ``columns_at``."""
        raise NotImplementedError(f"{self.name} adds nothing by itself")

    def at(self, timestep: float) -> Adapter:
        """What this adapter is at one moment: one that does not vary. timestep: as in ``columns_at``."""
        return self

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """(up [out, R], down [R, in / groups * kernel]) whose product is the delta at strength 1, scale folded in, exactly.

        None where no such factors exist without knowing W, or where they would be larger than the delta itself.
        """
        return None

    @property
    def factor_rank(self) -> int | None:
        """The rank of ``factors``, None where it gives none, without forming them."""
        return None

    def low_rank(self, weight: Tensor | None = None) -> LowRank | None:
        """The delta at strength 1 as an exact product of two factors in float64, or None where ``factors`` gives none.

        weight: W, for the adapters whose delta depends on it (GLoRA).
        """
        factors = self.factors(torch.float64)
        return None if factors is None else LowRank(*factors)

    @property
    def spectrum_work(self) -> float:
        """Multiplications that ``singular_values`` takes; infinity where it would need the weight, or the whole of a change."""
        rank, shape = self.factor_rank, self.matrix_shape
        return math.inf if rank is None or shape is None else product_spectrum_work(*shape, rank)

    @property
    def plain_product(self) -> tuple[Tensor, Tensor, float] | None:
        """(up [out, rank], down [rank, in * kernel], scale) as stored, with the singular values of scale * up @ down; None for others."""
        return None

    def singular_values(self) -> Tensor:
        """[k] of the change at strength 1 as a matrix [out, in * kernel], descending, float64 on the CPU; DoRA's before it rescales.
        Only where ``spectrum_work`` is finite. Exact down to 1e-7 of the largest."""
        return singular_values_of(*self.factors(torch.float64))

    has_forward: ClassVar[bool] = False
    # Whether ``prepared`` reads W's values, not only its shape.
    prepares_from_weight: ClassVar[bool] = False

    def prepared(self, weight: Tensor, groups: int = 1) -> Adapter | None:
        """An adapter with the same ``forward``, holding what that would otherwise compute anew on every call.

        weight: W; groups: of a convolution. None where this adapter has no forward form for such a layer: then it can only be applied
        to the weight.
        """
        return self if self.has_forward else None

    @property
    def observed(self) -> Tensor | None:
        """What ``prepared`` has read off the weight, small enough to be kept; None where it reads nothing but a shape."""
        return None

    def prepared_with(self, observed: Tensor, groups: int = 1) -> Adapter | None:
        """``prepared`` for the weight that this was once ``observed`` of, without that weight."""
        raise NotImplementedError(f"{self.name} reads nothing off a weight")

    def response(self, layer: Layer, x: Tensor) -> Tensor:
        """delta(x): what the delta at strength 1 adds to f(x). Only where it has a forward form and does not depend on W."""
        raise NotImplementedError(f"the response of {self.name} depends on the weight")

    def forward(self, layer: Layer, x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
        """f'(x) of the changed layer, given its input ``x`` and y = f(x), without ever forming W'. Computed in y's dtype.

        strength: a number, or a 0-dimensional tensor that may change between calls. Always of the form y + change, never a product
        with something near 1: in half precision that would round away as much as most adapters add.
        """
        return y + strength * self.response(layer, x)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """The same adapter over changed tensors (moved, cast)."""
        return from_record(_map(self.record(), change))

    def record(self) -> tuple:
        """(name, *fields) as nested tuples: the form in which an adapter travels through ComfyUI."""
        return self._record

    @cached_property
    def _record(self) -> tuple:
        values = (getattr(self, field.name) for field in fields(self))
        return (self.name, *(value.record() if isinstance(value, Adapter) else value for value in values))


_BY_NAME: dict[str, type[Adapter]] = {}


def register(cls: type[Adapter]) -> type[Adapter]:
    """Class decorator: makes ``from_record`` know the class by its name."""
    _BY_NAME[cls.name] = cls
    return cls


def from_record(record: tuple) -> Adapter:
    """The adapter that ``Adapter.record`` wrote."""
    name, *values = record
    return _BY_NAME[name](*(from_record(v) if _is_record(v) else v for v in values))


@register
@dataclass(frozen=True, eq=False)
class Rows(Adapter):
    """delta W = (delta of ``inner``)[start : start + length], for an ``inner`` whose change does not depend on the weight.

    inner: made for a weight of ``total`` rows. A LoRA for q, k and v as one layer meets a model that has the three apart.
    """

    inner: Adapter
    start: int
    length: int
    total: int

    name = "rows"

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def is_untrained(self) -> bool:
        return self.inner.is_untrained

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        shape = self.inner.matrix_shape
        return None if shape is None else (self.length, shape[1])

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        if not shape or shape[0] != self.length:
            return f"{self.length} of its rows belong here, this weight has {shape[0] if shape else 0}"
        return self.inner.mismatch((self.total, *shape[1:]))

    def delta(self, weight: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        # The inner adapter looks at its shape only.
        whole = weight.new_empty(()).expand(self.total, *weight.shape[1:])
        return self.inner.delta(whole, strength, dtype).narrow(0, self.start, self.length).reshape(weight.shape)

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        factors = self.inner.factors(dtype)
        return None if factors is None else (factors[0].narrow(0, self.start, self.length), factors[1])

    @property
    def factor_rank(self) -> int | None:
        return self.inner.factor_rank


def _is_record(value) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and isinstance(value[0], str) and value[0] in _BY_NAME


def _map(value, change):
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map(item, change) for item in value)
    return value
