"""Writes what the trainings made as the files that are shipped: float16, under the names that ComfyUI's loaders list."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import data
from .base import base_model
from .loras import RECIPES
from .vae import load_vae

MODELS = Path(__file__).with_name("models")
CREDIT = "MIT; drawings: Fluent Emoji, MIT, Microsoft Corporation"


def write(tensors: dict[str, torch.Tensor], path: Path, **about: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, path, {f"modelspec.{name}": text for name, text in about.items()} | {"modelspec.license": CREDIT})


def export(work: Path) -> None:
    """Everything that is there by now; a LoRA that is not trained yet is left out."""
    flux = base_model(work).state_dict()
    write(
        flux,
        MODELS / "diffusion_models" / "strata_toy_flux.safetensors",
        title="Strata toy",
        architecture="flux-1-schnell",
    )
    write(load_vae(work).state_dict(), MODELS / "vae" / "strata_toy_vae.safetensors", title="Strata toy, autoencoder")
    for name in RECIPES:
        made = work / "loras" / f"{name}.safetensors"
        if made.is_file():
            (MODELS / "loras").mkdir(exist_ok=True)
            shutil.copyfile(made, MODELS / "loras" / made.name)
    data.write_sheet(work)
