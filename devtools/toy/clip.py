"""The text encoder: a CLIP-L that is drawn from a seed and never trained, so that none has to be shipped.

A prompt's words come out of it as vectors that differ from word to word, and what follows them as the mean of the words before,
which is all that a model with a few hundred captions needs. So that this mean is of the words and of nothing else, single letters,
the marks of start and end, and the positions live in ``QUIET`` channels of their own, which attention neither carries nor writes.

The position table has 16 rows in place of 77: ComfyUI reads the length of a prompt from it, and a short prompt makes the image model
twice as fast.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SEED = 20261128
WIDTH, INNER, LAYERS, WORDS, LENGTH = 768, 3072, 12, 49408, 16
QUIET, LETTERS = 64, 512  # CLIP's vocabulary begins with the single characters and ends with the marks of start and end
# Deviations: of the embeddings, and of layers as a multiple of what keeps the scale. Attention looks at all words nearly alike.
TOKEN, POSITION, LOOK, ATTENTION, MLP = 1.0, 1.5, 0.3, 0.8, 0.05
QUIET_TOKEN = 0.1


def shapes() -> dict[str, tuple[tuple[int, ...], float]]:
    """Name -> shape and deviation of every tensor, in the order in which they are drawn; 0 for biases."""
    within, branch = WIDTH**-0.5, INNER**-0.5
    found: dict[str, tuple[tuple[int, ...], float]] = {
        "embeddings.token_embedding.weight": ((WORDS, WIDTH), TOKEN),
        "embeddings.position_embedding.weight": ((LENGTH, WIDTH), POSITION),
    }
    for layer in range(LAYERS):
        parts = {
            "self_attn.q_proj": ((WIDTH, WIDTH), within * LOOK),
            "self_attn.k_proj": ((WIDTH, WIDTH), within * LOOK),
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


def hush(found: dict[str, torch.Tensor]) -> None:
    """Keep letters, marks and positions in the quiet channels, and words and attention out of them."""
    words = found["text_model.embeddings.token_embedding.weight"]
    words[LETTERS : WORDS - 2, :QUIET] = 0
    for quiet in (words[:LETTERS], words[WORDS - 2 :]):
        quiet *= QUIET_TOKEN
        quiet[:, QUIET:] = 0
    found["text_model.embeddings.position_embedding.weight"][:, QUIET:] = 0
    for layer in range(LAYERS):
        attention = f"text_model.encoder.layers.{layer}.self_attn"
        found[f"{attention}.v_proj.weight"][:, :QUIET] = 0
        found[f"{attention}.out_proj.weight"][:QUIET] = 0


def weights() -> dict[str, torch.Tensor]:
    """The tensors as a file of CLIP-L holds them, float16."""
    source = np.random.PCG64(SEED)
    found = {f"text_model.{name}": drawn(*about, source) for name, about in shapes().items()}
    hush(found)
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
    """(words [n, 16, 768], pooled [n, 768]), float32, for prompts that fit into one piece; many at once, which is faster."""
    tokens = [[token for token, _ in clip.tokenize(prompt)["l"][0]] for prompt in prompts]
    with torch.no_grad():
        both = [clip.cond_stage_model.clip_l(tokens[first : first + 32]) for first in range(0, len(tokens), 32)]
    return tuple(torch.cat([part[kind] for part in both]).float() for kind in (0, 1))
