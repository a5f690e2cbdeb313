"""Opening LoRA files. Whatever is wrong with one becomes a LoraFileError that a person can act on.

Nothing in a file is ever run: safetensors cannot carry code, and pickled files (.pt, .pth, .bin, .ckpt) are read with
``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import stat
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from . import contents, pickles
from . import header as headers
from .header import Header
from .problems import AGAIN, CHANGED, HTML, LoraFileError, looks_like_html, short, show_size

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
# Bytes at a time.
HASHED = 8 << 20
# The most letters of a tensor's name; the longest of any trainer has some 150.
MAX_KEY = 512
# How often "state_dict" may stand inside "state_dict".
MAX_NESTED = 4
# File systems keep time in steps of up to 10 ms.
TICK_NS, MAX_WAITS = 20_000_000, 10


@dataclass(frozen=True, eq=False)
class LoraFile:
    """An opened file. ``tensors`` by key, in memory of this process; ``metadata``: the safetensors header, empty for pickled files.

    size in bytes, modified and changed (``st_mtime_ns``, ``st_ctime_ns``): of the contents that were read, whatever stands under this path
    by now. largest: as ``Contents`` has it, NaN where nobody has looked.
    """

    path: str
    size: int
    modified: int
    changed: int
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    largest: float = math.nan

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


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
            raise LoraFileError(path, status.st_size, *CHANGED)
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
            tensors, metadata, largest = _read_pickled(path, file, before.st_size, refuse), {}, math.nan
            _refuse_by_name(path, before.st_size, tensors, refuse)
        else:
            header = headers.parse(path, file, before.st_size)
            _refuse_by_name(path, before.st_size, header.tensors, refuse)
            tensors, largest = contents.read_tensors(path, file, before.st_size, header)
            metadata = header.metadata
        after = os.fstat(file.fileno())
    if any(getattr(before, name) != getattr(after, name) for name in ("st_size", "st_mtime_ns", "st_ctime_ns")):
        raise LoraFileError(path, after.st_size, *CHANGED)
    return LoraFile(path, before.st_size, before.st_mtime_ns, before.st_ctime_ns, tensors, metadata, largest)


def _refuse_by_name(path: str, size: int, keys: Collection[str], refuse: Refuse) -> None:
    longest = max(keys, key=len, default="")
    if len(longest) > MAX_KEY:
        raise LoraFileError(
            path,
            size,
            f"it names a tensor with {len(longest)} letters ({short(longest, 60)}), which no LoRA does",
            AGAIN,
        )
    if reason := refuse(keys):
        raise LoraFileError(path, size, *reason)


def read_header(path: str) -> Header:
    """The header of a safetensors file, checked against the file's size. Reads nothing else. Raises LoraFileError."""
    with _opened(path) as (file, status):
        return headers.parse(path, file, status.st_size)


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
        raise LoraFileError(path, status.st_size, *CHANGED)
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
        raise LoraFileError(path, 0, "it is empty", AGAIN)
    return status


def _read_pickled(path: str, file: BinaryIO, size: int, refuse: Refuse) -> dict[str, Tensor]:
    if looks_like_html(file.read(512)):
        raise LoraFileError(path, size, *HTML)
    try:
        if zipfile.is_zipfile(file):
            unpacked = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
            # PyTorch never packs what it saves.
            if unpacked > size:
                raise LoraFileError(path, size, f"it unpacks to {show_size(unpacked)}, more than it holds", AGAIN)
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


_BROKEN_PICKLE = ("it is damaged or not a LoRA", "Download it again, the .safetensors version if there is one.")
