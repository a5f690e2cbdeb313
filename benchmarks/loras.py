"""How LoRAs come onto a model, by ComfyUI and by Strata: their files and adapters, clones that have them, a sampler that times steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import comfy.sample
import comfy.sd
import folder_paths
import safetensors.torch
import torch

from strata.lora_math.adapters import LoRA
from strata.lora_math.reading import state_dict
from strata.nodes.comfy import patch, targets
from strata.nodes.comfy.live import LiveLora, attach
from strata.nodes.fitting.fit import match

from . import models
from .machine import now


def lora_files(folder: Path, tensors: dict, count: int) -> list[str]:
    """The names of so many equal files in ``folder``, which becomes ComfyUI's only folder of LoRAs."""
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    folder_paths.filename_list_cache.clear()
    names = [f"{number}.safetensors" for number in range(count)]
    for name in names:
        safetensors.torch.save_file(tensors, folder / name)
    return names


def adapters_of(model, tensors: dict) -> dict[str, LoRA]:
    """patch key -> adapter."""
    found = match(state_dict.parse(tensors, {}).entries, targets.model_targets(model)).adapters()
    return {key: adapter for key, (adapter,) in found.items()}


def live(model, adapters, strength, count=1, keyframes=None, prompts=(1.0, 1.0), mask=None):
    """A clone with so many live LoRAs."""
    clone = model.clone()
    for number in range(count):
        changes = {key: [(strength, adapter)] for key, adapter in adapters.items()}
        attach(clone, LiveLora(changes, str(number), keyframes, prompts=prompts, mask=mask))
    return clone


def patched(model, adapters, strength, count=1):
    """A clone with so many LoRAs as patches of ours."""
    clone = model.clone()
    for _ in range(count):
        patch.add(clone, {key: [(strength, adapter)] for key, adapter in adapters.items()})
    return clone


def core(model, tensors, strength, count=1):
    """A clone with so many LoRAs as ComfyUI's loader has them."""
    for _ in range(count):
        model = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0.0)[0]
    return model


class Sampler:
    """Steps of Euler, two unless said; returns the seconds of each, the first from when the loader starts."""

    def __init__(self, model, name: str, size: int, steps: int = 2, cfg: float = 1.0):
        self.noise, self.prompt = models.inputs(name, size)
        self.steps, self.cfg = steps, cfg

    def __call__(self, make) -> tuple[float, ...]:
        times = [now()]
        comfy.sample.sample(
            *(
                make(),
                self.noise,
                self.steps,
                self.cfg,
                "euler",
                "simple",
                self.prompt,
                self.prompt,
                torch.zeros_like(self.noise),
            ),
            callback=lambda *_: times.append(now()),
            disable_pbar=True,
            seed=1,
        )
        return tuple(b - a for a, b in itertools.pairwise(times))
