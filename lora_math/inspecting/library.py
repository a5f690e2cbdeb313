"""A folder of LoRA files: what each is, and which are the same, byte for byte or in what they do.

Few files are read at a time; what is known of one is a few hundred bytes, and is kept as long as the file stays the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from threading import Event, Lock

import torch
from torch import Tensor

from ..adapters import Adapter
from ..baking import layers_by_name
from ..errors import StrataError
from ..family import detect
from ..reading import files, state_dict
from ..reading.contents import check_numbers
from ..reading.state_dict import Entry
from ..reading.xlabs import convert
from .several import meet, together

ENDINGS = (".safetensors", *files.PICKLED)
VERSION = 1
MAX_FILES = 200_000
# The most bytes.
MAX_INDEX = 1 << 30
PROBES = 64
# The most numbers of a change that is multiplied out for its fingerprint.
LARGEST = 1 << 26
# The most rows or columns; the largest vocabularies have fewer.
LONGEST = 1 << 18
# How near fingerprints must be to be looked at closer, and the changes themselves.
ALIKE, SAME = 0.85, 0.98
# With how many of the files before it one is compared, the nearest ones: epochs of one training are all alike.
MOST_ALIKE = 12
# The most bytes of a file whose change is looked at; what is larger is told by its data alone.
LARGEST_FILE = 4 << 30
# Files at a time, larger ones than this many bytes one by one.
READERS, LARGE_FILE = 2, 1 << 30
# Fingerprints that are compared with all before them at a time.
_BLOCK = 256

Tick = Callable[[], None]


@dataclass(frozen=True)
class File:
    """data: SHA-256 of what lies behind the header (AutoV3): the same whatever the metadata say. fingerprint: PROBES numbers, see
    ``fingerprint``; empty where nothing of it can be known without a model. problem: why it is no LoRA that can be used, else empty."""

    size: int
    # In ns.
    modified: int
    family: str | None = None
    data: str = ""
    fingerprint: tuple[float, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Pair:
    """Two files that do the same. cosine: of their changes; scale: how much stronger the second one is, NaN where their layers have names
    of two dialects, so that the cosine is that of their fingerprints."""

    first: str
    second: str
    cosine: float
    scale: float


@dataclass(frozen=True)
class Library:
    """files: path from the folder -> what it is; same_data: groups of paths; same_content: pairs of files whose data differ."""

    files: Mapping[str, File]
    same_data: tuple[tuple[str, ...], ...]
    same_content: tuple[Pair, ...]


def look_through(
    folder: str, index: Mapping[str, File] | None = None, told: Callable[[str], None] = lambda _: None
) -> Library:
    """index: what was known before, by path from the folder; told: called with each path that is read, in the thread that reads it.
    Raises StrataError for a folder that cannot be read."""
    paths, found = list(_paths(folder)), {}
    for path in paths:
        known = (index or {}).get(path)
        if known is not None and (known.size, known.modified) == stamp(os.path.join(folder, path)):
            found[path] = known
    new = [path for path in paths if path not in found]
    one_large, stopped = Lock(), Event()

    def tick() -> None:
        if stopped.is_set():
            raise CancelledError

    def look(path: str) -> File:
        whole = os.path.join(folder, path)
        with one_large if stamp(whole)[0] > LARGE_FILE else nullcontext():
            told(path)
            return look_at(whole, tick)

    # Two at once, so that the disk does not wait for what is made of the file before.
    pool = ThreadPoolExecutor(READERS, "strata-library")
    try:
        for path, file in zip(new, pool.map(look, new), strict=True):
            found[path] = file
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
    found = {path: found[path] for path in paths}
    groups: dict[str, list[str]] = {}
    for path, file in found.items():
        if file.data:
            groups.setdefault(file.data, []).append(path)
    same_data = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    first_of = [group[0] for group in groups.values()]
    return Library(found, same_data, tuple(_same_content(folder, found, first_of, told)))


def _paths(folder: str) -> Iterator[str]:
    if not os.path.isdir(folder):
        raise StrataError(f"{folder} is no folder. Name the folder that your LoRAs are in.")
    count = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(ENDINGS):
                count += 1
                if count > MAX_FILES:
                    raise StrataError(f"{folder} holds more than {MAX_FILES} files. Name a folder inside it.")
                yield os.path.relpath(os.path.join(place, name), folder)


def look_at(path: str, tick: Tick = lambda: None) -> File:
    """Reads one file. ``tick`` is called between small pieces of the work, and may wait. Raises nothing but what ``tick`` raises."""
    size, modified = stamp(path)
    try:
        data = data_hash(path, tick)
        if size > LARGEST_FILE:
            return File(size, modified, None, data)
        file = files.read_lora_file(path)
        contents = state_dict.parse(convert(file.tensors), file.metadata)
        if not contents.entries:
            return File(size, modified, None, data, (), "it holds no LoRA that is known here")
        if broken := check_numbers(file.tensors).broken:
            family = detect(contents.entries, file.metadata)
            return File(
                size, modified, family, data, (), f"{len(broken)} tensors hold NaN or infinity, such as {min(broken)}"
            )
        return File(
            size, modified, detect(contents.entries, file.metadata), data, _rounded(fingerprint(contents.entries, tick))
        )
    except (StrataError, OSError) as problem:
        return File(size, modified, problem=str(problem))


def data_hash(path: str, tick: Tick = lambda: None) -> str:
    """AutoV3: SHA-256 of a safetensors file without its header; of the whole of any other file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise StrataError(f"{os.path.basename(path)} is no file.")
    found = hashlib.sha256()
    with open(path, "rb") as file:
        if path.lower().endswith(".safetensors"):
            file.seek(8 + min(int.from_bytes(file.read(8), "little"), 1 << 40))
        while piece := file.read(1 << 20):
            found.update(piece)
            tick()
    return found.hexdigest()


def fingerprint(entries: Sequence[Entry], tick: Tick = lambda: None) -> Tensor:
    """[PROBES] float64: sum over layers of u_k^T delta v_k, with signs u_k, v_k drawn for each shape of layer.

    Linear in the change, so that its direction is that of the change whatever the strength, the gauge of the factors, the algorithm and
    the names of the layers; a random projection (Achlioptas 2003), so that angles stay what they are to about 1 / sqrt(PROBES).
    """
    found = torch.zeros(PROBES, dtype=torch.float64)
    for entry in entries:
        tick()
        adapter = entry.adapter.without_norms
        shape = adapter.matrix_shape
        if (
            entry.parameter == "weight"
            and shape is not None
            and not adapter.needs_weight
            and adapter.mismatch(shape) is None
        ):
            probed = _probed(adapter, shape)
            if probed is not None and bool(probed.isfinite().all()):
                found += probed
    return found


def _probed(adapter: Adapter, shape: tuple[int, int]) -> Tensor | None:
    if not all(0 < side <= LONGEST for side in shape):
        return None
    left, right = _signs(shape)
    factors = adapter.factors(torch.float32)
    if factors is not None:
        up, down = factors
        return ((left @ up).double() * (down @ right.T).T.double()).sum(1)
    if math.prod(shape) > LARGEST:
        return None
    return ((left @ adapter.delta(torch.empty(shape), 1.0, torch.float32)).double() * right.double()).sum(1)


@lru_cache(maxsize=16)
def _signs(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    out, columns = shape
    generator = torch.Generator().manual_seed(out * 1_000_003 + columns)
    drawn = torch.randint(0, 2, (PROBES, out + columns), generator=generator, dtype=torch.int8)
    signs = drawn.float().mul_(2).sub_(1)
    return signs[:, :out], signs[:, out:]


def _rounded(vector: Tensor) -> tuple[float, ...]:
    size = float(torch.linalg.vector_norm(vector))
    if not 0 < size < math.inf:
        return ()
    return tuple(round(value, 4) for value in (vector / size).tolist())


def _same_content(folder: str, known: Mapping[str, File], paths: Sequence[str], told) -> Iterator[Pair]:
    """Candidates by their fingerprints, each compared as it is."""
    paths = [path for path in paths if len(known[path].fingerprint) == PROBES]
    if len(paths) < 2:
        return
    opened: tuple[str, list[Entry]] | None = None
    for at, other, near in alike(torch.tensor([known[path].fingerprint for path in paths])):
        path = paths[at]
        told(f"{paths[other]} and {path}")
        try:
            if opened is None or opened[0] != path:
                opened = path, entries_of(os.path.join(folder, path))
            cosine, scale = compared(entries_of(os.path.join(folder, paths[other])), opened[1]) or (near, math.nan)
        except StrataError:
            # It was there a moment ago.
            continue
        if abs(cosine) >= SAME:
            yield Pair(paths[other], path, cosine, scale)


def alike(prints: Tensor) -> Iterator[tuple[int, int, float]]:
    """(at, an earlier one, cosine) of fingerprints [n, PROBES] of length 1 that may be of the same change: for each the MOST_ALIKE nearest.

    Exact copies are the nearest of all, so that files which are only alike do not crowd them out.
    """
    for start in range(0, len(prints), _BLOCK):
        block = prints[start : start + _BLOCK] @ prints[: start + _BLOCK].T
        near = block.tril(start - 1)
        for row in (near.abs() >= ALIKE).any(1).nonzero().flatten().tolist():
            found = (near[row].abs() >= ALIKE).nonzero().flatten()
            nearest = found[near[row, found].abs().argsort(descending=True)[:MOST_ALIKE]]
            for other in sorted(nearest.tolist()):
                yield start + row, other, float(near[row, other])


def entries_of(path: str) -> list[Entry]:
    """Raises StrataError."""
    file = files.read_lora_file(path)
    return list(state_dict.parse(convert(file.tensors), file.metadata).entries)


def compared(first: Sequence[Entry], second: Sequence[Entry], tick: Tick = lambda: None) -> tuple[float, float] | None:
    """(cosine of the two changes, norm of the second over that of the first); None where no layer is in both."""
    found = meet(layers_by_name([first, second]), tick)
    if not any(len(meeting.at) == 2 for meeting in found.layers):
        return None
    whole = together(found.layers, [[1.0] * len(meeting.at) for meeting in found.layers], 2)
    cosine, norms = float(whole.cosines[0, 1]), whole.norms.tolist()
    return None if math.isnan(cosine) else (cosine, norms[1] / norms[0])


def stamp(path: str) -> tuple[int, int]:
    """(size, time of change in ns), zeros where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


# What is known, kept in a file


def read_index(path: str) -> dict[str, File]:
    """Empty where there is no file, or the index of another version. Raises StrataError for a file that is no index: it is somebody's,
    and would be written over."""
    data = None
    try:
        if os.path.getsize(path) <= MAX_INDEX:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        pass
    version = data.get("version") if isinstance(data, dict) else None
    if not isinstance(version, list) or len(version) != 2 or "files" not in data:
        raise StrataError(f"{path} is there and is no index of a library. Name another file for the index.")
    if version != [VERSION, torch.__version__]:
        return {}
    rows = data.get("files")
    found = {}
    for name, row in rows.items() if isinstance(rows, dict) else ():
        file = _file(row)
        if file is not None:
            found[name] = file
    return found


def _file(row) -> File | None:
    if not isinstance(row, dict) or row.keys() != File.__dataclass_fields__.keys():
        return None
    texts, numbers, prints = (row["data"], row["problem"]), (row["size"], row["modified"]), row["fingerprint"]
    fits = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) for number in numbers)
        and isinstance(prints, list)
        and len(prints) in (0, PROBES)
        and all(isinstance(number, (int, float)) and abs(number) <= 1 for number in prints)
        and isinstance(row["family"], (str, type(None)))
        and all(text == text.encode(errors="replace").decode() for text in (*texts, row["family"] or ""))
    )
    return File(**{**row, "fingerprint": tuple(map(float, prints))}) if fits else None


def write_index(path: str, files_known: Mapping[str, File]) -> None:
    """Whole or not at all. Raises StrataError where it cannot be written."""
    data = {
        "version": [VERSION, torch.__version__],
        "files": {name: asdict(file) for name, file in files_known.items()},
    }
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(data, file)
        os.replace(beside, path)
    except OSError as problem:
        if os.path.exists(beside):
            os.unlink(beside)
        raise StrataError(f"The index {path} was not written: {problem.strerror or problem}.") from None
