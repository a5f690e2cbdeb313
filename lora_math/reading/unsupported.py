"""Adapters that are known but cannot be applied, by the names their trainers give the tensors: a refusal should say what was refused."""

from __future__ import annotations

_PEFT = {
    "adamss": "AdaMSS",
    "beft": "BEFT",
    "bone": "Bone",
    "c3a": "C3A",
    "deft": "DEFT",
    "delora": "DeLoRA",
    "fourierft": "FourierFT",
    "frod": "FRoD",
    "glora": "PEFT's GLoRA",
    "gralora": "GraLoRA",
    "hira": "HiRA",
    "hra": "HRA",
    "lily": "Lily",
    "loretta": "LoRETTA",
    "miss": "MiSS",
    "osf": "OSF",
    "peanut": "PEANuT",
    "poly": "Poly",
    "psoft": "PSOFT",
    "pvera": "PVeRA",
    "randlora": "RandLoRA",
    "road": "RoAd",
    "shira": "SHiRA",
    "supertuning": "SuperTuning",
    "tinylora": "TinyLoRA",
    "unilora": "Uni-LoRA",
    "vblora": "VB-LoRA",
    "vera": "VeRA",
    "waveft": "WaveFT",
    "xlora": "X-LoRA",
}
_NAMES = {
    "oft_r": "PEFT's OFT from before version 0.16",
    "oft_s": "PEFT's OFT from before version 0.16",
    "oft_embedding_R": "OFT of an embedding",
    "lora_embedding_A": "LoRA of an embedding",
    "lora_embedding_B": "LoRA of an embedding",
    "ln_tuning_layers": "LayerNorm tuning",
    "trainable_tokens_delta": "trainable tokens",
    "modules_to_save": "a whole layer that PEFT saved beside the LoRA",
    "bm": "GLoRA with a Tucker core",
    "internal_xlora_classifier": "X-LoRA",
    "lora_a": "LoRA as MLX writes it, whose factors are the other way round",
    "lora_b": "LoRA as MLX writes it, whose factors are the other way round",
    "smooth_factor": "LoRA converted for Nunchaku's 4-bit models",
}
# What stands behind a factor's own name where it is to be multiplied first.
_SCALES = ("weight_scale", "scale_weight", "scale")
_FACTORS = ("lora_A", "lora_B", "lora_up", "lora_down")


def method_of(key: str) -> tuple[str, str] | None:
    """(module, method) of a key that belongs to such an adapter, or None.

    >>> method_of("base_model.model.blocks.0.attn.vera_lambda_b")
    ('base_model.model.blocks.0.attn', 'VeRA')
    """
    segments = key.split(".")
    if is_scale(key):
        return ".".join(segments[:-2]), "LoRA in few bits with scales of its own"
    for back in range(1, min(len(segments), 4) + 1):
        name = segments[-back]
        prefix, underscore, _ = name.partition("_")
        method = _NAMES.get(name) or (_PEFT.get(prefix) if underscore else None)
        if method is not None:
            return ".".join(segments[:-back]), method
    return None


def is_scale(key: str) -> bool:
    """Whether a key holds what a factor in few bits is to be multiplied by."""
    segments = key.rsplit(".", 2)
    return len(segments) == 3 and segments[2] in _SCALES and segments[1] in _FACTORS


def bundled_embedding(key: str) -> str | None:
    """What a key is that holds an embedding beside the LoRA (OneTrainer's ``bundle_emb.NAME.clip_l``), or None.

    >>> bundled_embedding("bundle_emb.ohwx.clip_l")
    'the embedding "ohwx" that OneTrainer bundled with it, to be saved in models/embeddings and named in the prompt'
    """
    if not key.startswith("bundle_emb."):
        return None
    name = key.split(".")[1][:60]
    return f'the embedding "{name}" that OneTrainer bundled with it, to be saved in models/embeddings and named in the prompt'
