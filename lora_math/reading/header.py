"""What a safetensors file says of itself before any tensor is read: names, types, shapes and places, none of which is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from .problems import AGAIN, HTML, LoraFileError, looks_like_html, printable, short, show_size

# The most bytes, the limit of the safetensors library itself.
MAX_HEADER = 100_000_000
# The most names, numbers and texts in a header; a tensor takes eight or nine of them.
MAX_VALUES = 300_000
MAX_AXES, MAX_AXIS, MAX_STRIDE = 8, 1 << 31, 1 << 62

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
        # Steps from number to number are counted past an axis of no length too.
        if (
            len(shape) > MAX_AXES
            or not all(0 <= n <= MAX_AXIS for n in shape)
            or prod(max(n, 1) for n in shape) > MAX_STRIDE
        ):
            raise ValueError("no such shape")
        if not isinstance(name, str) or name not in _DTYPES:
            raise _UnknownDtype(short(str(name), 20))
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


def parse(path: str, file: BinaryIO, size: int) -> Header:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, MAX_HEADER) or length < 2:
        raise LoraFileError(path, size, *_not_safetensors(start + file.read(512), length, size))
    header = _header_json(path, size, file.read(length))
    metadata = header.pop("__metadata__", None)
    tensors: dict[str, TensorPlace] = {}
    for key, entry in header.items():
        try:
            tensors[printable(key)] = TensorPlace.of(entry)
        except _UnknownDtype as problem:
            raise LoraFileError(path, size, f"it stores numbers as {problem}, which no LoRA does", AGAIN) from problem
        except (TypeError, KeyError, ValueError) as problem:
            raise LoraFileError(
                path, size, f"its header describes {short(key)} in a way that makes no sense", AGAIN
            ) from problem
    end, held = max((place.stop for place in tensors.values()), default=0), size - 8 - length
    if end > held:
        whole = end + 8 + length
        raise LoraFileError(
            path, size, f"it is cut off: {show_size(end - held)} of {show_size(whole)} are missing", AGAIN
        )
    _check_places(path, size, tensors, held)
    return Header(_metadata(metadata), tensors)


def _check_places(path: str, size: int, tensors: Mapping[str, TensorPlace], held: int) -> None:
    """Every byte behind the header belongs to exactly one tensor, as the format has it."""
    end, wrong = 0, None
    for key, place in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if place.nbytes != place.stop - place.start:
            wrong = f"{short(key)} has {place.stop - place.start} bytes and needs {place.nbytes}"
        elif place.start != end:
            wrong = f"{short(key)} starts at byte {place.start}, not at {end}"
        if wrong:
            break
        end = place.stop
    if wrong is None and end != held:
        wrong = f"{held - end} bytes at its end belong to nothing"
    if wrong:
        raise LoraFileError(path, size, f"its contents contradict its header ({wrong})", AGAIN)


def _not_safetensors(start: bytes, length: int, size: int) -> tuple[str, str]:
    """(reason, advice) for a file whose first 8 bytes are no possible header length."""
    if looks_like_html(start):
        return HTML
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
        return "it holds nothing but zeros", AGAIN
    if start[8:9] == b"{" and length <= MAX_HEADER:
        return f"it is cut off inside its header ({show_size(length)} long)", AGAIN
    if start[8:9] == b"{":
        return f"it claims a header of {show_size(length)}, more than any LoRA has", AGAIN
    return "it is not a safetensors file", "Check that the download is complete and the file is a LoRA."


def _header_json(path: str, size: int, packed: bytes) -> dict:
    if not packed.lstrip().startswith(b"{"):
        raise LoraFileError(path, size, *_not_safetensors(packed[:520], len(packed), size))
    if _is_crowded(packed):
        raise LoraFileError(path, size, f"its header ({show_size(len(packed))}) is more than any LoRA has", AGAIN)
    try:
        text = packed.decode("utf-8")
        # One copy less while it is taken apart.
        del packed
        header = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise LoraFileError(path, size, f"its header is damaged ({short(str(problem))})", AGAIN) from problem
    if not isinstance(header, dict):
        raise LoraFileError(path, size, "its header is not a list of tensors", AGAIN)
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
    return {printable(key): printable(text) for key, text in value.items() if isinstance(text, str)}
