"""Opening LoRA files. Whatever is wrong with one becomes a LoraFileError that a person can act on.

Nothing in a file is ever run: safetensors cannot carry code, and pickled files (.pt, .pth, .bin, .ckpt) are read with
``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import pickle
import stat
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..errors import StrataError
from ..extremes import largest, largest_of_all
from . import pickles

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
# The most bytes, the limit of the safetensors library itself.
MAX_HEADER = 100_000_000
# The most names, numbers and texts in a header; a tensor takes eight or nine of them.
MAX_VALUES = 300_000
# Bytes at a time.
HASHED = 8 << 20
MAX_AXES, MAX_AXIS = 8, 1 << 31
# The most letters of a tensor's name; the longest of any trainer has some 150.
MAX_KEY = 512
# No trained weight comes near this number.
MAX_NUMBER = 1e6
# How often "state_dict" may stand inside "state_dict".
MAX_NESTED = 4
# Bytes from which on memory comes in large pages, where it can.
LARGE_PAGES = 4 << 20
# File systems keep time in steps of up to 10 ms.
TICK_NS, MAX_WAITS = 20_000_000, 10

_AGAIN = "Download it again."


class LoraFileError(StrataError):
    """A file that cannot be used: which, how large, why, and what to do."""

    def __init__(self, path: str, size: int | None, reason: str, advice: str):
        self.path, self.size, self.reason, self.advice = path, size, reason, advice
        shown = _printable(os.path.basename(path)) + ("" if size is None else f" ({show_size(size)})")
        super().__init__(f"{shown}: {reason}. {advice}")


@dataclass(frozen=True, eq=False)
class LoraFile:
    """An opened file. ``tensors`` by key, in memory of this process; ``metadata``: the safetensors header, empty for pickled files.

    size in bytes, modified in nanoseconds: of the contents that were read, whatever stands under this path by now.
    """

    path: str
    size: int
    modified: int
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


# The format's names of number types, as far as this PyTorch has them.
_DTYPES = {
    name: getattr(torch, dtype)
    for name, dtype in (
        ("BOOL", "bool"),
        ("U8", "uint8"),
        ("I8", "int8"),
        ("U16", "uint16"),
        ("I16", "int16"),
        ("U32", "uint32"),
        ("I32", "int32"),
        ("U64", "uint64"),
        ("I64", "int64"),
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
        ("F8_E8M0", "float8_e8m0fnu"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("F32", "float32"),
        ("F64", "float64"),
        ("C64", "complex64"),
    )
    if hasattr(torch, dtype)
}


class _UnknownDtype(ValueError):
    pass


class TensorPlace(NamedTuple):
    """One tensor in a file: ``start`` and ``stop`` count bytes from the header's end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @classmethod
    def of(cls, entry: Mapping) -> TensorPlace:
        """From a header's description. Raises TypeError, KeyError or ValueError for one that makes no sense."""
        name, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if any(type(n) is not int for n in (*shape, start, stop)) or not 0 <= start <= stop:
            raise ValueError("not numbers of bytes")
        if len(shape) > MAX_AXES or not all(0 <= n <= MAX_AXIS for n in shape):
            raise ValueError("no such shape")
        if not isinstance(name, str) or name not in _DTYPES:
            raise _UnknownDtype(_short(str(name), 20))
        return cls(_DTYPES[name], shape, start, stop)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def tensor(self, data: Tensor) -> Tensor:
        """A view of the file's data [bytes]; a copy only of what lies across the steps of its type, or of truth values."""
        raw = data.narrow(0, self.start, self.stop - self.start)
        # Any byte but 0 is true, where PyTorch knows 0 and 1 only.
        if self.dtype == torch.bool:
            return (raw != 0).reshape(self.shape)
        return (raw.clone() if self.start % self.dtype.itemsize else raw).view(self.dtype).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Header:
    """What a safetensors file says of itself before any tensor is read."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorPlace]


# From the names of a file's tensors: (what is wrong with it, what to do), None for a file that should be read.
Refuse = Callable[[Collection[str]], tuple[str, str] | None]


def data_sha256(path: str) -> str:
    """Of all bytes behind a safetensors file's header, which Civitai knows a LoRA by; empty for files of other kinds.

    Computed, as tools that shrink or convert copy the hash that the header of the older file says. Raises LoraFileError.
    """
    if path.lower().endswith(PICKLED):
        return ""
    with _opened(path) as (file, status):
        length = int.from_bytes(file.read(8), "little")
        if length > status.st_size:
            raise LoraFileError(path, status.st_size, *_CHANGED)
        file.seek(8 + length)
        digest = hashlib.sha256()
        while chunk := file.read(HASHED):
            digest.update(chunk)
    return digest.hexdigest()


def read_lora_file(path: str, refuse: Refuse = lambda keys: None) -> LoraFile:
    """Every tensor of a LoRA file, copied out of the file: a trainer that writes the file anew cannot change or crash a loaded model.

    refuse: asked as soon as the names are known; nothing else of the file has been read then, however large it is.
    Raises LoraFileError for that, and for whatever is wrong with the file itself.
    """
    with _opened(path) as (file, before):
        if path.lower().endswith(PICKLED):
            tensors, metadata = _read_pickled(path, file, before.st_size, refuse), {}
            _refuse_by_name(path, before.st_size, tensors, refuse)
        else:
            header = _read_header(path, file, before.st_size)
            _refuse_by_name(path, before.st_size, header.tensors, refuse)
            tensors, metadata = _read_tensors(path, file, before.st_size, header), header.metadata
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise LoraFileError(path, after.st_size, *_CHANGED)
    return LoraFile(path, before.st_size, before.st_mtime_ns, tensors, metadata)


def _refuse_by_name(path: str, size: int, keys: Collection[str], refuse: Refuse) -> None:
    longest = max(keys, key=len, default="")
    if len(longest) > MAX_KEY:
        raise LoraFileError(
            path,
            size,
            f"it names a tensor with {len(longest)} letters ({_short(longest, 60)}), which no LoRA does",
            _AGAIN,
        )
    if reason := refuse(keys):
        raise LoraFileError(path, size, *reason)


def read_header(path: str) -> Header:
    """The header of a safetensors file, checked against the file's size. Reads nothing else. Raises LoraFileError."""
    with _opened(path) as (file, status):
        return _read_header(path, file, status.st_size)


class Checked(NamedTuple):
    """What a look at every number finds. broken: keys of the tensors that hold a NaN, an infinity, or a number beyond MAX_NUMBER, which a
    product would turn into one; largest: no number is larger, infinity where that is not known."""

    broken: frozenset[str]
    largest: float


def check_numbers(tensors: Mapping[str, Tensor]) -> Checked:
    """Looks at every number, those of the whole file at once and tensor by tensor only where something is wrong."""
    all_of_them = largest_of_all(tensor for tensor in tensors.values() if not tensor.is_complex())
    if all_of_them <= MAX_NUMBER:
        return Checked(frozenset(), all_of_them)
    floats = ((key, tensor) for key, tensor in tensors.items() if tensor.is_floating_point())
    return Checked(frozenset(key for key, tensor in floats if not largest(tensor) <= MAX_NUMBER), math.inf)


def show_size(size: int) -> str:
    """A file size as people read it.

    >>> show_size(151_111_111)
    '151.1 MB'
    """
    number = float(min(size, 10**30))
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


@contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """The file, and what it was when it was last known to be one: any change since shows in its time or size.

    What the system says against reading it becomes a LoraFileError.
    """
    status = _status(path)
    for _ in range(MAX_WAITS):
        if not 0 <= time.time_ns() - status.st_mtime_ns < TICK_NS:
            break
        # It was written this very moment: what is written next might still get the same time.
        time.sleep(TICK_NS * 1e-9)
        status = _status(path)
    else:
        raise LoraFileError(path, status.st_size, *_CHANGED)
    try:
        with open(path, "rb") as file:
            yield file, status
    except OSError as problem:
        raise LoraFileError(
            path, status.st_size, f"it cannot be read ({problem.strerror})", "Check the file's permissions."
        ) from problem


def _status(path: str) -> os.stat_result:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as problem:
        gone = isinstance(problem, FileNotFoundError)
        why = "it is gone" if gone else f"it cannot be opened ({getattr(problem, 'strerror', None) or problem})"
        raise LoraFileError(path, None, why, "Press R to refresh the list and choose it again.") from problem
    if stat.S_ISDIR(status.st_mode):
        raise LoraFileError(path, None, "it is a folder, not a file", "Look inside it for the LoRA file.")
    if not stat.S_ISREG(status.st_mode):
        raise LoraFileError(path, None, "it is not an ordinary file", "Put a copy of the LoRA itself there.")
    if status.st_size == 0:
        raise LoraFileError(path, 0, "it is empty", _AGAIN)
    return status


def _read_header(path: str, file: BinaryIO, size: int) -> Header:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, MAX_HEADER) or length < 2:
        raise LoraFileError(path, size, *_not_safetensors(start + file.read(512), length, size))
    header = _header_json(path, size, file.read(length))
    metadata = header.pop("__metadata__", None)
    tensors: dict[str, TensorPlace] = {}
    for key, entry in header.items():
        try:
            tensors[_printable(key)] = TensorPlace.of(entry)
        except _UnknownDtype as problem:
            raise LoraFileError(path, size, f"it stores numbers as {problem}, which no LoRA does", _AGAIN) from problem
        except (TypeError, KeyError, ValueError) as problem:
            raise LoraFileError(
                path, size, f"its header describes {_short(key)} in a way that makes no sense", _AGAIN
            ) from problem
    end, held = max((place.stop for place in tensors.values()), default=0), size - 8 - length
    if end > held:
        whole = end + 8 + length
        raise LoraFileError(
            path, size, f"it is cut off: {show_size(end - held)} of {show_size(whole)} are missing", _AGAIN
        )
    _check_places(path, size, tensors, held)
    return Header(_metadata(metadata), tensors)


def _check_places(path: str, size: int, tensors: Mapping[str, TensorPlace], held: int) -> None:
    """Every byte behind the header belongs to exactly one tensor, as the format has it."""
    end, wrong = 0, None
    for key, place in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if place.nbytes != place.stop - place.start:
            wrong = f"{_short(key)} has {place.stop - place.start} bytes and needs {place.nbytes}"
        elif place.start != end:
            wrong = f"{_short(key)} starts at byte {place.start}, not at {end}"
        if wrong:
            break
        end = place.stop
    if wrong is None and end != held:
        wrong = f"{held - end} bytes at its end belong to nothing"
    if wrong:
        raise LoraFileError(path, size, f"its contents contradict its header ({wrong})", _AGAIN)


def _read_tensors(path: str, file: BinaryIO, size: int, header: Header) -> dict[str, Tensor]:
    """Views into one copy of the file's data. Read, not memory-mapped: a mapped file that is cut short meanwhile kills the process."""
    length = max((place.stop for place in header.tensors.values()), default=0)
    try:
        data = _memory(length)
    except (RuntimeError, MemoryError, OSError) as problem:
        raise LoraFileError(
            path, size, "this computer has not enough free memory for it", "Check that this is a LoRA file."
        ) from problem
    if file.readinto(memoryview(data.numpy())) < length:
        raise LoraFileError(path, size, *_CHANGED)
    return {key: place.tensor(data) for key, place in header.tensors.items()}


def _memory(length: int) -> Tensor:
    """Bytes to be filled, in large pages where the system has them: to ask for small ones takes as long as to copy a file into them."""
    if length < LARGE_PAGES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(length, dtype=torch.uint8)
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel without them says so, and gives small ones.
    with suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)


def _read_pickled(path: str, file: BinaryIO, size: int, refuse: Refuse) -> dict[str, Tensor]:
    if _looks_like_html(file.read(512)):
        raise LoraFileError(path, size, *_HTML)
    try:
        if zipfile.is_zipfile(file):
            unpacked = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
            # PyTorch never packs what it saves.
            if unpacked > size:
                raise LoraFileError(path, size, f"it unpacks to {show_size(unpacked)}, more than it holds", _AGAIN)
        if reason := refuse(pickles.names(file)):
            raise LoraFileError(path, size, *reason)
        file.seek(0)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickles.ListTooLong as problem:
        raise LoraFileError(path, size, str(problem), "Check that this is a LoRA file.") from problem
    except LoraFileError:
        raise
    except pickle.UnpicklingError as problem:
        if "Unsupported" in str(problem) or "GLOBAL" in str(problem) or "weights_only" in str(problem).lower():
            raise LoraFileError(
                path,
                size,
                "it asks to run program code when it is opened, which this pack never allows",
                "Use the .safetensors version of this LoRA.",
            ) from problem
        raise LoraFileError(path, size, *_BROKEN_PICKLE) from problem
    # Whatever a damaged archive trips over is raised by torch.load.
    except Exception as problem:
        raise LoraFileError(path, size, *_BROKEN_PICKLE) from problem
    # A pickle may hold itself.
    for _ in range(MAX_NESTED):
        if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
            loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise LoraFileError(path, size, "it holds no named tensors", "Check that this is a LoRA file.")
    return {key: value.detach() for key, value in loaded.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value) -> bool:
    """Whether it is a tensor of numbers that the file really holds: a pickle may spread four bytes over a shape of terabytes."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


_CHANGED = ("it changed while it was being read", "Wait until it is complete and try again.")
_HTML = ("it is a web page, not a LoRA", "The download needed a login or its link was wrong: download the file itself.")
_BROKEN_PICKLE = ("it is damaged or not a LoRA", "Download it again, the .safetensors version if there is one.")


def _looks_like_html(start: bytes) -> bool:
    text = start.lstrip().lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def _not_safetensors(start: bytes, length: int, size: int) -> tuple[str, str]:
    """(reason, advice) for a file whose first 8 bytes are no possible header length."""
    if _looks_like_html(start):
        return _HTML
    if start.startswith(b"version https://git-lfs"):
        return "it is only a Git LFS pointer to the real file", "Run 'git lfs pull', or download the file itself."
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return (
            "it is a pickled file under a .safetensors name",
            "If you trust its source, rename it to end in .pt; it is then opened safely.",
        )
    if start.startswith(b"GGUF"):
        return "it is a GGUF model under a .safetensors name", "LoRAs come as .safetensors."
    if start.startswith((b"{", b"[")):
        return "it is a JSON text, not a LoRA", "Look for the .safetensors file it came with."
    if not any(start):
        return "it holds nothing but zeros", _AGAIN
    if start[8:9] == b"{" and length <= MAX_HEADER:
        return f"it is cut off inside its header ({show_size(length)} long)", _AGAIN
    if start[8:9] == b"{":
        return f"it claims a header of {show_size(length)}, more than any LoRA has", _AGAIN
    return "it is not a safetensors file", "Check that the download is complete and the file is a LoRA."


def _header_json(path: str, size: int, packed: bytes) -> dict:
    if not packed.lstrip().startswith(b"{"):
        raise LoraFileError(path, size, *_not_safetensors(packed[:520], len(packed), size))
    if _is_crowded(packed):
        raise LoraFileError(path, size, f"its header ({show_size(len(packed))}) is more than any LoRA has", _AGAIN)
    try:
        text = packed.decode("utf-8")
        # One copy less while it is taken apart.
        del packed
        header = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise LoraFileError(path, size, f"its header is damaged ({_short(str(problem))})", _AGAIN) from problem
    if not isinstance(header, dict):
        raise LoraFileError(path, size, "its header is not a list of tensors", _AGAIN)
    return header


def _is_crowded(packed: bytes) -> bool:
    """Whether Python would need many times the header's size for it: a value takes up to 200 bytes, however short its text, and a
    letter up to four where some are not Latin."""
    if len(packed) > (MAX_HEADER if packed.isascii() else MAX_HEADER // 8):
        return True
    if packed.count(b'"') - packed.count(b'\\"') > 2 * MAX_VALUES:
        return True
    # What stands outside of the strings.
    outside = b"".join(packed.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{") > MAX_VALUES


def _metadata(value) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {_printable(key): _printable(text) for key, text in value.items() if isinstance(text, str)}


def _printable(text: str) -> str:
    """The text without halves of characters (surrogates), which JSON and file names may hold and nothing can show."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _short(text: str, limit: int = 120) -> str:
    line = " ".join(_printable(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
