"""One picture as ComfyUI's own nodes make it: CLIP Text Encode, KSampler (or a chain of GUIDER, SAMPLER and SIGMAS), VAE Decode."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from torch import Tensor

from ...lora_math.errors import StrataError
from .internals import find, need

SWEEPS = "LoRA Sweep"

# (step from 1, of so many, a preview for ComfyUI's progress bar or None)
Told = Callable[[int, int, object], None]


class Samplers(NamedTuple):
    """The names that a KSampler knows."""

    samplers: list[str]
    schedulers: list[str]


def samplers() -> Samplers:
    kind = find("comfy.samplers", "KSampler", "LoRA Sweep knows one sampler and one scheduler only.")
    if kind is None:
        return Samplers(["euler"], ["simple"])
    return Samplers(list(kind.SAMPLERS), list(kind.SCHEDULERS))


@dataclass(frozen=True, eq=False)
class Way:
    """How all pictures are drawn. sampler, sigmas, guider: what came over wires, None where the names and numbers count."""

    sampler_name: str
    scheduler: str
    denoise: float
    latent: dict
    vae: object
    sampler: object | None = None
    sigmas: Tensor | None = None
    guider: object | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """One picture. positive, negative: CONDITIONING, not read where a guider holds its own."""

    model: object
    positive: object
    negative: object
    seed: int
    steps: int
    cfg: float


def encode(clip, text: str):
    """CONDITIONING, as CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(way: Way, asked: Asked, told: Told) -> Tensor:
    """The latent of a picture."""
    latent, model = way.latent, asked.model
    start = need("comfy.sample", "fix_empty_latent_channels", SWEEPS)(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    noise = need("comfy.sample", "prepare_noise", SWEEPS)(start, asked.seed, latent.get("batch_index"))
    more = {"callback": _callback(model, told), "disable_pbar": True, "seed": asked.seed}
    mask = latent.get("noise_mask")
    if way.guider is not None:
        sigmas = sigmas_of(way, model, asked.steps)
        return _guided(way, asked).sample(noise, start, sampler_of(way), sigmas, denoise_mask=mask, **more)
    if way.sampler is not None or way.sigmas is not None:
        sigmas = sigmas_of(way, model, asked.steps)
        prompts = asked.positive, asked.negative
        return need("comfy.sample", "sample_custom", SWEEPS)(
            model, noise, asked.cfg, sampler_of(way), sigmas, *prompts, start, noise_mask=mask, **more
        )
    names = way.sampler_name, way.scheduler
    prompts = asked.positive, asked.negative
    return need("comfy.sample", "sample", SWEEPS)(
        *(model, noise, asked.steps, asked.cfg, *names, *prompts, start), denoise=way.denoise, noise_mask=mask, **more
    )


def sampler_of(way: Way):
    return (
        way.sampler if way.sampler is not None else need("comfy.samplers", "sampler_object", SWEEPS)(way.sampler_name)
    )


def sigmas_of(way: Way, model, steps: int) -> Tensor:
    """As Basic Scheduler makes them, where none are connected."""
    if way.sigmas is not None:
        return way.sigmas
    total = steps if way.denoise >= 1 else int(steps / max(way.denoise, 1e-4))
    sampling = model.get_model_object("model_sampling")
    return need("comfy.samplers", "calculate_sigmas", SWEEPS)(sampling, way.scheduler, total).cpu()[-(steps + 1) :]


def guided_model(guider):
    """The MODEL that a GUIDER samples. Raises StrataError for what is no GUIDER."""
    model = getattr(guider, "model_patcher", None)
    if model is None or not callable(getattr(guider, "sample", None)):
        raise StrataError(f"guider is a {type(guider).__name__}, not a GUIDER. Connect the output of a guider node.")
    if not isinstance(getattr(guider, "original_conds", None), Mapping) or not callable(
        getattr(model, "add_patches", None)
    ):
        raise StrataError(
            f"guider is a {type(guider).__name__}, whose model and prompts are not where ComfyUI's guiders have them. Connect another "
            "guider, or model, clip and prompts."
        )
    return model


def has_cfg(guider) -> bool:
    """Whether a guider weighs two prompts by one number."""
    try:
        one = len(inspect.signature(guider.set_cfg).parameters) == 1
    except (AttributeError, TypeError, ValueError):
        return False
    return one and "negative" in getattr(guider, "original_conds", {})


def _guided(way: Way, asked: Asked):
    """The guider with another model, as far as its own prompts go; the one that was given is left as it is."""
    guider = copy.copy(way.guider)
    guider.model_patcher, guider.model_options = asked.model, asked.model.model_options
    guider.original_conds = dict(guider.original_conds)
    if asked.cfg is not None:
        guider.cfg = asked.cfg
    return guider


def decode(vae, latent: Tensor) -> NDArray[numpy.uint8]:
    """[count, height, width, 3] in 8 bits, as Save Image writes it; of a video the frame in its middle."""
    if latent.is_nested:
        latent = latent.unbind()[0]
    found = vae.decode(latent)
    if found.dim() == 5:
        found = found[:, found.shape[1] // 2]
    # In one order in memory: a sum over it is then the same as over the file.
    return numpy.ascontiguousarray(numpy.clip(255.0 * found[..., :3].cpu().float().numpy(), 0, 255).astype(numpy.uint8))


def _callback(model, told: Told):
    previewer = _previewer(model)

    def step(at: int, x0, _, total: int) -> None:
        preview = None
        if previewer is not None:
            preview = previewer.decode_latent_to_preview_image("JPEG", x0.tensors[0] if x0.is_nested else x0)
        told(at + 1, total, preview)

    return step


def _previewer(model):
    make = find("latent_preview", "get_previewer", "A sweep shows no previews while it samples.")
    return None if make is None else make(model.load_device, model.model.latent_format)


class Bar:
    """ComfyUI's progress bar of the running node over all steps of all cells, and the press on stop."""

    def __init__(self, total: int):
        bar = find("comfy.utils", "ProgressBar", "Sweeps show no progress.")
        self._bar = None if bar is None else bar(max(1, total))
        self._stop = find(
            "comfy.model_management", "throw_exception_if_processing_interrupted", "Sweeps stop between steps only."
        )

    def show(self, at: int, total: int, preview=None) -> None:
        if self._bar is not None:
            self._bar.update_absolute(at, total, preview)

    def tick(self) -> None:
        """Stops where the person has pressed stop."""
        if self._stop is not None:
            self._stop()


def is_interrupt(problem: BaseException) -> bool:
    """Whether the person has pressed stop, or the program is told to end: no fault of the cell."""
    return not isinstance(problem, Exception)


def freed_after_error() -> None:
    """Gives back what an error such as too little memory left behind, as ComfyUI does after a failed node."""
    empty = find("comfy.model_management", "soft_empty_cache", "Memory is given back later after a failed cell.")
    if empty is not None:
        empty()
