"""What a file holds of one module: tensors by role, what is said beside them, and how both are spelled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from ..errors import StrataError

# The tensors of one module by role: {"lora_up": ..., "alpha": ...}.
Parts = dict[str, Tensor]
# A scale beyond this is no trainer's; it is far below what overflows.
MAX_SCALE = 1e6

# The two ways of spelling an adapter's tensors: with alpha as a tensor beside them (kohya, LyCORIS), or without (PEFT).
KOHYA, PEFT = "kohya", "peft"
STYLES = (KOHYA, PEFT)


class Rule(NamedTuple):
    """What a file says about one module besides the adapter's own tensors: ``alpha``, the header, or PEFT's adapter_config.json.

    alpha: the file's number, or None when it gives none: then the scale is 1 (never alpha = 1, which would divide by the rank).
    rank_stabilized: alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732) instead of alpha / rank (Hu et al. 2021).
    rank: the rank that the trainer divided by, where it differs from what the tensors show; None: read it off the tensors.
    factor: multiplies the scale (LyCORIS ``scalar``, see also ``quirks``).
    on_input: whether IA3 scales the layer's input; None where nothing says so.
    neumann_terms: terms of PEFT's Cayley-Neumann series in OFT, 0 for the exact Cayley transform; None where nothing says so.
    peft: whether PEFT wrote the file.
    least_rank, rank_exponent: how many rank columns of a T-LoRA act at the most noise, and how fast the others come.
    """

    alpha: float | None = None
    rank_stabilized: bool = False
    rank: int | None = None
    factor: float = 1.0
    on_input: bool | None = None
    neumann_terms: int | None = None
    peft: bool = False
    least_rank: int = 1
    rank_exponent: float = 1.0

    def scale(self, rank: int) -> float:
        """The factor in front of a product of this rank. Raises StrataError when it is NaN, infinite or beyond all sense."""
        rank, scale = self.rank or rank, self.factor
        if self.alpha is not None and rank != 0:
            scale *= self.alpha / (math.sqrt(rank) if self.rank_stabilized else rank)
        if not abs(scale) <= MAX_SCALE:
            raise StrataError(f"its scale would be {scale:g}" if self.alpha is None else f"its alpha is {self.alpha:g}")
        return scale


def alpha_for(scale: float, rank: int) -> Rule:
    """The rule that gives a product of this rank this scale; nothing is said where the scale is 1."""
    return Rule() if scale == 1 else Rule(alpha=scale * rank)


def lycoris_suffixes(algorithm: str, parts: Iterable[str]) -> dict[str, str]:
    """Suffix -> part, as LyCORIS spells both: ".hada_w1_a"; PEFT keeps its adapter's name behind the parameter's: ".hada_w1_a.default"."""
    return {f".{algorithm}_{part}{adapter}": f"{algorithm}_{part}" for part in parts for adapter in ("", ".*")}
