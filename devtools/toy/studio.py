"""The shipped toy in ComfyUI, without its server: many prompts drawn at once, with a LoRA or without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.sd
import comfy.utils
import numpy as np
import torch

from . import clip as seeded_clip
from .training import to_pictures

BATCH = 32
STEPS = 8


@dataclass
class Studio:
    """Model, text encoder and autoencoder as ComfyUI's loaders load them.

    Attributes:
        known: prompt -> (words, pooled) of this text encoder, so that none is encoded twice.
        low: the model of the second half of the steps; the same one unless said.
    """

    model: Any
    clip: Any
    vae: Any
    known: dict[str, tuple[torch.Tensor, torch.Tensor]]
    low: Any = None

    @classmethod
    def open(cls, models: Path) -> Studio:
        """The toy in a ``models`` folder, as :func:`devtools.model_cache.toy_models` gives it."""
        vae = comfy.utils.load_torch_file(str(models / "vae" / "strata_toy_vae.safetensors"))
        return cls(
            comfy.sd.load_diffusion_model(str(models / "diffusion_models" / "strata_toy_flux.safetensors")),
            seeded_clip.load(models / "text_encoders" / "strata_toy_clip.safetensors"),
            comfy.sd.VAE(sd=vae),
            {},
        )

    def having(self, model: Any = None, clip: Any = None, low: Any = None) -> Studio:
        """The same with another model or text encoder; with the same text encoder what it has encoded stays known."""
        known = self.known if clip is None or clip is self.clip else {}
        return replace(self, model=model or self.model, clip=clip or self.clip, known=known, low=low)

    def _encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        missing = sorted({prompt for prompt in prompts if prompt not in self.known})
        if missing:
            self.clip.load_model()
            self.known |= dict(zip(missing, zip(*seeded_clip.encode(self.clip, missing), strict=True), strict=True))
        return tuple(torch.stack([self.known[prompt][kind] for prompt in prompts]) for kind in (0, 1))

    def draw(self, prompts: list[str], seed: int = 0) -> np.ndarray:
        """A picture for each prompt, [n, 128, 128, 3], uint8; the n-th prompt always gets the same noise for a seed."""
        words, pooled = self._encode(prompts)
        random = np.random.default_rng(seed)
        noise = torch.from_numpy(random.standard_normal((len(prompts), 16, 16, 16), np.float32))
        parts = []
        for part in range(0, len(prompts), BATCH):
            rows = slice(part, part + BATCH)
            prompt = [[words[rows], {"pooled_output": pooled[rows]}]]
            made = self._sample(noise[rows], prompt)
            parts.append(self.vae.decode(made).permute(0, 3, 1, 2) * 2 - 1)
        return to_pictures(torch.cat(parts))

    def _sample(self, noise: torch.Tensor, prompt: list) -> torch.Tensor:
        """The latents; with a second model as by two KSamplerAdvanced, of which the second begins where the first one ends."""
        settings = (STEPS, 1.0, "euler", "simple", prompt, prompt)
        empty = torch.zeros_like(noise)
        if self.low is None:
            return comfy.sample.sample(self.model, noise, *settings, empty, disable_pbar=True)
        half = comfy.sample.sample(self.model, noise, *settings, empty, last_step=STEPS // 2, disable_pbar=True)
        return comfy.sample.sample(
            self.low, empty, *settings, half, start_step=STEPS // 2, disable_noise=True, disable_pbar=True
        )
