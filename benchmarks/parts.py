"""What is measured, one function to a table."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import comfy.float
import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
import folder_paths
import safetensors.torch
import torch

import nodes
from strata.lora_math.adapters import LoRA, TLoRA
from strata.lora_math.fuse import joined
from strata.lora_math.reading import state_dict
from strata.lora_math.schedule import parse
from strata.nodes.comfy import patch, targets
from strata.nodes.comfy.library import CACHE
from strata.nodes.comfy.live import LiveLora, attach
from strata.nodes.fitting.fit import match
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_stack import StrataLoraStack

from . import models
from .machine import Times, alternate, now, peak_memory, ratio
from .results import seconds, size, table

# Stored in, computed in (None: the same). SDXL in float32 twice, the model and what ComfyUI keeps of it while it is patched, is more
# than a small machine has; and a CPU without bfloat16 of its own, where ComfyUI computes in float32, takes twenty times as long in it.
TYPES = {
    "SD1.5": (torch.float32, None),
    "SDXL": (torch.float16, torch.float32),
    "FLUX": (torch.bfloat16, torch.float32),
}


def loaders(quick: bool) -> str:
    """Chained loader nodes."""
    rows = []
    cases = [("SD1.5", 16, 10)]  # model, rank, LoRAs
    if not quick:
        cases += [("SDXL", 16, 1), ("SDXL", 16, 5), ("SDXL", 16, 10), ("SDXL", 64, 1), ("FLUX", 16, 10)]
    for name, rank, count in cases:
        model = models.build(name, torch.float16)
        with tempfile.TemporaryDirectory() as folder:
            files = _files(Path(folder), models.lora(model, rank), count)
            kept = [nodes.LoraLoader() for _ in files]
            found = alternate(
                1 if quick else 5,
                core_cold=partial(_core_chain, model, files, None),
                cold=partial(_chain, model, files, True),
                core_warm=partial(_core_chain, model, files, kept),
                warm=partial(_chain, model, files, False),
            )
            for state in ("cold", "warm"):
                a, b = found[f"core_{state}"], found[state]
                rows.append((name, rank, count, state, seconds(a.median), seconds(b.median), ratio(a, b)))
            CACHE.clear()
    return table(
        "Building the MODEL: chained loaders",
        ("model", "rank", "LoRAs", "", "ComfyUI", "Strata", "ratio"),
        rows,
        "Cold reads and understands the files, and Strata looks at every number in them for NaN and infinity; warm is a moved slider.",
        "Nothing is loaded or patched yet. FLUX has 1 double and 2 single blocks here, so fewer names than the whole.",
    )


def stack(quick: bool) -> str:
    """Many LoRAs in one node."""
    rows = []
    for name, count in (("SD1.5", 10),) if quick else (("SD1.5", 10), ("SDXL", 10), ("SDXL", 50)):
        model = models.build(name, torch.float16)
        with tempfile.TemporaryDirectory() as folder:
            files = _files(Path(folder), models.lora(model, 16 if count < 50 else 1), count)
            kept = [nodes.LoraLoader() for _ in files]
            text = "\n".join(f"<lora:{file}:0.8:0>" for file in files)
            _chain(model, files, False)  # reads the files
            found = alternate(
                2 if quick else 5,
                core=partial(_core_chain, model, files, kept),
                new_loaders=partial(_core_chain, model, files, None),
                chain=partial(_chain, model, files, False),
                stack=partial(StrataLoraStack.execute, text, model=model),
            )
            ours = found.pop("stack")
            others = [f"{seconds(times.median)}, {ratio(times, ours)}" for times in found.values()]
            rows.append((name, count, *others, seconds(ours.median)))
            CACHE.clear()
    return table(
        "Many LoRAs in one node: a moved slider",
        ("model", "LoRAs", "ComfyUI's loaders", "a new loader for each row", "chained Strata loaders", "LoRA Stack"),
        rows,
        "Behind each time: how many times that of LoRA Stack it is. A new LoraLoader for each row at every run, which reads its file anew,",
        "is how rgthree's Power Lora Loader applies its rows. The LoRAs are of rank 16, of the fifty rank 1.",
    )


def _core_chain(model, files: list[str], kept: list | None) -> None:
    """kept: nodes that hold their files from before, None for new ones."""
    for file, node in zip(files, kept or [nodes.LoraLoader() for _ in files], strict=True):
        model = node.load_lora(model, None, file, 0.8, 0.0)[0]


def _chain(model, files: list[str], cold: bool) -> None:
    if cold:
        CACHE.clear()
        targets._known.clear()
    for file in files:
        model = StrataLoraLoader.execute(file, 0.8, 0.0, model=model).result[0]


def _files(folder: Path, tensors: dict, count: int) -> list[str]:
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    folder_paths.filename_list_cache.clear()
    names = [f"{number}.safetensors" for number in range(count)]
    for name in names:
        safetensors.torch.save_file(tensors, folder / name)
    return names


def understanding(quick: bool) -> str:
    """From the tensors of one file to the weights that they belong to."""
    rows = []
    for name in ("SD1.5",) if quick else ("SD1.5", "SDXL"):
        model = models.build(name, torch.float16)
        tensors, known = models.lora(model, 16), targets.model_targets(model)
        found = alternate(
            2 if quick else 15,
            core=lambda model=model, tensors=tensors: comfy.lora.load_lora(
                tensors, comfy.lora.model_lora_keys_unet(model.model, {})
            ),
            strata=lambda tensors=tensors, known=known: match(state_dict.parse(tensors, {}).entries, known),
        )
        core, ours = found["core"], found["strata"]
        rows.append((name, len(tensors) // 3, seconds(core.median), seconds(ours.median), ratio(core, ours)))
    return table(
        "Understanding one file",
        ("model", "modules", "ComfyUI", "Strata", "ratio"),
        rows,
        "ComfyUI: its key map and `load_lora`, as at every load; Strata: parsing and finding the weights, once for a file. The names of",
        "the model's weights, which Strata keeps while the model lives, are known.",
    )


def analysis(quick: bool) -> str:
    """Where a LoRA's energy lies: the norm of every change."""
    rows = []
    high = 16 if quick else 128
    square = torch.randn(2048, 2048)
    for name, model, rank, without in (
        ("SDXL", models.build("SDXL", torch.float16), 16, ()),
        ("FLUX.1, every layer", models.whole_flux(), high, ()),
        ("FLUX.1, attention and MLP", models.whole_flux(), high, ("_mod.", ".modulation.")),
    ):
        adapters = _adapters(model, models.lora(model, rank))
        adapters = {key: adapter for key, adapter in adapters.items() if not any(part in key for part in without)}
        shapes = {key: value.shape for key, value in model.model.state_dict().items()}
        # Half of up^T up and half of down down^T, the diagonal included: both are symmetric.
        least = sum(rank * (rank + 1) * (len(a.up) + a.down[0].numel()) for a in adapters.values())
        times = []
        for threads in (1, 2):
            with _threads(threads):
                found = alternate(
                    1 if quick else 9,
                    exact=lambda adapters=adapters, shapes=shapes: [
                        adapter.squared_norm(shapes[key]) for key, adapter in adapters.items()
                    ],
                    square=lambda: square @ square,
                )
            times.append(found["exact"].median)
        floor = found["square"].median * least / (2 * len(square) ** 3)
        rows.append((name, rank, len(adapters), f"{least / 1e9:.1f}", *map(seconds, (*times, floor))))
    return table(
        "Energy of every block",
        ("LoRA for", "rank", "modules", "GFLOP at least", "one thread", "two threads", "floor of two threads"),
        rows,
        "Exact Frobenius norms from the factors; once for a file. One thread in CPU seconds, two in seconds by the clock. The floor is the",
        "least arithmetic at the speed of a product of two 2048x2048 matrices on this machine, which a product as small as the rank does",
        "not reach; reading the factors and casting them are not in it.",
    )


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def applying(quick: bool) -> str:
    """Adding the LoRAs to the weights, weight by weight, as ComfyUI's full load does it."""
    rows = []
    for name, stored in (("SD1.5", torch.float16), ("SDXL", torch.float16), ("FLUX", torch.bfloat16)):
        model = models.build(name, stored)
        for rank in (16, 64):
            tensors = models.lora(model, rank)
            adapters = _adapters(model, tensors)
            for count in (1, 5, 10):
                core, ours = model.clone(), model.clone()
                loaded = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model.model, {}))
                for _ in range(count):
                    core.add_patches(loaded, 0.8)
                    patch.add(ours, {key: [(0.8, adapter)] for key, adapter in adapters.items()})
                # A sample of the weights, the same for all: every n-th, in the order of their sizes.
                keys = sorted(adapters, key=lambda key: model.model.state_dict()[key].numel())
                keys = keys[(step := {"SD1.5": 18, "SDXL": 100, "FLUX": 6}[name] * (3 if quick else 1)) // 2 :: step]
                found = alternate(
                    1 if quick else 2,
                    core=lambda keys=keys, core=core: _patch_all(core, keys),
                    strata=lambda keys=keys, ours=ours: _patch_all(ours, keys),
                    floor=_floor(model, keys, adapters, count),
                )
                share = len(keys) / len(adapters)
                core, ours, floor = (found[way] for way in ("core", "strata", "floor"))
                times = (seconds(each.median / share) for each in (core, ours, floor))
                ratios = (ratio(core, ours), ratio(core, floor), ratio(ours, floor))
                rows.append((name, rank, count, *times, *ratios))
    return table(
        "Applying patches",
        (
            "model",
            "rank",
            "LoRAs",
            "ComfyUI",
            "Strata",
            "floor",
            "ComfyUI / Strata",
            "ComfyUI / floor",
            "Strata / floor",
        ),
        rows,
        "Every weight is copied to float32, patched and rounded back, as in a full load on this device; seconds for the whole model,",
        "scaled up from a sample of its weights. The floor is that copy, one bare `addmm_` with all factors already joined in float32,",
        "and the rounding: what no way of adding the same matrices in float32 can beat. ComfyUI / floor is therefore the most that can",
        "be gained here. It is bounded because both do the same multiplications, and with several LoRAs of a high rank these are nearly",
        "all of the work on one CPU core; what fusing saves is the passes over memory, one full-size product and sum for each LoRA.",
    )


def _adapters(model, tensors: dict) -> dict[str, LoRA]:
    """patch key -> adapter."""
    found = match(state_dict.parse(tensors, {}).entries, targets.model_targets(model)).adapters()
    return {key: adapter for key, (adapter,) in found.items()}


def _patch_all(patcher, keys) -> None:
    for key in keys:
        patcher.patch_weight_to_device(key, return_weight=True)


def _floor(model, keys, adapters: dict[str, LoRA], count: int):
    factors = {key: joined([(0.8, adapters[key])] * count, torch.float32) for key in keys}

    def run() -> None:
        for key in keys:
            weight = comfy.utils.get_attr(model.model, key)
            wide = weight.to(torch.float32, copy=True)
            up, down, scale = factors[key]
            wide.view(len(wide), -1).addmm_(up, down, alpha=scale)
            comfy.float.stochastic_rounding(wide, weight.dtype)

    return run


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
    run, tensors = _Sampler(model, name, latent), models.lora(model, rank)
    adapters = _adapters(model, tensors)
    strengths = (0.001 * number for number in itertools.count(1))
    ways = {
        "Strata live": lambda: _live(model, adapters, next(strengths), count),
        "Strata patch": lambda: _patched(model, adapters, next(strengths), count),
        "ComfyUI": lambda: _core(model, tensors, next(strengths), count),
        "no LoRA": lambda: model,
    }
    run(ways["no LoRA"])  # the first run of a model is slower
    steps: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, make in ways.items():
            comfy.model_management.load_models_gpu([model])  # takes the patches of the way before off, unmeasured
            steps[way].append(run(make))
    return steps


class _Sampler:
    """Two steps of Euler; returns the seconds of each, the first from when the loader starts."""

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


def _live(model, adapters, strength, count=1, keyframes=None, prompts=(1.0, 1.0), mask=None):
    clone = model.clone()
    for number in range(count):
        changes = {key: [(strength, adapter)] for key, adapter in adapters.items()}
        attach(clone, LiveLora(changes, str(number), keyframes, prompts=prompts, mask=mask))
    return clone


def _patched(model, adapters, strength, count=1):
    clone = model.clone()
    for _ in range(count):
        patch.add(clone, {key: [(strength, adapter)] for key, adapter in adapters.items()})
    return clone


def _core(model, tensors, strength, count=1):
    for _ in range(count):
        model = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0.0)[0]
    return model


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
    adapters = _adapters(model, tensors)
    run = _Sampler(model, name, latent, 10)

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
        "live": lambda: run(lambda: _live(model, adapters, 0.8)),
        "live_schedule": lambda: run(lambda: _live(model, adapters, 0.8, keyframes=keyframes())),
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
        adapters = _adapters(model, models.lora(model, 16))
        run = _Sampler(model, name, latent, 2, cfg=3.0)
        ways = {
            "constant": {},
            "over time": {"keyframes": parse("1@0%, 0.2@100%")},
            "by prompt": {"prompts": (1.0, 0.5)},
            "by mask": {"mask": torch.linspace(1, 0, 512).expand(1, 512, 512)},
        }
        # A T-LoRA's step costs what an ordinary live LoRA of twice its rank does.
        of_twice = _adapters(model, models.lora(model, 32))
        of_each_step = {key: _t_lora(adapter) for key, adapter in of_twice.items()}
        run(lambda model=model: model)  # the first run of a model is slower
        makers = {way: (adapters, settings) for way, settings in ways.items()}
        makers |= {"constant, rank 32": (of_twice, {}), "T-LoRA": (of_each_step, {})}
        second: dict[str, list[float]] = {way: [] for way in makers}
        for _ in range(rounds):
            for way, (own, settings) in makers.items():
                make = lambda settings=settings, model=model, own=own: _live(model, own, 0.8, **settings)  # noqa: E731
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


def memory(quick: bool) -> str:
    """What patching the largest weight takes beyond the copy that ComfyUI patches in."""
    rows = []
    names = ("SD1.5", "FLUX") if quick else ("SD1.5", "SDXL", "FLUX")
    for name, rank in itertools.product(names, (16, 64)):
        model = models.build(name, torch.float16)
        tensors = models.lora(model, rank)
        adapters = _adapters(model, tensors)
        key = max(adapters, key=lambda k: model.model.state_dict()[k].numel())
        weight = model.model.state_dict()[key].float()
        for count in (1, 5, 10):
            peaks = []
            for patched in (_core(model, tensors, 0.8, count), _patched(model, adapters, 0.8, count)):
                calculate = partial(comfy.lora.calculate_weight, patched.patches[key], weight.clone(), key)
                peaks.append(peak_memory(calculate))
            rows.append((name, "x".join(map(str, weight.shape)), rank, count, size(weight.nbytes), *map(size, peaks)))
    return table(
        "Peak extra memory while the largest weight is patched",
        ("model", "weight", "rank", "LoRAs", "its copy", "ComfyUI adds", "Strata adds"),
        rows,
        "Strata adds the joined factors and nothing of the weight's size.",
    )


PARTS = {
    "nodes": loaders,
    "stack": stack,
    "understanding": understanding,
    "analysis": analysis,
    "applying": applying,
    "sampling": sampling,
    "schedule": schedule,
    "variation": variation,
    "memory": memory,
}
