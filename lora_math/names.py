"""The one reader of module names: which part of the pipeline a name speaks of, and the layer's name with all wrapping taken off.

Trainers wrap one layer's name in many ways: ``lora_unet_blocks_0_ffn_0``, ``diffusion_model.blocks.0.ffn.0``,
``base_model.model.blocks.0.ffn.0``, ``Some_Trainer_lora_blocks_0_ffn_0``. The *body* is what is left: ``blocks_0_ffn_0``. The grammar:

    name    = [tag] wrapper* [encoder level*] layer
    tag     = up to six words and then "lora", "lycoris" or another algorithm's name: ``Hunyuan_video_I2V_lora_``, ``my.trainer.lora.``
    wrapper = an algorithm, a component (``unet``, ``transformer``), a class's attribute (``model``, ``diffusion_model``) or a library's
              own (``base_model.model``, ``_orig_mod``), the model's part in its training (``ema``, ``student``, ``generator``), or its
              name before blocks that no other network has (``flux``), and then any run of dots and underscores
    encoder = ``te2_``, ``text_encoder_2.``, ``text_encoders.t5xxl.``, ``conditioner.embedders.1.``, ``clip_l.``
    level   = what comes and goes between versions of transformers: ``text_model``, ``language_model``, ``transformer``

Wrappers come in any order and number, so a trainer that combines known ones needs no new line here. Every step reads on from where the
last one ended, and names longer than any layer's are not read: linear in the name's length.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .families import ENCODERS

# The longest name, in characters; the longest one of a layer that any trainer writes has about 150.
MAX_NAME = 512
# The most words in front of "lora".
MAX_TAG = 6

_ALGORITHM = r"lora|lycoris|locon|loha|lokr|glora|dora|oft|boft|ia3"
# Components of a diffusion model: what follows is no text encoder's, whatever it looks like.
_COMPONENT = (
    # OneTrainer. In "lycoris_transformer_blocks" the word is a layer's own.
    r"(?:(?:lora|oft)_+transformer_+(?!_)"
    r"|transformer(?:_\d)?(?:\.[._]*|_+(?!_|\d|(?:blocks?|layers)(?:[._]|$)))"
    r"|(?:unet|diffusion_model|dit|net)[._]+)"
)
# What a model is called in a training. Any other word in front of a block may be another network, whose LoRA must not fit.
_PART = r"ema_model|ema|student|generator|policy|backbone|flux(?=[._]+(?:double|single)_blocks[._])"
_OF_LIBRARIES = r"base_model[._]+model|base_model|orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module"
_NEUTRAL = rf"[._]*(?:{_ALGORITHM}|{_OF_LIBRARIES}|model|prior|pipe|module|{_PART})[._]+"
_WRAPPER = re.compile(rf"(?P<component>{_COMPONENT})|{_NEUTRAL}", re.IGNORECASE)
# With dots no word may be a number, as "blocks.0.lora.x" is a layer.
_TAG = re.compile(
    rf"(?:[A-Za-z0-9-]+_+){{1,{MAX_TAG}}}?(?:{_ALGORITHM})_+"
    rf"|(?:(?![0-9]+\.)[A-Za-z0-9-]+\.){{1,{MAX_TAG}}}?(?:{_ALGORITHM})\.(?=\w+\.[0-9])",
    re.IGNORECASE,
)

_NAMED = "|".join(sorted(ENCODERS, key=len, reverse=True))
_ENCODER = re.compile(
    # kohya and OneTrainer.
    r"te(\d?)[._]+"
    # diffusers.
    r"|text_encoder(?:_(\d))?[._]+"
    # Stability's own names, counted from 0.
    r"|conditioner\.embedders\.(\d)[._]+"
    r"|cond_stage_model[._]+"
    # ComfyUI.
    rf"|text_encoders[._]+(?:({_NAMED})[._]+|(?!transformer\.|text_model\.|model\.|text_embedding_projection\.)(\w+)\.)?"
    rf"|({_NAMED})[._]+|(t5|llama)\."
)
_LEVELS = re.compile(
    r"(?:base_model[._]+model|transformer|text_model|language_model|model|bert|module|_*orig_mod)[._]+"
)
# Layers of CLIP and T5 that no diffusion model has: what a text encoder saved alone is known by.
_TEXT_BODY = re.compile(
    r"text_model_|text_projection$|encoder_layers_\d+_(self_attn|mlp|layer_norm\d)|encoder_block_\d+_layer_\d|final_layer_norm$"
)
# LTX-2's projection of its text encoder's layers: beside the encoder, in the CLIP, under this name only.
_PROJECTION = re.compile(r"text_embedding_projection(?:_aggregate_embed$|$|_)")
# Wrappers inside a name: torch.compile, fully sharded data parallel, gradient checkpointing, PEFT's wrapped layer.
_INNER = ("orig_mod", "fsdp_wrapped_module", "checkpoint_wrapped_module", "base_layer")


class ModuleName(NamedTuple):
    """text: whether it is a text encoder's; encoder: the encoder's name where the file has one; number: its place in the pipeline,
    from 1, where the file has one; body: the layer, words joined by one underscore."""

    text: bool
    encoder: str | None
    number: int | None
    body: str


def read(module: str) -> ModuleName:
    """What a module name says.

    >>> read("base_model.model.transformer_blocks.0.attn.to_q").body, read("lora_unet__blocks_0_ffn_0").body
    ('transformer_blocks_0_attn_to_q', 'blocks_0_ffn_0')
    >>> read("lora_te2_text_model_encoder_layers_0_mlp_fc1")
    ModuleName(text=True, encoder=None, number=2, body='encoder_layers_0_mlp_fc1')
    """
    return _read(module) if len(module) <= MAX_NAME else ModuleName(False, None, None, module)


def model_body(module: str) -> str:
    """The layer that a module name means.

    >>> model_body("Hunyuan_video_I2V_lora_double_blocks_0_img_attn_proj")
    'double_blocks_0_img_attn_proj'
    """
    return read(module).body


def is_text_encoder(module: str) -> bool:
    """Whether a module name, as a file has it, is a text encoder's."""
    return read(module).text


def plain(name: str) -> str:
    """A layer's words joined by one underscore: kohya's way, and the only one that all others can be brought to."""
    words = "_".join(filter(None, name.replace(".", "_").split("_")))
    for inner in _INNER:
        if inner in words:
            words = words.replace(f"_{inner}_", "_").removesuffix(f"_{inner}")
    # PEFT's name of the only adapter.
    if name.endswith(".default"):
        words = words.removesuffix("_default")
    return words.replace("_processor_to_", "_to_")


# A report asks for every module several times.
@lru_cache(maxsize=1 << 15)
def _read(module: str) -> ModuleName:
    at, component = 0, False
    while True:
        if not component and (match := _ENCODER.match(module, at)):
            return _of_encoder(module[match.end() :], match)
        match = _WRAPPER.match(module, at) or (_TAG.match(module) if at == 0 else None)
        if match is None or match.end() == len(module):
            break
        component = component or (match.re is _WRAPPER and match["component"] is not None)
        at = match.end()
    body = plain(module[at:])
    if _PROJECTION.match(body):
        return ModuleName(True, None, None, _projection(body))
    if _TEXT_BODY.match(body) and (not component or body.startswith("text_model_")):
        return ModuleName(True, None, None, _without_levels(body))
    return ModuleName(False, None, None, body)


def _of_encoder(rest: str, match: re.Match) -> ModuleName:
    kohya, diffusers, stability, *names = match.groups()
    body = _without_levels(rest)
    if _PROJECTION.match(body):
        return ModuleName(True, None, None, _projection(body))
    encoder = next(filter(None, names), None)
    if stability is not None:
        number = int(stability) + 1
    elif diffusers is None and match[0].startswith("text_encoder") and not match[0].startswith("text_encoders"):
        # diffusers' first encoder has no number.
        number = 1
    else:
        number = int(kohya or diffusers or 0)
    return ModuleName(True, encoder, (None if encoder else number) or None, body)


def _without_levels(layer: str) -> str:
    at = 0
    while match := _LEVELS.match(layer, at):
        at = match.end()
    return plain(layer[at:])


def _projection(body: str) -> str:
    return body.removesuffix("_aggregate_embed") if body == "text_embedding_projection_aggregate_embed" else body
