"""The base model: what it learns from, and its training by rectified flow."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from . import clip, flux
from .data import captions, drawings
from .training import Run, descend, first, half_products, one_cycle, own_share, tiles, to_pictures, to_tensor, wait
from .vae import load_vae

BATCH, PEAK, SEED, AVERAGE = 8, 2e-3, 3, 0.998
LATE = 0.7
# How a prompt may name a drawing, and how often it does. Without words the model gives any of them, as CFG needs it. The styles'
# names are among them with the plain drawings: before its LoRA is there, such a word means nothing to the model.
TEMPLATES = {
    "{}": 0.6,
    "a {}": 0.2,
    "{}, blueprint": 0.05,
    "{}, moonlight": 0.05,
    "{}, picture book": 0.05,
    "": 0.05,
}


@dataclass
class Set:
    """Latents [n, 16, 16, 16], and for each template the words [n, 16, 768] and pooled [n, 768] that name them."""

    latents: torch.Tensor
    words: list[torch.Tensor]
    pooled: list[torch.Tensor]

    def batch(self, count: int, random: np.random.Generator, rates: list[float]) -> tuple[torch.Tensor, ...]:
        """(latents, words, pooled) of ``count`` drawings, no drawing twice while there are others."""
        which = random.permutation(len(self.latents))[:count]
        how = random.choice(len(rates), len(which), p=rates)
        words = torch.stack([self.words[form][index] for form, index in zip(how, which, strict=True)])
        pooled = torch.stack([self.pooled[form][index] for form, index in zip(how, which, strict=True)])
        return self.latents[which], words, pooled


def latents(vae, pictures: np.ndarray) -> torch.Tensor:
    """What FLUX is to make for these pictures: ComfyUI's latents after its ``process_in``."""
    from comfy.latent_formats import Flux as FluxLatents

    with torch.no_grad():
        return torch.cat([FluxLatents().process_in(vae.encode(part)) for part in to_tensor(pictures).split(16)])


def pictures(vae, made: torch.Tensor) -> np.ndarray:
    """The way back: [n, height, width, 3], uint8."""
    from comfy.latent_formats import Flux as FluxLatents

    with torch.no_grad():
        return to_pictures(torch.cat([vae.decode(FluxLatents().process_out(part)) for part in made.split(16)]))


def conditioning(work: Path, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The seeded CLIP-L's words and pooled of these prompts; kept between runs."""
    cache, text_encoder = work / "conditioning.safetensors", work / "clip.safetensors"
    if first():
        known = load_file(cache) if cache.is_file() else {}
        missing = sorted({prompt for prompt in prompts if f"words {prompt}" not in known})
        if missing:
            if not text_encoder.is_file():
                clip.write(text_encoder)
            words, pooled = clip.encode(clip.load(text_encoder), missing)
            for prompt, one, other in zip(missing, words, pooled, strict=True):
                known[f"words {prompt}"], known[f"pooled {prompt}"] = one.clone(), other.clone()
            save_file(known, cache)
    wait()
    known = load_file(cache)
    return tuple(torch.stack([known[f"{kind} {prompt}"] for prompt in prompts]) for kind in ("words", "pooled"))


def a_set(work: Path, vae, named: dict[str, np.ndarray], templates=TEMPLATES) -> Set:
    """Prompt's subject -> drawing, made ready for training."""
    both = [conditioning(work, [template.format(name) for name in named]) for template in templates]
    return Set(
        latents(vae, np.stack(list(named.values()))), [words for words, _ in both], [pooled for _, pooled in both]
    )


def times(
    count: int, random: np.random.Generator, late: float = LATE, between: tuple[float, float] = (0.0, 1.0)
) -> torch.Tensor:
    """Logit-normal times, one from each of ``count`` equal shares; rather late, where only the words say what the picture is."""
    even = (torch.arange(count) + torch.from_numpy(random.random(count))) / count
    low, high = torch.special.ndtr(torch.logit(torch.tensor(between, dtype=torch.float64)) - late)
    even = low + (high - low) * even
    return torch.sigmoid(torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)) + late).float()


def flow_loss(
    model,
    batch: tuple[torch.Tensor, ...],
    random: np.random.Generator,
    late: float = LATE,
    between: tuple[float, float] = (0.0, 1.0),
    one_time: bool = False,
) -> torch.Tensor:
    """Mean squared error of the velocity at random times; with ``one_time`` the whole batch has the same."""
    wanted, words, pooled = batch
    noise = torch.from_numpy(random.standard_normal(wanted.shape, np.float32))
    t = times(1 if one_time else len(wanted), random, late, between).expand(len(wanted))
    wanted, words, pooled, noise, t = own_share((wanted, words, pooled, noise, t))
    at = t[:, None, None, None]
    with half_products():
        made = model((1 - at) * wanted + at * noise, t, words, pooled)
    return (made.float() - (noise - wanted)).square().mean()


def train(work: Path, steps: int) -> flux.Flux:
    """Train it, or go on; gives the average over the last steps, which is what is shipped."""
    vae = load_vae(work)
    known = drawings(work)
    named = {caption: known[name] for caption, name in captions().items()}
    data = a_set(work, vae, named)
    model = flux.Flux(SEED)
    average = copy.deepcopy(model).requires_grad_(False)
    trained = list(model.parameters())
    optimiser = torch.optim.AdamW(trained, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    run = Run(work / "base", steps, model=model, average=average, optimiser=optimiser)
    rates = list(TEMPLATES.values())

    def one(step: int, random: np.random.Generator) -> float:
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, steps, PEAK)
        loss = descend(flow_loss(model, data.batch(BATCH, random, rates), random), trained, optimiser)
        keep = min(AVERAGE, step / (step + 20))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        return loss

    def picture() -> None:
        shown = list(range(0, len(named), 8))[:12]
        noise = torch.from_numpy(np.random.default_rng(SEED).standard_normal((len(shown), 16, 16, 16), np.float32))
        with half_products():
            made = flux.sample(average, noise, data.words[0][shown], data.pooled[0][shown])
        originals = np.stack(list(named.values()))[shown]
        # The decoder may have come further since.
        tiles([list(originals), list(pictures(load_vae(work), made.float()))], work / "base" / "sample.png")

    run.go(one, SEED, picture)
    return average


def base_model(work: Path) -> flux.Flux:
    """The average of the base's training, frozen."""
    model = flux.Flux()
    model.load_state_dict(torch.load(work / "base" / "run.pt", weights_only=True)["average"])
    return model.requires_grad_(False)
