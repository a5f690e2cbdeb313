"""Several adapters on one weight. Neighbours that are plain low-rank products go in as one product, everything else in its turn.

sum c_i s_i up_i @ down_i = [c_1 s_1 up_1 | c_2 s_2 up_2 | ...] @ [down_1; down_2; ...], exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from .adapters import Adapter
from .adapters.dense import within
from .adapters.matrices import RowMap, add_product_

# (coefficient, adapter).
Term = tuple[float, Adapter]


def apply_all_(weight: Tensor, terms: Iterable[Term], dtype: torch.dtype, rows: RowMap | None = None) -> Tensor:
    """Turns ``weight`` into W' in place and returns it (a new tensor only where an adapter has a ``shape_after``).

    As ``Adapter.apply_`` on each term in order, for any float dtype and memory layout; dtype and rows are as there.
    """
    # All that follow a padding were made for this shape.
    shape = weight.shape
    for is_product, run in groupby(terms, key=lambda term: term[1].is_product):
        if is_product:
            up, down, scale = joined(list(run), torch.promote_types(weight.dtype, dtype))
            add_product_(within(weight, shape), up if rows is None else rows(up), down, scale)
        else:
            for coefficient, adapter in run:
                if adapter.shape_after is None:
                    adapter.apply_(within(weight, shape), coefficient, dtype, rows)
                else:
                    weight = adapter.apply_(weight, coefficient, dtype, rows)
    return weight


def joined(products: Sequence[Term], dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    """(up [out, R], down [R, in * kernel], scale) with scale * up @ down the sum of coefficient * delta.

    The scales are folded into the smaller of the two factors, in at least single precision; one product keeps its factors as they are.
    """
    wide = torch.promote_types(dtype, torch.float32)
    ups, downs, own = zip(*(adapter.product(wide) for _, adapter in products), strict=True)
    scales = [coefficient * scale for (coefficient, _), scale in zip(products, own, strict=True)]
    if len(ups) == 1:
        return ups[0], downs[0], scales[0]
    up, down = torch.cat(ups, 1), torch.cat(downs, 0)
    ranks = [len(factor) for factor in downs]
    for scale, columns, lines in zip(scales, up.split(ranks, 1), down.split(ranks, 0), strict=True):
        (columns if up.numel() <= down.numel() else lines).mul_(scale)
    return up, down, 1.0
