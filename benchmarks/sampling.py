"""Steps of a sampler with LoRAs: after a moved slider, beside the layers, and at strengths that vary."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import comfy.hooks
import comfy.model_management
import torch

from strata.lora_math.adapters import LoRA, TLoRA
from strata.lora_math.schedule import parse

from . import loras, models
from .machine import Times, alternate, ratio
from .results import seconds, table

# Stored in, computed in (None: the same). SDXL in float32 twice, the model and what ComfyUI keeps of it while it is patched, is more
# than a small machine has; and a CPU without bfloat16 of its own, where ComfyUI computes in float32, takes twenty times as long in it.
TYPES = {
    "SD1.5": (torch.float32, None),
    "SDXL": (torch.float16, torch.float32),
    "FLUX": (torch.bfloat16, torch.float32),
}


def sampling(quick: bool) -> str:
    """First and second step after a moved slider, and a step with live LoRAs against one without."""
    moved, overhead = [], []
    cases = [("SD1.5", 32, 16, 1), ("FLUX", 32, 16, 1)]  # model, latent, rank, LoRAs
    if not quick:
        cases = [("SD1.5", 64, 16, 1), ("FLUX", 64, 16, 1), *itertools.product(TYPES, (32,), (16, 64), (1, 5, 10))]
        cases.sort(key=lambda case: tuple(TYPES).index(case[0]))  # each model is built once
    built, model = None, None
    for name, latent, rank, count in cases:
        if name != built:
            model = None  # before the next: two do not fit a small machine
            built, model = name, models.build(name, *TYPES[name])
        # Single LoRAs of a low rank, where the differences are small, are looked at longer.
        steps = _moved_slider(model, name, latent, rank, count, 3 if (rank, count) == (16, 1) and not quick else 1)
        first = {way: Times([a for a, _ in pairs]) for way, pairs in steps.items()}
        second = {way: Times([b for _, b in pairs]) for way, pairs in steps.items()}
        case = (f"{name} {latent}x{latent}", rank, count)
        for way in ("Strata live", "Strata patch", "ComfyUI"):
            extra = Times([max(a - b, 0) for a, b in steps[way]]).median
            numbers = (first[way].median, second[way].median, extra)
            moved.append((*case, way, *map(seconds, numbers), ratio(first[way], second[way])))
        live, without = second["Strata live"], second["no LoRA"]
        overhead.append((*case, seconds(without.median), seconds(live.median), ratio(live, without)))
    turnaround = table(
        "A moved slider",
        ("model, latent", "rank", "LoRAs", "", "first step", "second step", "extra", "first / second"),
        moved,
        "From the changed strength to the end of the first step, the patches' making included; the model was loaded before. Live factors",
        "lie in the type of the computation during a run only: ten of rank 64 on SDXL are some gigabytes to cast before each.",
    )
    steps = table(
        "A step with live LoRAs",
        ("model, latent", "rank", "LoRAs", "without", "live", "live / without"),
        overhead,
        "FLUX at 64x64: 1024 image tokens. The added arithmetic alone is rank * (1 / in + 1 / out) of a layer's for each LoRA: at rank 16",
        "1.0 % for 3072x3072, 10 % for 320x320, 5.6 % for a 3x3 convolution with 320 channels. All compute in float32, as ComfyUI does on",
        "a CPU; SDXL is stored in float16 and FLUX in bfloat16.",
    )
    return f"{turnaround}\n\n{steps}"


def _moved_slider(
    model, name: str, latent: int, rank: int, count: int, rounds: int
) -> dict[str, list[tuple[float, ...]]]:
    """way -> seconds of the (first, second) step of each round, every one at another strength."""
    run, tensors = loras.Sampler(model, name, latent), models.lora(model, rank)
    adapters = loras.adapters_of(model, tensors)
    strengths = (0.001 * number for number in itertools.count(1))
    ways = {
        "Strata live": lambda: loras.live(model, adapters, next(strengths), count),
        "Strata patch": lambda: loras.patched(model, adapters, next(strengths), count),
        "ComfyUI": lambda: loras.core(model, tensors, next(strengths), count),
        "no LoRA": lambda: model,
    }
    run(ways["no LoRA"])  # the first run of a model is slower
    steps: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, make in ways.items():
            comfy.model_management.load_models_gpu([model])  # takes the patches of the way before off, unmeasured
            steps[way].append(run(make))
    return steps


def schedule(quick: bool) -> str:
    """Ten steps with a new strength at each, live and by ComfyUI's hooks, against ten steps at one strength."""
    rows = []
    for name, latent, rounds in [("SD1.5", 16, 1)] if quick else [("SD1.5", 16, 3), ("SDXL", 16, 3), ("FLUX", 16, 3)]:
        # ComfyUI's own way takes minutes, and what it takes is not ours to watch.
        ways = {"live": "Strata live"} if quick else {"live": "Strata live", "core": "ComfyUI's hooks"}
        found = _schedule(models.build(name, *TYPES[name]), name, latent, rounds, ways)
        for way, label in ways.items():
            one, ten = found[way], found[f"{way}_schedule"]
            rows.append((f"{name} {latent}x{latent}", label, seconds(one.median), seconds(ten.median), ratio(ten, one)))
    return table(
        "A strength that changes at every one of ten steps",
        ("model, latent", "", "one strength", "ten strengths", "ten / one"),
        rows,
        "One LoRA of rank 16.",
    )


def _schedule(model, name: str, latent: int, rounds: int, ways: Collection[str]) -> dict[str, Times]:
    tensors = models.lora(model, 16)
    adapters = loras.adapters_of(model, tensors)
    run = loras.Sampler(model, name, latent, 10)

    def keyframes() -> comfy.hooks.HookKeyframeGroup:
        group = comfy.hooks.HookKeyframeGroup()
        for step in range(10):
            group.add(comfy.hooks.HookKeyframe(1 - 0.05 * step, step / 10))
        return group

    def hooked(scheduled: bool) -> float:
        hooks = comfy.hooks.create_hook_lora(tensors, 0.8, 0.0)
        if scheduled:
            hooks.set_keyframes_on_hooks(keyframes())
        [[context, extra]] = plain = run.prompt
        run.prompt = [[context, {**extra, "hooks": hooks}]]
        try:
            run(lambda: model)
        finally:
            run.prompt = plain

    candidates = {
        "live": lambda: run(lambda: loras.live(model, adapters, 0.8)),
        "live_schedule": lambda: run(lambda: loras.live(model, adapters, 0.8, keyframes=keyframes())),
        "core": lambda: hooked(False),
        "core_schedule": lambda: hooked(True),
    }
    return alternate(rounds, **{name: make for name, make in candidates.items() if name.split("_")[0] in ways})


# (model, latent, rounds).
VARIATION = [("SD1.5", 64, 2), ("FLUX", 64, 2), ("SD1.5", 16, 3)]


def variation(quick: bool) -> str:
    """A step with a live LoRA whose strength varies, against the same LoRA at one strength."""
    rows = []
    for name, latent, rounds in [("SD1.5", 16, 1)] if quick else VARIATION:
        model = models.build(name, *TYPES[name])
        adapters = loras.adapters_of(model, models.lora(model, 16))
        run = loras.Sampler(model, name, latent, 2, cfg=3.0)
        ways = {
            "constant": {},
            "over time": {"keyframes": parse("1@0%, 0.2@100%")},
            "by prompt": {"prompts": (1.0, 0.5)},
            "by mask": {"mask": torch.linspace(1, 0, 512).expand(1, 512, 512)},
        }
        # A T-LoRA's step costs what an ordinary live LoRA of twice its rank does.
        of_twice = loras.adapters_of(model, models.lora(model, 32))
        of_each_step = {key: _t_lora(adapter) for key, adapter in of_twice.items()}
        run(lambda model=model: model)  # the first run of a model is slower
        makers = {way: (adapters, settings) for way, settings in ways.items()}
        makers |= {"constant, rank 32": (of_twice, {}), "T-LoRA": (of_each_step, {})}
        second: dict[str, list[float]] = {way: [] for way in makers}
        for _ in range(rounds):
            for way, (own, settings) in makers.items():
                make = lambda settings=settings, model=model, own=own: loras.live(model, own, 0.8, **settings)  # noqa: E731
                second[way].append(run(make)[1])
        for way, found in second.items():
            base = "constant, rank 32" if way == "T-LoRA" else "constant"
            if way not in ("constant", "constant, rank 32"):
                constant = Times(second[base])
                times = seconds(constant.median), seconds(Times(found).median)
                rows.append((f"{name} {latent}x{latent}", way, *times, ratio(Times(found), constant)))
                # These take minutes: what is known is seen.
                print(*rows[-1], flush=True)
    return table(
        "A step with a strength that varies",
        ("model, latent", "", "constant", "varies", "varies / constant"),
        rows,
        "One live LoRA of rank 16, both prompts in one batch of two (cfg 3). FLUX at 64x64: 1024 image tokens. A T-LoRA of rank 16 is",
        "beside a constant live LoRA of twice its rank.",
    )


def _t_lora(adapter: LoRA) -> LoRA:
    """A T-LoRA with these factors; one of another kind as it is."""
    return (
        TLoRA(adapter.up, adapter.down, None, adapter.scale)
        if type(adapter) is LoRA and adapter.mid is None
        else adapter
    )
