"""What can happen to the bytes of a safetensors file: cut, flipped, spliced, or written by someone who means harm."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from random import Random

import torch

_NAMES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


def pack(tensors: Mapping[str, torch.Tensor], metadata: object = None, pad: int = 8) -> bytes:
    """A safetensors file, also of what the library would not write. pad: what the header's length is a multiple of."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = bytearray()
    for key, tensor in tensors.items():
        raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        place = [len(data), len(data) + len(raw)]
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        data += raw
    return join(header, bytes(data), pad)


def join(header: object, data: bytes, pad: int = 8) -> bytes:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    packed += b" " * (-len(packed) % pad)
    return struct.pack("<Q", len(packed)) + packed + data


def split(content: bytes) -> tuple[dict, bytes]:
    """(header, data) of a sound file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def boundaries(content: bytes) -> list[int]:
    """Where a file may be cut between one thing and the next: around its length, its header and every tensor."""
    header, _ = split(content)
    start = 8 + int.from_bytes(content[:8], "little")
    stops = {entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"}
    around = {0, 1, 7, 8, 9, start - 1, start, start + 1, *(start + n + d for n in stops for d in (-1, 0))}
    return sorted(n for n in around if n < len(content))


def cut(rng: Random, content: bytes) -> bytes:
    return content[: rng.choice((rng.choice(boundaries(content)), rng.randrange(len(content))))]


def flip(rng: Random, content: bytes) -> bytes:
    """A few bits, anywhere or in the header only: a bad disk, a bad cable."""
    found = bytearray(content)
    end = rng.choice((len(found), 8, 8 + int.from_bytes(content[:8], "little")))
    for _ in range(rng.choice((1, 1, 3, 50))):
        found[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(found)


def splice(rng: Random, content: bytes) -> bytes:
    """A piece is lost, repeated, zeroed or replaced: a resumed download."""
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice((1, 8, 512, 4096, 100_000)))
    middle = rng.choice((b"", content[start:stop] * 2, bytes(stop - start), rng.randbytes(stop - start)))
    return content[:start] + middle + content[stop:]


def lie_about_length(rng: Random, content: bytes) -> bytes:
    true = int.from_bytes(content[:8], "little")
    lies = (
        0,
        1,
        2,
        true - 1,
        true + 1,
        true * 2,
        len(content) - 8,
        len(content),
        10**8,
        10**8 + 1,
        2**31,
        2**63,
        2**64 - 1,
    )
    return struct.pack("<Q", rng.choice(lies)) + content[8:]


_PLACES = (
    None,
    [],
    [0],
    [0, 1, 2],
    [-1, 4],
    [4, 0],
    [0, 2**63],
    [0, 10**400],
    [0.0, 4.0],
    ["0", "4"],
    "04",
    {},
    [None, None],
)
_SHAPES = (None, [], [0], [-1], [2**40, 2**40], [10**400], [1.0], "12", [[1]], [1] * 100, [0, 2**31], {"a": 1}, [True])
_DTYPES = ("F4", "X9", "", None, 32, "f16", "BOOL", "F64", "I8", "U64", "F8_E8M0", "C64", ["F16"])


def lie_about_tensor(rng: Random, content: bytes) -> bytes:
    """One tensor's dtype, shape or place is another's or nobody's."""
    header, data = split(content)
    keys = [key for key in header if key != "__metadata__"]
    for _ in range(rng.choice((1, 1, 4))):
        key, other = rng.choice(keys), rng.choice(keys)
        field, values = rng.choice((("data_offsets", _PLACES), ("shape", _SHAPES), ("dtype", _DTYPES)))
        match rng.randrange(5):
            case 0:
                header[key] = rng.choice((None, [], 3, "x", {}, {"dtype": "F32"}))
            case 1 if isinstance(header[other], dict):
                header[key] = {
                    **(header[key] if isinstance(header[key], dict) else {}),
                    field: header[other].get(field),
                }
            case 2:
                header.pop(key)
                keys = [k for k in keys if k != key] or [other]
                header.setdefault(keys[0], {})
            case _:
                header[key] = {**(header[key] if isinstance(header[key], dict) else {}), field: rng.choice(values)}
    return join(header, data)


def odd_metadata(rng: Random, content: bytes) -> bytes:
    header, data = split(content)
    header["__metadata__"] = rng.choice(
        (
            None,
            3,
            [],
            "text",
            {"a": 1, "b": None, "c": ["d"], "e": {"f": {}}},
            {"a": "\ud800", "\udfff": "b"},
            {str(i): "x" for i in range(20_000)},
            {"ssmd_cover_images": "A" * 500_000},
            {"": "", "\x00": "\x00"},
            {"lora_adapter_metadata": "[" * 100_000},
            {"ss_tag_frequency": "{" + '"a":' * 50_000},
        )
    )
    return join(header, data)


def odd_json(rng: Random, content: bytes) -> bytes:
    header, data = split(content)
    packed = json.dumps(header).encode()
    first = json.dumps(next(key for key in header if key != "__metadata__")).encode()
    depth = rng.choice((50, 900, 5000, 200_000))
    return join(
        rng.choice(
            (
                b'{"a":' * depth + b"1" + b"}" * depth,
                b'{"a":' + b"[" * depth + b"]" * depth + b"}",
                packed[:-1] + b"," + first + b':{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                packed[:-1] + b',"__metadata__":{}}',
                packed[:-1],
                packed + packed,
                b"[" + packed + b"]",
                packed.replace(b"lora", b"\xff\xfe", 1),
                packed.replace(b"lora", b"\xed\xa0\x80", 1),
                packed.replace(b"lora", b"\\ud800", 2),
                packed.replace(b"[", b"[" + b"9" * 5000, 1),
                packed.replace(b'"shape":', b'"shape":NaN,"x":'),
                packed.decode().encode("utf-16"),
                b"\xef\xbb\xbf" + packed,
                b"null",
                b"{}",
                b"  {}",
            )
        ),
        data,
    )


def unaligned(rng: Random, content: bytes) -> bytes:
    """A sound file whose numbers lie across the steps of their type."""
    header, data = split(content)
    first = {"zz": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    for key, entry in header.items():
        if key != "__metadata__":
            first[key] = {**entry, "data_offsets": [n + 1 for n in entry["data_offsets"]]}
    return join(first, b"\1" + data, 1)


def random_bytes(rng: Random, content: bytes) -> bytes:
    start = rng.choice((b"", b"PK\x03\x04", b"\x80\x02", b"GGUF", b"<html>", b"{", b"\x10\0\0\0\0\0\0\0{"))
    return start + rng.randbytes(rng.choice((0, 1, 7, 8, 9, 100, 5000)))


DAMAGES: list[Callable[[Random, bytes], bytes]] = [
    cut,
    flip,
    splice,
    lie_about_length,
    lie_about_tensor,
    odd_metadata,
    odd_json,
    unaligned,
    random_bytes,
]
