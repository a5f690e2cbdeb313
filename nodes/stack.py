"""LORA_STACK, the list of LoRAs that loaders of many packs hand to each other.

By convention a list of tuples of exactly three, (lora_name, strength_model, strength_clip), which others unpack. What only this pack knows
rides on a subclass of such a tuple.
"""

from __future__ import annotations

import contextlib
import math
import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..lora_math.errors import StrataError
from .comfy.lora_names import locate
from .fitting.block_spec import BlockSpec

if TYPE_CHECKING:
    from ..lora_math.tags import LoraTag
    from .comfy.library import Lora


class StackEntry(tuple):
    """(lora_name, strength_model, strength_clip) with ``block_weights``, ``keyframes`` and ``mask`` beside it; ``lora`` where it has no
    file; ``low``: (file, strength) for the low-noise expert of a pair of models, None where the row does not say it."""

    block_weights: BlockSpec | None
    keyframes: object | None
    lora: Lora | None
    mask: object | None
    low: tuple[str, float] | None

    def __new__(
        cls,
        name: str,
        strength_model: float,
        strength_clip: float,
        block_weights: BlockSpec | None = None,
        keyframes: object | None = None,
        lora: Lora | None = None,
        mask: object | None = None,
        low: tuple[str, float] | None = None,
    ):
        entry = super().__new__(cls, (name, strength_model, strength_clip))
        entry.block_weights, entry.keyframes, entry.lora, entry.mask = block_weights, keyframes, lora, mask
        entry.low = low
        return entry

    def renamed(self, name: str, strength_model: float, strength_clip: float, low: tuple[str, float] | None = None):
        """Another file at other strengths, everything else as here."""
        return StackEntry(
            name, strength_model, strength_clip, self.block_weights, self.keyframes, self.lora, self.mask, low
        )

    def masked(self, where) -> StackEntry:
        """The same in a part of the picture."""
        name, *strengths = self
        return StackEntry(name, *strengths, self.block_weights, self.keyframes, self.lora, where, self.low)

    @property
    def is_open(self) -> bool:
        """Whether ``opened`` has it at once, as far as can be told without looking at the disk."""
        from .comfy.library import CACHE

        return self.lora is not None or CACHE.holds(self[0])

    def opened(self) -> Lora:
        """Raises StrataError for a file that cannot be read."""
        # What reads files is loaded with the first of them, and not with every start of ComfyUI.
        from .comfy.library import CACHE

        return CACHE.get(self[0]) if self.lora is None else self.lora


def of_tag(tag: LoraTag) -> StackEntry:
    """The LoRA that a prompt's tag or a stack's row names, of a pair the high-noise half. Raises StrataError where the halves of a pair are
    not found."""
    blocks = None if tag.block_weights is None else BlockSpec(tag.block_weights)
    name, low = tag.name, None
    if tag.strength_low is not None:
        from .library.halves import halves

        name, low_name = halves(tag.name)
        low = low_name, tag.strength_low
    return StackEntry(name, tag.strength_model, tag.strength_clip, blocks, tag.time, mask=tag.region, low=low)


def with_listed_names(entries: Iterable[StackEntry]) -> list[StackEntry]:
    """The stack as it goes on to other packs, which know files only by the names that this machine lists."""
    found = []
    for entry in entries:
        name, *strengths = entry
        if entry.lora is None:
            # Whoever applies it says what is wrong.
            with contextlib.suppress(StrataError):
                name = locate(name).name
        found.append(entry.renamed(name, *strengths, entry.low))
    return found


def read_stack(value) -> list[StackEntry]:
    """The entries of whatever a pack puts on the wire: None, "None" rows, lists, tuples. Raises StrataError when it is no stack."""
    if value is None:
        return []
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, dict)):
        raise StrataError(f"The lora_stack input takes a LORA_STACK, not a {type(value).__name__}.")
    entries = []
    for row in value:
        if row is None:
            continue
        try:
            name, strength_model, strength_clip = row
            strengths = float(strength_model), float(strength_clip)
        except (TypeError, ValueError, OverflowError):
            raise StrataError(_not_a_row(row)) from None
        if name in (None, "None", ""):
            continue
        if not isinstance(name, str) or not all(map(math.isfinite, strengths)):
            raise StrataError(_not_a_row(row))
        # What another pack's rows call by these names is not ours to read.
        own = isinstance(row, StackEntry)
        entries.append(row.renamed(name, *strengths, row.low) if own else StackEntry(name, *strengths))
    return entries


def _not_a_row(row) -> str:
    return f"The LORA_STACK holds {reprlib.repr(row)}, which is not (name, strength_model, strength_clip)."
