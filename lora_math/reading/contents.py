"""The tensors of a safetensors file: read by several threads, every number looked at while it is still near the processor."""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..extremes import GAP, largest, largest_of_all
from .header import Header, TensorPlace
from .problems import CHANGED, LoraFileError

# No trained weight comes near this number.
MAX_NUMBER = 1e6
# Trainers write meaningless ones, infinity included, where nothing reads them.
ALPHA = ".alpha"
# Bytes from which on memory comes in large pages, where it can.
LARGE_PAGES = 4 << 20
# A disk and the pages of new memory keep no more threads busy.
THREADS = 4
# Bytes that a thread reads at a time: each wait for Python's lock may take milliseconds, so they are many.
LEAST_STRIPE, MOST_STRIPE = 4 << 20, 64 << 20


class Contents(NamedTuple):
    """tensors by key; largest: no number of theirs is larger, alphas apart; NaN or infinity where there is such."""

    tensors: dict[str, Tensor]
    largest: float


class Checked(NamedTuple):
    """What a look at every number finds. broken: keys of the tensors that hold a NaN, an infinity, or a number beyond MAX_NUMBER, which a
    product would turn into one; largest: no number is larger, infinity where that is not known."""

    broken: frozenset[str]
    largest: float


def check_numbers(tensors: Mapping[str, Tensor], known: Contents | None = None) -> Checked:
    """Looks at every number that can reach a weight, those of the whole file at once and tensor by tensor only where something is wrong.

    Alphas are left out: ``state_dict.parse`` refuses a meaningless one where an adapter reads it.
    known: tensors whose numbers were looked at while they were read.
    """
    if known is not None and known.largest <= MAX_NUMBER:
        seen = {id(tensor) for key, tensor in known.tensors.items() if _is_looked_at(key, tensor.dtype)}
        found = check_numbers({key: tensor for key, tensor in tensors.items() if id(tensor) not in seen})
        return Checked(found.broken, max(found.largest, known.largest))
    tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(ALPHA)}
    all_of_them = largest_of_all(tensor for tensor in tensors.values() if not tensor.is_complex())
    if all_of_them <= MAX_NUMBER:
        return Checked(frozenset(), all_of_them)
    floats = ((key, tensor) for key, tensor in tensors.items() if tensor.is_floating_point())
    return Checked(frozenset(key for key, tensor in floats if not largest(tensor) <= MAX_NUMBER), math.inf)


def read_tensors(path: str, file: BinaryIO, size: int, header: Header) -> Contents:
    """Views into one copy of the file's data, whose beginning ``file`` stands at. Raises LoraFileError.

    Read, not memory-mapped: a mapped file that is cut short meanwhile kills the process.
    """
    length = max((place.stop for place in header.tensors.values()), default=0)
    try:
        data = _memory(length)
    except (RuntimeError, MemoryError, OSError) as problem:
        raise LoraFileError(
            path, size, "this computer has not enough free memory for it", "Check that this is a LoRA file."
        ) from problem
    found = _fill(data, _Reader(file), _stripes(header.tensors, length))
    if found is None:
        raise LoraFileError(path, size, *CHANGED)
    return Contents({key: place.tensor(data) for key, place in header.tensors.items()}, found)


def _is_looked_at(key: str, dtype: torch.dtype) -> bool:
    """Whether a tensor's numbers are looked at while they are read: those that can reach a weight. Complex ones belong to no adapter."""
    return not key.endswith(ALPHA) and dtype is not torch.bool and not dtype.is_complex


class Run(NamedTuple):
    """Bytes ``start`` to ``stop`` of a file's data that are numbers of one type, with nothing or next to nothing between them."""

    dtype: torch.dtype
    start: int
    stop: int


class Stripe(NamedTuple):
    """What one thread reads at a time, and the numbers in it that it then looks at."""

    start: int
    stop: int
    runs: list[Run]


def _stripes(places: Mapping[str, TensorPlace], length: int) -> list[Stripe]:
    """The whole data in order, cut between numbers."""
    most = min(max(length // THREADS + 1, LEAST_STRIPE), MOST_STRIPE)
    found = [Stripe(0, 0, [])]
    for run in _cut(_runs(places), most):
        if run.stop - found[-1].start > most and found[-1].runs:
            found.append(Stripe(run.start, run.stop, []))
        found[-1].runs.append(run)
    starts = [stripe.start for stripe in found]
    return [
        Stripe(start, stop, stripe.runs)
        for stripe, start, stop in zip(found, starts, [*starts[1:], length], strict=True)
    ]


def _runs(places: Mapping[str, TensorPlace]) -> Iterator[Run]:
    """All numbers that can reach a weight, and a few more: what lies between two tensors of a type is looked at with them."""
    numbers = [
        (place.start, place.stop, place.dtype)
        for key, place in places.items()
        if place.stop > place.start and _is_looked_at(key, place.dtype)
    ]
    # By place alone: types have no order.
    numbers.sort(key=lambda number: number[0])
    run = None
    for start, stop, dtype in numbers:
        if (
            run is not None
            and dtype is run.dtype
            and start - run.stop <= GAP
            and not (start - run.start) % dtype.itemsize
        ):
            run = run._replace(stop=stop)
            continue
        if run is not None:
            yield run
        run = Run(dtype, start, stop)
    if run is not None:
        yield run


def _cut(runs: Iterable[Run], most: int) -> Iterator[Run]:
    """In pieces of at most so many bytes."""
    for run in runs:
        step = most // run.dtype.itemsize * run.dtype.itemsize
        for start in range(run.start, run.stop, step):
            yield Run(run.dtype, start, min(start + step, run.stop))


def _fill(data: Tensor, reader: _Reader, stripes: list[Stripe]) -> float | None:
    """Reads the stripes into data [bytes]: the largest number in them as ``largest_of_all`` has it, None where the file ends too soon."""
    memory = memoryview(data.numpy())

    def one(stripe: Stripe) -> float | None:
        if not reader.read(memory[stripe.start : stripe.stop], stripe.start):
            return None
        return largest_of_all(_numbers(data, run) for run in stripe.runs)

    if len(stripes) < 2 or not reader.at_once:
        found = [one(stripe) for stripe in stripes]
    else:
        with ThreadPoolExecutor(min(THREADS, len(stripes), os.cpu_count() or 1)) as pool:
            found = list(pool.map(one, stripes))
    if None in found:
        return None
    # NaN is no larger and no smaller than anything.
    return next((number for number in found if not number <= MAX_NUMBER), max(found, default=0.0))


def _numbers(data: Tensor, run: Run) -> Tensor:
    raw = data[run.start : run.stop]
    return (raw.clone() if run.start % run.dtype.itemsize else raw).view(run.dtype)


class _Reader:
    """Bytes of a file, counted from where it stands now. at_once: whether several threads may read it at one time."""

    at_once = hasattr(os, "preadv")

    def __init__(self, file: BinaryIO):
        self._file, self._start, self._lock = file, file.tell(), threading.Lock()

    def read(self, memory: memoryview, start: int) -> bool:
        """Fills ``memory``; False where the file ends before that."""
        if not self.at_once:
            with self._lock:
                self._file.seek(self._start + start)
                return self._file.readinto(memory) == len(memory)
        at = 0
        while at < len(memory):
            count = os.preadv(self._file.fileno(), [memory[at:]], self._start + start + at)
            if count == 0:
                return False
            at += count
        return True


def _memory(length: int) -> Tensor:
    """Bytes to be filled, in large pages where the system has them: to ask for small ones takes as long as to copy a file into them."""
    if length < LARGE_PAGES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(length, dtype=torch.uint8)
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel without them says so, and gives small ones.
    with suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
