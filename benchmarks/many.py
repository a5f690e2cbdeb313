"""Many LoRAs of a high rank under ``auto``: what is waited for before the first step, and what each step takes then."""

from __future__ import annotations

import tempfile
from pathlib import Path

import comfy.model_management

from strata.nodes.loader import StrataLoraLoader

from . import loras, models
from .machine import Times, now, ratio
from .results import seconds, table
from .sampling import TYPES


def many(quick: bool) -> str:
    """Loading and patching, the first and the second step, and a step of the model alone."""
    rows = []
    count, rank, rounds = (3, 16, 1) if quick else (10, 64, 2)
    for name, latent in [("SD1.5", 16)] if quick else [("SD1.5", 64), ("SDXL", 64)]:
        model = models.build(name, *TYPES[name])
        run = loras.Sampler(model, name, latent)
        found: dict[str, list[tuple[float, ...]]] = {"no LoRA": [], "auto": [], "live": []}
        with tempfile.TemporaryDirectory() as folder:
            (file,) = loras.lora_files(Path(folder), models.lora(model, rank), 1)
            # The first run of a model is slower.
            run(lambda model=model: model)
            for number in range(rounds):
                for way, times in found.items():
                    # Takes the patches of the way before off, unmeasured.
                    comfy.model_management.load_models_gpu([model])
                    loaded = model
                    for _ in range(0 if way == "no LoRA" else count):
                        # Another strength each time: else what was patched before stays.
                        loaded = StrataLoraLoader.execute(file, 0.1 + 0.01 * number, 0.0, apply=way, model=loaded)[0]
                    times.append(_steps(run, loaded))
                    print(name, way, *times[-1], flush=True)
        without = Times([times[2] for times in found.pop("no LoRA")])
        for way, times in found.items():
            before, first, second = map(Times, zip(*times, strict=True))
            rows.append(
                (
                    *(f"{name} {latent}x{latent}", rank, count, way),
                    *(seconds(each.median) for each in (before, first, second, without)),
                    *(ratio(first, second), ratio(second, without)),
                )
            )
    columns = (
        "model, latent",
        "rank",
        "LoRAs",
        "apply",
        "loading and patching",
        "first step",
        "second step",
        "without",
    )
    return table(
        "Many LoRAs of a high rank",
        (*columns, "first / second", "step / without"),
        rows,
        "Chained loaders, all constant. Loading and patching: from the sampler's beginning to the first time that it asks the model.",
    )


def _steps(run: loras.Sampler, model) -> tuple[float, float, float]:
    """Seconds (before the model is asked, of the first step, of the second step)."""
    asked = []

    def ask(apply_model, given):
        asked.append(now())
        return apply_model(given["input"], given["timestep"], **given["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(ask)
    began = now()
    first, second = run(lambda: clone)
    return asked[0] - began, began + first - asked[0], second
