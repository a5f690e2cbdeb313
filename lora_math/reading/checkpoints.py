"""Whole models on the disk, read weight by weight: neither fits into memory twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..algebra.extract import Pair
from ..errors import StrataError
from .files import read_header
from .header import Header

# Bytes that are read at a time.
CHUNK = 16 << 20
_MODEL = ("model.diffusion_model.", "diffusion_model.")
_ENCODERS = ("cond_stage_model.", "conditioner.", "text_encoders.")
_OTHERS = (*_ENCODERS, "first_stage_model.", "vae.", "model_ema.", "control_model.")
# Where checkpoints keep text encoders -> what ComfyUI calls these. Those in OpenCLIP's spelling are the second kind.
_TRANSFORMERS = {
    "cond_stage_model.transformer.": "clip_l",
    "conditioner.embedders.0.transformer.": "clip_l",
}
_OPEN_CLIPS = {
    "cond_stage_model.model.": "clip_h",
    "conditioner.embedders.1.model.": "clip_g",
    # SDXL's refiner.
    "conditioner.embedders.0.model.": "clip_g",
}
# Of a text encoder in a file of its own.
_CLIP_WIDTHS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
# OpenCLIP's names within a layer -> Hugging Face's, which ComfyUI has.
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


class Place(NamedTuple):
    """Of one weight in a file: the key, (which, of how many) equal runs of rows where it is a part of what is stored, and whether the
    square matrix there is the other way round."""

    key: str
    part: tuple[int, int] | None = None
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open safetensors file with a diffusion model or text encoders in it, alone or among others."""

    path: str
    file: BinaryIO
    header: Header
    # Where the tensors begin, in bytes.
    start: int

    def places(self) -> dict[str, Place]:
        """Weight by the name that ComfyUI's LoRAs have for it -> where it is.

        Such names begin with ``diffusion_model.`` or, for one, ``text_encoders.clip_l.transformer.``.
        """
        keys = self.header.tensors
        prefix = next((p for p in _MODEL if any(key.startswith(p) for key in keys)), "")
        alone = None if prefix else self._encoder()
        found = {}
        for key in keys:
            if key.startswith(_ENCODERS):
                found.update(_of_encoder(key))
            elif alone is not None:
                found[f"text_encoders.{alone}.transformer.{key}"] = Place(key)
            elif key.startswith(prefix) and not key.startswith(_OTHERS):
                found[f"diffusion_model.{key[len(prefix) :]}"] = Place(key)
        return {name: place for name, place in found.items() if name.endswith((".weight", ".bias"))}

    def shape(self, place: Place) -> tuple[int, ...]:
        rows, *rest = self.header.tensors[place.key].shape or (1,)
        shape = (rows if place.part is None else rows // place.part[1], *rest)
        return shape[::-1] if place.transposed else shape

    def tensor(self, place: Place) -> Tensor:
        """In float32, as a new tensor, and no second one of its size on the way."""
        stored, shape = self.header.tensors[place.key], self.shape(place)
        found = torch.empty(shape[::-1] if place.transposed else shape, dtype=torch.float32)
        flat, width = found.view(-1), stored.dtype.itemsize
        self.file.seek(self.start + stored.start + (0 if place.part is None else place.part[0] * found.numel() * width))
        for at in range(0, found.numel(), CHUNK // width):
            piece = flat[at : at + CHUNK // width]
            data = self.file.read(piece.numel() * width)
            if len(data) < piece.numel() * width:
                raise StrataError(f"{os.path.basename(self.path)} changed while it was being read. Try again.")
            piece.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(stored.dtype))
        return found.mT.contiguous() if place.transposed else found

    def _encoder(self) -> str | None:
        """What ComfyUI calls the text encoder that this file is, None for anything else."""
        keys = self.header.tensors
        table = keys.get("text_model.embeddings.token_embedding.weight")
        if table is not None and len(table.shape) == 2:
            return _CLIP_WIDTHS.get(table.shape[1], "clip_l")
        return "t5xxl" if "encoder.block.0.layer.0.SelfAttention.q.weight" in keys else None


def _of_encoder(key: str) -> Iterator[tuple[str, Place]]:
    if key.startswith("text_encoders."):
        yield key, Place(key)
    for prefix, encoder in _TRANSFORMERS.items():
        if key.startswith(prefix):
            name = key[len(prefix) :]
            outer = "text_model." if name.startswith(("embeddings.", "encoder.", "final_layer_norm.")) else ""
            yield f"text_encoders.{encoder}.transformer.{outer}{name}", Place(key)
    for prefix, encoder in _OPEN_CLIPS.items():
        if key.startswith(prefix):
            for name, place in _of_open_clip(key, key[len(prefix) :]):
                yield f"text_encoders.{encoder}.transformer.{name}", place


def _of_open_clip(key: str, name: str) -> Iterator[tuple[str, Place]]:
    """Its fused q, k, v are three layers in ComfyUI."""
    if name in ("text_projection", "text_projection.weight"):
        yield "text_projection.weight", Place(key, transposed=name == "text_projection")
    if name == "positional_embedding":
        yield "text_model.embeddings.position_embedding.weight", Place(key)
    outer = {"ln_final": "final_layer_norm", "token_embedding": "embeddings.token_embedding"}
    module, _, parameter = name.rpartition(".")
    if module in outer:
        yield f"text_model.{outer[module]}.{parameter}", Place(key)
    if not name.startswith("transformer.resblocks."):
        return
    number, _, inner = name.removeprefix("transformer.resblocks.").partition(".")
    layer = f"text_model.encoder.layers.{number}"
    if inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
        for at, which in enumerate("qkv"):
            yield f"{layer}.self_attn.{which}_proj.{inner.rpartition('_')[2]}", Place(key, (at, 3))
        return
    module, _, parameter = inner.rpartition(".")
    if module in _OPEN_CLIP_LAYER:
        yield f"{layer}.{_OPEN_CLIP_LAYER[module]}.{parameter}", Place(key)


@contextmanager
def open_checkpoint(path: str) -> Iterator[Checkpoint]:
    """Raises LoraFileError for whatever is wrong with the file."""
    header = read_header(path)
    with open(path, "rb") as file:
        data = max((place.stop for place in header.tensors.values()), default=0)
        yield Checkpoint(path, file, header, os.fstat(file.fileno()).st_size - data)


def pairs(base: Checkpoint, tuned: Checkpoint) -> Iterator[Pair]:
    """The weights that both have, in the first one's order. Raises StrataError where the two are different models."""
    ours, theirs = base.places(), tuned.places()
    if not ours.keys() & theirs.keys():
        raise StrataError(
            f"{os.path.basename(base.path)} and {os.path.basename(tuned.path)} have no weight of the same name: these are different "
            "kinds of model."
        )
    for name, place in ours.items():
        if name not in theirs:
            continue
        shape, other = base.shape(place), tuned.shape(theirs[name])
        if shape != other:
            raise StrataError(
                f"{name} is {_sizes(shape)} in {os.path.basename(base.path)} and {_sizes(other)} in "
                f"{os.path.basename(tuned.path)}: these are different kinds of model."
            )
        if all(_is_float(of.header.tensors, at.key) for of, at in ((base, place), (tuned, theirs[name]))):
            yield Pair(name, shape, lambda at=place: base.tensor(at), lambda at=theirs[name]: tuned.tensor(at))


def _is_float(tensors: Mapping, key: str) -> bool:
    return tensors[key].dtype.is_floating_point


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def place_of(name: str) -> tuple[str, str]:
    """(module in a LoRA file, parameter) of a weight, as ComfyUI reads them for every family."""
    module, _, parameter = name.rpartition(".")
    return module, parameter
