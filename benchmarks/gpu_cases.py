"""What is measured of one model on a GPU, row by row, the most telling first; it ends when the time of the case is over."""

from __future__ import annotations

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.utils
import folder_paths
import safetensors.torch
import torch
from comfy.quant_ops import QuantizedTensor

from strata.nodes.comfy import targets
from strata.nodes.comfy.library import CACHE
from strata.nodes.loader import StrataLoraLoader

from . import models
from .machine import Held
from .models import MODELS, packed

STEPS, LATENT, SMALL_LATENT = 4, 128, 8
NAME = "benchmark.safetensors"
SMALL = {
    "SDXL": {
        "model_channels": 64,
        "transformer_depth": [0, 0, 1, 1, 1, 1],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
        "transformer_depth_middle": 1,
    },
    "FLUX": {"hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 2},
}
# FLUX.1 has 19 double and 38 single blocks.
WHOLE = {"SDXL": {}, "FLUX": {"depth": 19, "depth_single_blocks": 38}}
# Ways of having a LoRA on a model.
LIVE, PATCH, CORE, BYPASS = "Strata live", "Strata patch", "ComfyUI", "ComfyUI bypass"


def rows(case: dict) -> Iterator[dict]:
    """Rows ``{"what", "way", "loras", "value", "unit"}``, at last ``{"left_out": why}`` where something is missing."""
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
        yield from _Bench(case, Path(folder)).all()


class _Bench:
    def __init__(self, case: dict, folder: Path):
        self.case, self.folder, self.until = case, folder, case["until"]
        self.name, self.on_cpu = case["model"], case["device"] == "cpu"
        self.device = comfy.model_management.get_torch_device()
        self.latent = SMALL_LATENT if case["small"] else LATENT
        self.strengths = (0.5 + 0.001 * number for number in itertools.count(1))

    def all(self) -> Iterator[dict]:
        if (
            self.case["stored"] == "nvfp4"
            and not self.on_cpu
            and not comfy.model_management.supports_nvfp4_compute(self.device)
        ):
            yield {"left_out": "this card computes nothing in NVFP4: its layers are unpacked at each step"}
        self.model = build(self.name, self.case["stored"], self.case["small"], self.device)
        yield _row("weights", "none", 0, self.model.model_size(), "bytes")
        parts = (self.nodes, self.sampled, self.scheduled, self.exact)
        for part in parts:
            if time.time() > self.until:
                yield {"left_out": f"its time was over before {part.__name__}"}
                return
            try:
                yield from part()
            except torch.OutOfMemoryError:
                yield {"left_out": f"{part.__name__}: it did not fit into this GPU's memory"}
            self.unload()

    def unload(self) -> None:
        comfy.model_management.unload_all_models()
        gc.collect()
        comfy.model_management.soft_empty_cache()

    # The node.

    def nodes(self) -> Iterator[dict]:
        """From a name to a patched MODEL, nothing of it loaded yet."""
        for rank in (16,) if self.case["small"] else (16, 64, 128):
            tensors = models.lora(self.model, rank)
            safetensors.torch.save_file(tensors, self.folder / NAME)
            ways = {"ComfyUI": self.core_node, "Strata": self.our_node, "Strata, moved slider": self.moved_node}
            times = {way: [] for way in ways}
            for _ in range(2 if self.case["small"] else 4):
                for way, run in ways.items():
                    times[way].append(_clock(run))
            # The first time finds nothing compiled, and no folder read.
            yield from (_row(f"node, rank {rank}", way, 1, statistics.median(t[1:]), "s") for way, t in times.items())

    def core_node(self):
        tensors = comfy.utils.load_torch_file(str(self.folder / NAME), safe_load=True)
        return comfy.sd.load_lora_for_models(self.model, None, tensors, next(self.strengths), 0.0)[0]

    def our_node(self):
        CACHE.clear()
        targets._known.clear()
        return self.moved_node()

    def moved_node(self, apply: str = "patch", model=None, **more):
        return StrataLoraLoader.execute(
            NAME, next(self.strengths), 0.0, model=model or self.model, apply=apply, **more
        ).result[0]

    # Sampling.

    def sampled(self) -> Iterator[dict]:
        """Steps and memory, with one and ten LoRAs, each way; the first step has all the loading and patching in it."""
        with self.memory() as before:
            first, steady = self.sample(lambda: self.model)
        yield from self.step_rows("none", 0, first, steady, before)
        for rank, count in ((16, 1), (16, 10)) if self.case["small"] else ((16, 1), (64, 1), (16, 10), (64, 10)):
            tensors = models.lora(self.model, rank)
            safetensors.torch.save_file(tensors, self.folder / NAME)
            yield _row(
                f"factors, rank {rank}", "of a file", 1, sum(tensor.nbytes for tensor in tensors.values()), "bytes"
            )
            # Of several bypass loaders the last one alone acts.
            for way in (LIVE, PATCH, CORE, BYPASS)[: 4 if count == 1 else 3]:
                if time.time() > self.until:
                    yield {"left_out": f"its time was over before {way}, {count} of rank {rank}"}
                    return
                make = partial(self.with_loras, way, tensors, count)
                self.sample(lambda: self.model)
                with self.memory() as used:
                    first, steady = self.sample(make)
                yield from self.step_rows(f"{way}, rank {rank}", count, first, steady, used)
                first, _ = self.sample(make)
                yield _row("first step after a moved slider", f"{way}, rank {rank}", count, first, "s")

    def with_loras(self, way: str, tensors: dict, count: int):
        """Another strength each time."""
        model, strength = self.model, next(self.strengths)
        for _ in range(count):
            if way in (LIVE, PATCH):
                model = self.moved_node("live" if way == LIVE else "patch", model)
            elif way == CORE:
                model = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0.0)[0]
            else:
                model = comfy.sd.load_bypass_lora_for_models(model, None, tensors, strength, 0.0)[0]
        return model

    def step_rows(self, way: str, count: int, first: float, steady: float, used: Held) -> Iterator[dict]:
        yield _row("first step", way, count, first, "s")
        yield _row("step", way, count, steady, "s")
        yield from (_row(what, way, count, value, "bytes") for what, value in used.found.items())

    def scheduled(self) -> Iterator[dict]:
        """A strength that is another one at every step."""
        safetensors.torch.save_file(models.lora(self.model, 16), self.folder / NAME)
        group = comfy.hooks.HookKeyframeGroup()
        for step in range(10):
            group.add(comfy.hooks.HookKeyframe(1 - 0.05 * step, step / 10))
        for what, more in (("constant", {}), ("another strength at every step", {"keyframes": group})):
            _, steady = self.sample(lambda more=more: self.moved_node("live", **more))
            yield _row("step, rank 16", f"{LIVE}, {what}", 1, steady, "s")

    def sample(self, make: Callable) -> tuple[float, float]:
        """(seconds of the first step, loading included; median of the others)."""
        noise, prompt = models.inputs(self.name, self.latent)
        times = [_now()]
        comfy.sample.sample(
            *(make(), noise, STEPS, 1.0, "euler", "simple", prompt, prompt, torch.zeros_like(noise)),
            callback=lambda *_: times.append(_now()),
            disable_pbar=True,
            seed=1,
        )
        steps = [b - a for a, b in itertools.pairwise(times)]
        return steps[0], statistics.median(steps[1:])

    def memory(self) -> Held:
        return Held(None if self.on_cpu else self.device)

    # Exactness.

    def exact(self) -> Iterator[dict]:
        """How far from the latents of a float32 model of the same weights the LoRA's own share of the latents is."""
        torch.manual_seed(0)
        noise, prompt = models.inputs(self.name, min(self.latent, 64))
        safetensors.torch.save_file(models.lora(self.model, 16), self.folder / NAME)

        def latents(model) -> torch.Tensor:
            return comfy.sample.sample(
                *(model, noise, 2, 1.0, "euler", "simple", prompt, prompt, torch.zeros_like(noise)),
                disable_pbar=True,
                seed=1,
            ).double()

        load = lambda model, apply: StrataLoraLoader.execute(NAME, 1.0, 0.0, model=model, apply=apply).result[0]  # noqa: E731
        found = {way: latents(load(self.model, way)) for way in ("live", "patch")}
        found["core"] = latents(self.core_at_one())
        plain = latents(self.model)
        self.unload()
        reference = exact_copy(self.model, self.name, self.case["small"], self.device)
        without, whole = latents(reference), latents(load(reference, "patch"))
        change = (whole - without).norm()
        for way, label in (("live", LIVE), ("patch", PATCH), ("core", CORE)):
            yield _row(
                "error of the LoRA's share",
                label,
                1,
                float(((found[way] - plain) - (whole - without)).norm() / change),
                "",
            )
        yield _row("error of the model itself", "none", 0, float((plain - without).norm() / without.norm()), "")

    def core_at_one(self):
        tensors = comfy.utils.load_torch_file(str(self.folder / NAME), safe_load=True)
        return comfy.sd.load_lora_for_models(self.model, None, tensors, 1.0, 0.0)[0]


def _row(what: str, way: str, count: int, value: float, unit: str) -> dict:
    return {"what": what, "way": way, "loras": count, "value": value, "unit": unit}


def _clock(run: Callable) -> float:
    start = _now()
    run()
    return _now() - start


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def build(name: str, stored: str, small: bool, device: torch.device):
    """A ModelPatcher of random weights, at real width and full depth unless ``small``."""
    config, unet, *_ = MODELS[name]
    types = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn, "nvfp4": torch.bfloat16, "fp32": torch.float32}
    kind = types[stored]
    compute = torch.float32 if device.type == "cpu" or stored == "fp32" else torch.bfloat16
    settings = {**unet, **(SMALL if small else WHOLE)[name], "dtype": kind}
    if stored == "nvfp4":
        return _patcher(packed(config, settings, compute, device), device)
    model_config = config(settings)
    model_config.set_inference_dtype(kind, compute if compute != kind else None)
    model = model_config.get_model({}, device=torch.device("cpu"))
    noise = torch.randn(1 << 22).mul_(0.02).to(kind)
    for parameter in model.parameters():
        for part in parameter.data.view(-1).split(len(noise)):
            part.copy_(noise[: len(part)])
    return _patcher(model, device)


def _patcher(model, device: torch.device):
    kind = comfy.model_patcher.CoreModelPatcher
    return kind(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())


def exact_copy(model, name: str, small: bool, device: torch.device):
    """The same weights in float32, computed in float32."""
    copy = build(name, "fp32", small, device)
    own = dict(model.model.named_parameters())
    for key, parameter in copy.model.named_parameters():
        weight = own[key].data
        parameter.data.copy_(weight.dequantize() if isinstance(weight, QuantizedTensor) else weight)
    return copy
