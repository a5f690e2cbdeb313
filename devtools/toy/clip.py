"""The text encoder: a CLIP-L that is drawn from a seed and never trained, so that none has to be shipped.

A prompt's words come out of it as vectors that differ from word to word and carry a little of the words before them, which is
all that a model with a few hundred captions needs. The position table has 16 rows in place of 77: ComfyUI reads the length of
a prompt from it, and a short prompt makes the image model twice as fast.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SEED = 20261128
WIDTH, INNER, LAYERS, WORDS, LENGTH = 768, 3072, 12, 49408, 16
# Deviations, chosen so that each layer adds about a quarter of what flows through it.
TOKEN, POSITION, ATTENTION, MLP = 1.0, 0.3, 0.8, 0.5


def shapes() -> dict[str, tuple[tuple[int, ...], float]]:
    """Name -> shape and deviation of every tensor, in the order in which they are drawn; 0 for biases."""
    within, branch = WIDTH**-0.5, INNER**-0.5
    found: dict[str, tuple[tuple[int, ...], float]] = {
        "embeddings.token_embedding.weight": ((WORDS, WIDTH), TOKEN),
        "embeddings.position_embedding.weight": ((LENGTH, WIDTH), POSITION),
    }
    for layer in range(LAYERS):
        parts = {
            "self_attn.q_proj": ((WIDTH, WIDTH), within),
            "self_attn.k_proj": ((WIDTH, WIDTH), within),
            "self_attn.v_proj": ((WIDTH, WIDTH), within),
            "self_attn.out_proj": ((WIDTH, WIDTH), within * ATTENTION),
            "mlp.fc1": ((INNER, WIDTH), within),
            "mlp.fc2": ((WIDTH, INNER), branch * MLP),
        }
        for part, (shape, deviation) in parts.items():
            found[f"encoder.layers.{layer}.{part}.weight"] = shape, deviation
            found[f"encoder.layers.{layer}.{part}.bias"] = shape[:1], 0.0
    return found


def drawn(shape: tuple[int, ...], deviation: float, source: np.random.PCG64) -> torch.Tensor:
    """An even distribution with this deviation. Only integers and one rounding, so every machine gets the same bits."""
    count = int(np.prod(shape))
    if not deviation:
        return torch.zeros(shape, dtype=torch.float16)
    whole = source.random_raw(-(-count // 4)).view(np.int16)[:count]
    scale = np.float32(deviation * 3**0.5 / 32768)
    return torch.from_numpy((whole.astype(np.float32) * scale).astype(np.float16)).reshape(shape)


def weights() -> dict[str, torch.Tensor]:
    """The tensors as a file of CLIP-L holds them, float16."""
    source = np.random.PCG64(SEED)
    found = {f"text_model.{name}": drawn(*about, source) for name, about in shapes().items()}
    norms = [f"encoder.layers.{layer}.layer_norm{which}" for layer in range(LAYERS) for which in (1, 2)]
    for norm in (*norms, "final_layer_norm"):
        found[f"text_model.{norm}.weight"] = torch.ones(WIDTH, dtype=torch.float16)
        found[f"text_model.{norm}.bias"] = torch.zeros(WIDTH, dtype=torch.float16)
    found["text_projection.weight"] = torch.eye(WIDTH, dtype=torch.float16)
    return found


def write(path: Path) -> None:
    save_file(
        weights(), path, {"modelspec.title": "Strata toy, text encoder", "modelspec.description": "Drawn from a seed."}
    )


def load(path: Path):
    """The file as ComfyUI's CLIPLoader loads it."""
    import comfy.sd

    return comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.FLUX)


def encode(clip, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(words [n, 16, 768], pooled [n, 768]), float32."""
    both = [clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True) for prompt in prompts]
    return torch.cat([words for words, _ in both]).float(), torch.cat([pooled for _, pooled in both]).float()
