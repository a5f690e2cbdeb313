"""Opening LoRA files. Whatever is wrong with one becomes a LoraFileError that a person can act on.

Nothing in a file is ever run: safetensors cannot carry code, and pickled files (.pt, .pth, .bin, .ckpt) are read with
``weights_only=True``.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import safetensors
import torch
from torch import Tensor

from .errors import StrataError

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
MAX_HEADER = 100_000_000  # the safetensors library's own limit

_AGAIN = "Download it again."


class LoraFileError(StrataError):
    """A file that cannot be used: which, how large, why, and what to do."""

    def __init__(self, path: str, size: int | None, reason: str, advice: str):
        self.path, self.size, self.reason, self.advice = path, size, reason, advice
        shown = os.path.basename(path) + ("" if size is None else f" ({show_size(size)})")
        super().__init__(f"{shown}: {reason}. {advice}")


@dataclass(frozen=True, eq=False)
class LoraFile:
    """An opened file. ``tensors`` by key, in memory of their own; ``metadata``: the safetensors header, empty for pickled files."""

    path: str
    size: int
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, eq=False)
class Header:
    """What a safetensors file says of itself before any tensor is read. ``tensors``: key -> (dtype as "F16", shape)."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]


def read_lora_file(path: str) -> LoraFile:
    """Every tensor of a LoRA file, copied out of the file: a trainer that writes the file anew cannot change or crash a loaded model.

    Raises LoraFileError for whatever is wrong with the file itself; which keys it holds is not looked at.
    """
    before = _status(path)
    if path.lower().endswith(PICKLED):
        tensors, metadata = _read_pickled(path, before.st_size), {}
    else:
        header = read_header(path)
        tensors, metadata = dict(_read_safetensors(path, before.st_size)), header.metadata
    after = _status(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise LoraFileError(
            path, after.st_size, "it changed while it was being read", "Wait until it is complete and try again."
        )
    return LoraFile(path, before.st_size, tensors, metadata)


def read_header(path: str) -> Header:
    """The header of a safetensors file, checked against the file's size. Reads nothing else. Raises LoraFileError."""
    size = _status(path).st_size
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(size - 8, MAX_HEADER) or length < 2:
                raise LoraFileError(path, size, *_not_safetensors(start + file.read(512), length, size))
            packed = file.read(length)
    except OSError as problem:
        raise LoraFileError(
            path, size, f"it cannot be read ({problem.strerror})", "Check the file's permissions."
        ) from problem
    header = _header_json(path, size, packed)
    data_size = size - 8 - length
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    end = 0
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        try:
            dtype, shape, (_, stop) = str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
            end = max(end, int(stop))
        except (TypeError, KeyError, ValueError, OverflowError) as problem:
            raise LoraFileError(
                path, size, f"its header describes {_short(key)} in a way that makes no sense", _AGAIN
            ) from problem
        tensors[key] = (dtype, shape)
    if end > data_size:
        raise LoraFileError(
            path,
            size,
            f"it is cut off: {show_size(end - data_size)} of {show_size(end + 8 + length)} are missing",
            _AGAIN,
        )
    return Header(_metadata(header.get("__metadata__")), tensors)


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Keys of the tensors that hold a NaN or an infinity."""
    return [key for key, tensor in tensors.items() if tensor.is_floating_point() and not _finite(tensor)]


def show_size(size: int) -> str:
    """A file size as people read it.

    >>> show_size(151_111_111)
    '151.1 MB'
    """
    number = float(size)
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _status(path: str) -> os.stat_result:
    try:
        status = os.stat(path)
    except OSError as problem:
        why = "it is gone" if isinstance(problem, FileNotFoundError) else f"it cannot be opened ({problem.strerror})"
        raise LoraFileError(path, None, why, "Press R to refresh the list and choose it again.") from problem
    if stat.S_ISDIR(status.st_mode):
        raise LoraFileError(path, None, "it is a folder, not a file", "Look inside it for the LoRA file.")
    if not stat.S_ISREG(status.st_mode):
        raise LoraFileError(path, None, "it is not an ordinary file", "Put a copy of the LoRA itself there.")
    if status.st_size == 0:
        raise LoraFileError(path, 0, "it is empty", _AGAIN)
    return status


def _read_safetensors(path: str, size: int) -> Iterator[tuple[str, Tensor]]:
    try:
        with safetensors.safe_open(
            path, framework="pt", device="cpu"
        ) as file:  # memory-mapped: one tensor at a time is resident
            for key in file.keys():  # noqa: SIM118 (the handle itself cannot be iterated)
                yield key, file.get_tensor(key).clone()
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError) as problem:
        raise LoraFileError(
            path, size, f"its contents contradict its header ({_short(str(problem))})", _AGAIN
        ) from problem


def _read_pickled(path: str, size: int) -> dict[str, Tensor]:
    with _opened(path, size) as file:
        start = file.read(512)
    if _looks_like_html(start):
        raise LoraFileError(path, size, *_HTML)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        if "Unsupported" in str(problem) or "GLOBAL" in str(problem) or "weights_only" in str(problem).lower():
            raise LoraFileError(
                path,
                size,
                "it asks to run program code when it is opened, which this pack never allows",
                "Use the .safetensors version of this LoRA.",
            ) from problem
        raise LoraFileError(path, size, *_BROKEN_PICKLE) from problem
    except Exception as problem:  # torch.load raises whatever a damaged archive trips over
        raise LoraFileError(path, size, *_BROKEN_PICKLE) from problem
    while isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise LoraFileError(path, size, "it holds no named tensors", "Check that this is a LoRA file.")
    return {str(key): value.detach() for key, value in loaded.items() if isinstance(value, Tensor)}


def _opened(path: str, size: int):
    try:
        return open(path, "rb")
    except OSError as problem:
        raise LoraFileError(
            path, size, f"it cannot be read ({problem.strerror})", "Check the file's permissions."
        ) from problem


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
        raise LoraFileError(path, size, *_not_safetensors(packed, len(packed), size))
    try:
        header = json.loads(packed.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as problem:
        raise LoraFileError(path, size, f"its header is damaged ({_short(str(problem))})", _AGAIN) from problem
    if not isinstance(header, dict):
        raise LoraFileError(path, size, "its header is not a list of tensors", _AGAIN)
    return header


def _metadata(value) -> dict[str, str]:
    return {str(k): v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}


def _finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    if tensor.itemsize == 1:  # fp8 has no arithmetic of its own
        tensor = tensor.to(torch.float32)
    return all(math.isfinite(end) for end in torch.aminmax(tensor))  # a NaN is both its least and its greatest


def _short(text: str, limit: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
