"""Whole models on the disk, read weight by weight: neither fits into memory twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from ..algebra.extract import Pair
from ..errors import StrataError
from .files import Header, read_header

_MODEL = ("model.diffusion_model.", "diffusion_model.")
_OTHERS = (
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "vae.",
    "model_ema.",
    "control_model.",
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open safetensors file with a diffusion model in it, alone or among others."""

    path: str
    file: BinaryIO
    header: Header
    start: int  # of the tensors, in bytes

    def keys(self) -> dict[str, str]:
        """Weight of the diffusion model, without any prefix -> key in the file."""
        found = {}
        prefix = next((p for p in _MODEL if any(key.startswith(p) for key in self.header.tensors)), "")
        for key in self.header.tensors:
            if key.startswith(prefix) and not (not prefix and key.startswith(_OTHERS)):
                found[key[len(prefix) :]] = key
        return found

    def tensor(self, key: str) -> Tensor:
        """In float32, as a new tensor."""
        place = self.header.tensors[key]
        self.file.seek(self.start + place.start)
        data = self.file.read(place.nbytes)
        if len(data) < place.nbytes:
            raise StrataError(f"{os.path.basename(self.path)} changed while it was being read. Try again.")
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
        return raw.view(place.dtype).reshape(place.shape).to(torch.float32)


@contextmanager
def open_checkpoint(path: str) -> Iterator[Checkpoint]:
    """Raises LoraFileError for whatever is wrong with the file."""
    header = read_header(path)
    with open(path, "rb") as file:
        data = max((place.stop for place in header.tensors.values()), default=0)
        yield Checkpoint(path, file, header, os.fstat(file.fileno()).st_size - data)


def pairs(base: Checkpoint, tuned: Checkpoint) -> Iterator[Pair]:
    """The weights that both have, in the first one's order. Raises StrataError where the two are different models."""
    ours, theirs = base.keys(), tuned.keys()
    for name, key in ours.items():
        if name not in theirs:
            continue
        shape, other = base.header.tensors[key].shape, tuned.header.tensors[theirs[name]].shape
        if shape != other:
            raise StrataError(
                f"{name} is {'x'.join(map(str, shape))} in {os.path.basename(base.path)} and {'x'.join(map(str, other))} in "
                f"{os.path.basename(tuned.path)}: these are different kinds of model."
            )
        if base.header.tensors[key].dtype.is_floating_point and name.endswith((".weight", ".bias")):
            yield Pair(name, shape, lambda key=key: base.tensor(key), lambda key=theirs[name]: tuned.tensor(key))


def place_of(name: str) -> tuple[str, str]:
    """(module in a LoRA file, parameter) of a diffusion model's weight, as ComfyUI reads them for every family."""
    module, _, parameter = name.rpartition(".")
    return f"diffusion_model.{module}", parameter
