"""Slider moves one after the other, as a person makes them all day: nothing may grow, and the model must come back."""

from __future__ import annotations

import gc
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.hooks
import comfy.model_management
import comfy.sample
import folder_paths
import psutil
import safetensors.torch
import torch

from strata.nodes.comfy import live_run
from strata.nodes.comfy.library import CACHE
from strata.nodes.loader import StrataLoraLoader

from . import models
from .results import size, table

BLOCKS = (None, None, "default=0.7", "0%-50%=0.2")
Sample = Callable[..., object]  # (model, callback) -> a latent


class Moves:
    """Random moves on one model: one or two LoRAs, strengths, block weights, patch or live, keyframes, and interrupts in between."""

    def __init__(self, model, files: Sequence[str], sample: Sample, seed: int = 0):
        self.model, self.files, self.sample = model, files, sample
        self.random = random.Random(seed)
        self.made: Counter[str] = Counter()

    def make(self) -> None:
        dice, model = self.random, self.model
        for name in dice.sample(self.files, dice.choice((1, 1, 2))):
            apply, keyframes = dice.choice(("patch", "live")), None
            if dice.random() < 0.2:
                keyframes = comfy.hooks.HookKeyframeGroup()
                keyframes.add(comfy.hooks.HookKeyframe(dice.random(), 0.0))
            model = StrataLoraLoader.execute(
                name,
                round(dice.uniform(-1, 1), 2),
                0.0,
                model=model,
                apply=apply,
                block_weights=dice.choice(BLOCKS),
                keyframes=keyframes,
            ).result[0]
            self.made["live" if keyframes else apply] += 1
        stop = dice.choice((None, None, None, "while loading", "after a step"))
        if stop is None:
            self.sample(model, None)
            return
        if stop == "while loading":
            comfy.model_management.interrupt_current_processing()
        try:
            self.sample(model, _interrupt)
        except comfy.model_management.InterruptProcessingException:
            self.made["interrupted"] += 1


def _interrupt(*_) -> None:
    raise comfy.model_management.InterruptProcessingException


@dataclass(frozen=True)
class State:
    """What could grow: resident bytes, objects by type, and the lists that each run adds to."""

    rss: int
    objects: Counter
    lists: dict[str, int]

    @classmethod
    def of(cls, model) -> State:
        comfy.model_management.unload_all_models()
        gc.collect()
        objects = Counter(type(each).__qualname__ for each in gc.get_objects())
        return cls(psutil.Process().memory_info().rss, objects, _lists(model))

    def grown(self, since: State) -> Counter:
        """Type -> how many more objects of it there are."""
        return self.objects - since.objects


def _lists(model) -> dict[str, int]:
    modules = list(model.model.modules())
    return {
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
        "running": sum(map(len, live_run._running.values())),
        "patches": len(model.patches),
        "options": len(str(model.model_options) + str(model.wrappers) + str(model.callbacks) + str(model.attachments)),
        "models": len(comfy.model_management.current_loaded_models),
        "files being read": len(CACHE._reading),
    }


def weights(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.model.state_dict().items()}


def changed(model, before: dict[str, torch.Tensor]) -> list[str]:
    """Weights of the unloaded model that are not bit for bit those from before."""
    comfy.model_management.unload_all_models()
    now = model.model.state_dict()
    return [key for key, value in before.items() if not torch.equal(value, now[key])]


def cycles(quick: bool) -> str:
    """The moves on a whole SD1.5, three LoRAs of rank 16 on every layer."""
    model, latent = models.build("SD1.5", torch.float16, torch.float32), models.inputs("SD1.5", 8)
    before, rows = weights(model), []
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
        files = [f"{seed}.safetensors" for seed in range(3)]
        for seed, name in enumerate(files):
            safetensors.torch.save_file(models.lora(model, 16, seed), Path(folder) / name)
        moves = Moves(model, files, partial(_sample, *latent))
        for number in range(1, (20 if quick else 200) + 1):
            moves.make()
            if number in (1, 10, 20, 50, 100, 150, 200):
                rows.append((number, size(State.of(model).rss), size(CACHE.nbytes), len(changed(model, before))))
    made = ", ".join(f"{count} {kind}" for kind, count in sorted(moves.made.items()))
    return table(
        "Moved sliders: SD1.5 of real size, stored in float16",
        ("moves", "resident memory", "of that LoRA files", "weights that differ from before"),
        rows,
        f"One or two LoRAs and one sampling step a move; LoRAs and runs of each kind: {made}.",
    )


def _sample(noise: torch.Tensor, prompt: list, model, callback) -> torch.Tensor:
    return comfy.sample.sample(
        *(model, noise, 1, 1.0, "euler", "simple", prompt, prompt, torch.zeros_like(noise)),
        disable_pbar=True,
        callback=callback,
        seed=1,
    )
