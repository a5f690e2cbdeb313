"""Pickled files: sound ones, damaged ones, and ones that want more than to be read."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from random import Random

import torch

Tensors = Mapping[str, torch.Tensor]
MARK = "code-was-run"


class Evil:
    """Makes a folder named MARK where it is unpickled without care."""

    def __reduce__(self):
        return (os.mkdir, (MARK,))


class Greedy:
    def __reduce__(self):
        return (bytearray, (1 << 40,))


def saved(value, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def sound(rng: Random, tensors: Tensors) -> bytes:
    return saved(rng.choice((tensors, {"state_dict": tensors, "epoch": 3})), rng.random() < 0.3)


def damaged(rng: Random, tensors: Tensors) -> bytes:
    found = bytearray(saved(tensors, rng.random() < 0.3))
    for _ in range(rng.choice((1, 3, 50))):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found[: rng.choice((len(found), rng.randrange(len(found))))])


def evil(rng: Random, tensors: Tensors) -> bytes:
    return saved({**tensors, "x": rng.choice((Evil(), Greedy(), io.BytesIO(b"x")))}, rng.random() < 0.3)


def packed_small(rng: Random, tensors: Tensors) -> bytes:
    """An archive that unpacks to a thousand times its size."""
    stream = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(saved({**tensors, "x": torch.zeros(8_000_000)})))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return stream.getvalue()


def no_lora(rng: Random, tensors: Tensors) -> bytes:
    itself: dict = dict(tensors)
    itself["state_dict"] = itself
    deep: list = []
    for _ in range(rng.choice((10, 400))):
        deep = [deep]
    return saved(
        rng.choice(
            (
                itself,
                [*tensors.values()],
                {"state_dict": {"state_dict": {"state_dict": dict(tensors)}}},
                {1: torch.zeros(2), ("a",): torch.zeros(2)},
                {key: None for key in tensors},
                {"x": deep},
                torch.zeros(3),
                3,
            )
        )
    )


def odd_tensors(rng: Random, tensors: Tensors) -> bytes:
    """Tensors of kinds that claim more than they hold, or hold it in other ways."""
    key = rng.choice(list(tensors))
    wide = torch.zeros(1).expand(1 << 20, 1 << 20)
    sparse = torch.eye(4).to_sparse()
    quantized = torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)
    odd = rng.choice(
        (
            wide,
            sparse,
            quantized,
            torch.nn.Parameter(tensors[key].float()),
            tensors[key].T,
            torch.ones(3, 2, device="meta"),
        )
    )
    return saved({**tensors, key: odd})


PICKLES: list[Callable[[Random, Tensors], bytes]] = [sound, damaged, damaged, evil, packed_small, no_lora, odd_tensors]
