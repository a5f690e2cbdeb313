"""How large the numbers in a tensor are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

# Far beyond any strength that means something, far below what overflows where it meets a file's numbers.
FURTHEST = 1e6


# Numbers that are looked at in one call: few calls, and what is cast of them stays small.
CHUNK = 1 << 22
# Bytes between two tensors that one call runs over: an alpha and what a file is filled up with, not another tensor.
GAP = 64


def largest(tensor: Tensor) -> float:
    """The largest absolute value of real numbers: NaN where there is one, 0 for an empty tensor. One pass, one wait for a GPU."""
    if tensor.numel() == 0:
        return 0.0
    # fp8 and unsigned integers have no arithmetic of their own.
    if tensor.itemsize == 1 or not tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    low, high = torch.stack(torch.aminmax(tensor)).tolist()
    # A NaN is both its least and its greatest.
    return max(-low, high)


def largest_of_all(tensors: Iterable[Tensor]) -> float:
    """No number of the tensors is larger than this; NaN or infinity where one of them may hold such.

    For views into few blocks of memory, as a file's tensors are, at the speed of memory: neighbours of one type are one pass, and so is
    the little that lies between them.
    """
    found = 0.0
    for run in _runs(tensors):
        # A comparison with NaN is false.
        if not (number := largest(run)) <= found:
            found = number
        if not found < float("inf"):
            break
    return found


def _runs(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same numbers, and a few more, as few flat tensors."""
    spans: dict[tuple, list[tuple[int, int, Tensor]]] = {}
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.layout != torch.strided:
            yield tensor
        elif tensor.numel():
            start = tensor.storage_offset()
            key = tensor.get_device(), tensor.untyped_storage().data_ptr(), tensor.dtype
            spans.setdefault(key, []).append((start, start + tensor.numel(), tensor))
    for found in spans.values():
        # By place alone: tensors have no order.
        found.sort(key=lambda span: span[:2])
        first, stop, tensor = found[0]
        gap = GAP // tensor.itemsize
        for start, end, other in [*found[1:], (None, None, None)]:
            if start is not None and start <= stop + gap:
                stop = max(stop, end)
                continue
            yield from tensor.as_strided((stop - first,), (1,), first).split(CHUNK)
            first, stop, tensor = start, end, other
