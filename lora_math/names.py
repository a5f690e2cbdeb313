"""Module names as trainers write them: which part of the pipeline they speak of, and the layer's name with all wrapping taken off.

Trainers wrap one layer's name in many ways: ``lora_unet_blocks_0_ffn_0``, ``diffusion_model.blocks.0.ffn.0``,
``base_model.model.blocks.0.ffn.0``, ``lycoris_blocks_0_ffn_0``. The *body* is what is left: ``blocks_0_ffn_0``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

# kohya, OneTrainer, LyCORIS, ai-toolkit, diffusers, PEFT, DiffSynth, NVIDIA; torch.compile and data-parallel wrappers.
_MODEL_PREFIX = re.compile(
    r"(?:(?:lora_unet|lora_transformer|lora_prior_unet|oft_unet|oft_transformer|lycoris)_+"
    r"|(?:base_model\.model|model|diffusion_model|unet|transformer|prior|pipe|dit|net|module|_orig_mod)\.)+"
)
_TEXT_PREFIX = re.compile(r"(?:lora_prior_te_|lycoris_|(?:base_model\.model|model|module|_orig_mod)\.)+")
_TEXT_ENCODER = re.compile(
    r"(?:lora_te(\d?)_"  # kohya, OneTrainer
    r"|oft_te(\d?)_"
    r"|text_encoder(?:_(\d))?[._]"  # diffusers
    r"|te(\d?)[._]"
    r"|conditioner\.embedders\.(\d)\."  # Stability's own names, counted from 0
    r"|cond_stage_model\."
    r"|text_encoders\.(?:(?!transformer\.|text_model\.|model\.)(\w+)\.)?"  # ComfyUI
    r"|(clip_[lgh]|t5xxl|t5|llama|umt5xxl)\.)"
)
# Layers of CLIP and T5 that no diffusion model has: what a text encoder saved alone is known by.
_TEXT_BODY = re.compile(
    r"text_model_|text_projection$|encoder_layers_\d+_(self_attn|mlp|layer_norm\d)|encoder_block_\d+_layer_\d|final_layer_norm$"
)
# Levels that come and go between versions of transformers and wrappers of ComfyUI.
_TEXT_LEVELS = re.compile(r"(?:transformer|text_model|language_model|model|bert)_")


class TextName(NamedTuple):
    """encoder: its name where the file has one; number: its place in the pipeline, from 1; body: the layer. None where nothing says."""

    encoder: str | None
    number: int | None
    body: str


def model_body(module: str) -> str:
    """The layer that a diffusion model's module name means, without prefixes, with underscores.

    >>> model_body("base_model.model.transformer_blocks.0.attn.to_q"), model_body("lora_unet__blocks_0_ffn_0")
    ('transformer_blocks_0_attn_to_q', 'blocks_0_ffn_0')
    """
    match = _MODEL_PREFIX.match(module)
    body = module[match.end() :] if match else module
    return plain(body).replace("_processor_to_", "_to_")


def text_name(module: str) -> TextName | None:
    """What a module name says when it is a text encoder's, else None.

    >>> text_name("lora_te2_text_model_encoder_layers_0_mlp_fc1")
    TextName(encoder=None, number=2, body='encoder_layers_0_mlp_fc1')
    """
    prefix = _TEXT_PREFIX.match(module)
    rest = module[prefix.end() :] if prefix else module
    match = _TEXT_ENCODER.match(rest)
    if match is None:
        body = plain(rest)
        return TextName(None, None, text_body(body)) if _TEXT_BODY.match(body) else None
    kohya, oft, diffusers, short, stability, encoder, alone = match.groups()
    encoder = encoder or alone
    if encoder is not None:
        number = None
    elif stability is not None:
        number = int(stability) + 1
    else:
        number = int(
            kohya or oft or diffusers or short or (1 if rest.startswith(("text_encoder.", "text_encoder_")) else 0)
        )
    rest = rest[match.end() :].removeprefix("base_model.model.")
    return TextName(encoder, number or None, text_body(plain(rest)))


def text_body(body: str) -> str:
    """A text encoder's layer without the levels that not every library has: ``text_model_encoder_layers_0`` is ``encoder_layers_0``."""
    while match := _TEXT_LEVELS.match(body):
        body = body[match.end() :]
    return body


def plain(name: str) -> str:
    """Dots as underscores: kohya's way, and the only one that all others can be brought to."""
    return name.replace("._orig_mod.", ".").replace(".", "_")


@lru_cache(maxsize=1 << 16)  # a report asks it of every module several times
def is_text_encoder(module: str) -> bool:
    """Whether a module name, as a file has it, is a text encoder's."""
    return text_name(module) is not None
