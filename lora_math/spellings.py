"""Layer names of one and the same weight in the libraries that train a family, where ComfyUI's own key map lacks them.

A dialect is a sequence of substitutions on the layer's name in ComfyUI (``blocks.0.self_attn.q``), tried in order, each on the
outcome of the last; a layer that none of them changes has no other name in that dialect. In the outcome

    ``{a|b|c}``  stands for the layer's rows cut into parts, of equal size unless marked: ``a=`` has as many rows as the layer inputs;
    ``~`` at the end  says that the two halves of the rows stand the other way round there.

Sources: diffusers ``loaders/single_file_utils.py`` and its models, kohya-ss sd-scripts and musubi-tuner, and for HunyuanVideo Tencent's own
names, which those two keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

Dialect = tuple[tuple[str, str], ...]

WAN: Dialect = (
    (r"\bself_attn\b", "attn1"),
    (r"\bcross_attn\b", "attn2"),
    (r"\b(attn\d)\.([qkv])$", r"\1.to_\2"),
    (r"\b(attn\d)\.o$", r"\1.to_out.0"),
    (r"\.([kv])_img$", r".add_\1_proj"),
    (r"\.norm_k_img$", ".norm_added_k"),
    (r"\bffn\.0$", "ffn.net.0.proj"),
    (r"\bffn\.2$", "ffn.net.2"),
    (r"\.norm3$", ".norm2"),
    (r"^head\.head$", "proj_out"),
    (r"\bmodulation$", "scale_shift_table"),
    (r"^head\.scale_shift_table$", "scale_shift_table"),
    (r"^(time|text)_embedding\.0$", r"condition_embedder.\1_embedder.linear_1"),
    (r"^(time|text)_embedding\.2$", r"condition_embedder.\1_embedder.linear_2"),
    (r"^time_projection\.1$", "condition_embedder.time_proj"),
    (r"^img_emb\.proj\.0$", "condition_embedder.image_embedder.norm1"),
    (r"^img_emb\.proj\.1$", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"^img_emb\.proj\.3$", "condition_embedder.image_embedder.ff.net.2"),
    (r"^img_emb\.proj\.4$", "condition_embedder.image_embedder.norm2"),
    (r"\bbefore_proj$", "proj_in"),
    (r"\bafter_proj$", "proj_out"),
    (r"^face_adapter\.fuser_blocks\.(\d+)\.linear1_q$", r"face_adapter.\1.to_q"),
    (r"^face_adapter\.fuser_blocks\.(\d+)\.linear1_kv$", r"face_adapter.\1.{to_k|to_v}"),
    (r"^face_adapter\.fuser_blocks\.(\d+)\.linear2$", r"face_adapter.\1.to_out"),
    (r"^face_adapter\.fuser_blocks\.(\d+)\.([qk])_norm$", r"face_adapter.\1.norm_\2"),
)
# Tencent's names (kohya, diffusion-pipe, musubi-tuner), and musubi-tuner's split q, k, v for 1.5.
TENCENT: Dialect = (
    (r"_mod\.lin$", "_mod.linear"),
    (r"\bmodulation\.lin$", "modulation.linear"),
    (r"mlp\.0$", "mlp.fc1"),
    (r"mlp\.2$", "mlp.fc2"),
    (r"_attn\.norm\.(query|key)_norm$", r"_attn_\1_norm"),
    (r"^(single_blocks\.\d+)\.norm\.(query|key)_norm$", r"\1.\2_norm"),
    (r"query_norm$", "q_norm"),
    (r"key_norm$", "k_norm"),
    (r"^(time_in|guidance_in|txt_in\.t_embedder)\.in_layer$", r"\1.mlp.0"),
    (r"^(time_in|guidance_in|txt_in\.t_embedder)\.out_layer$", r"\1.mlp.2"),
    (r"^txt_in\.c_embedder\.in_layer$", "txt_in.c_embedder.linear_1"),
    (r"^txt_in\.c_embedder\.out_layer$", "txt_in.c_embedder.linear_2"),
)
TENCENT_SPLIT: Dialect = ((r"_attn\.qkv$", "_attn_{q|k|v}"),)
HUNYUAN_DIFFUSERS: Dialect = (
    (r"^double_blocks\.", "transformer_blocks."),
    (r"\.img_attn\.qkv$", ".attn.{to_q|to_k|to_v}"),
    (r"\.txt_attn\.qkv$", ".attn.{add_q_proj|add_k_proj|add_v_proj}"),
    (r"\.img_attn\.proj$", ".attn.to_out.0"),
    (r"\.txt_attn\.proj$", ".attn.to_add_out"),
    (r"\.img_attn\.norm\.query_norm$", ".attn.norm_q"),
    (r"\.img_attn\.norm\.key_norm$", ".attn.norm_k"),
    (r"\.txt_attn\.norm\.query_norm$", ".attn.norm_added_q"),
    (r"\.txt_attn\.norm\.key_norm$", ".attn.norm_added_k"),
    (r"\.img_mod\.lin$", ".norm1.linear"),
    (r"\.txt_mod\.lin$", ".norm1_context.linear"),
    (r"\.img_mlp\.0$", ".ff.net.0.proj"),
    (r"\.img_mlp\.2$", ".ff.net.2"),
    (r"\.txt_mlp\.0$", ".ff_context.net.0.proj"),
    (r"\.txt_mlp\.2$", ".ff_context.net.2"),
    (r"^single_blocks\.", "single_transformer_blocks."),
    (r"\.linear1$", ".{attn.to_q=|attn.to_k=|attn.to_v=|proj_mlp}"),
    (r"\.linear2$", ".proj_out"),
    (r"\.modulation\.lin$", ".norm.linear"),
    (r"^(single_transformer_blocks\.\d+)\.norm\.query_norm$", r"\1.attn.norm_q"),
    (r"^(single_transformer_blocks\.\d+)\.norm\.key_norm$", r"\1.attn.norm_k"),
    (r"^txt_in\.individual_token_refiner\.blocks\.", "context_embedder.token_refiner.refiner_blocks."),
    (r"(refiner_blocks\.\d+)\.self_attn\.qkv$", r"\1.attn.{to_q|to_k|to_v}"),
    (r"(refiner_blocks\.\d+)\.self_attn\.proj$", r"\1.attn.to_out.0"),
    (r"(refiner_blocks\.\d+)\.mlp\.0$", r"\1.ff.net.0.proj"),
    (r"(refiner_blocks\.\d+)\.mlp\.2$", r"\1.ff.net.2"),
    (r"(refiner_blocks\.\d+)\.adaLN_modulation\.1$", r"\1.norm_out.linear"),
    (r"^txt_in\.input_embedder$", "context_embedder.proj_in"),
    (r"^txt_in\.t_embedder\.", "context_embedder.time_text_embed.timestep_embedder."),
    (r"^txt_in\.c_embedder\.", "context_embedder.time_text_embed.text_embedder."),
    (r"^time_in\.", "time_text_embed.timestep_embedder."),
    (r"^guidance_in\.", "time_text_embed.guidance_embedder."),
    (r"^vector_in\.", "time_text_embed.text_embedder."),
    (r"_embedder\.in_layer$", "_embedder.linear_1"),
    (r"_embedder\.out_layer$", "_embedder.linear_2"),
    (r"^img_in\.", "x_embedder."),
    (r"^final_layer\.adaLN_modulation\.1$", "norm_out.linear~"),
    (r"^final_layer\.linear$", "proj_out"),
)
HUNYUAN_15_DIFFUSERS: Dialect = (
    (r"^time_in\.in_layer$", "time_embed.timestep_embedder.linear_1"),
    (r"^time_in\.out_layer$", "time_embed.timestep_embedder.linear_2"),
    (r"^byt5_in\.fc([123])$", r"context_embedder_2.linear_\1"),
    (r"^byt5_in\.layernorm$", "context_embedder_2.norm"),
    (r"^vision_in\.proj\.0$", "image_embedder.norm_in"),
    (r"^vision_in\.proj\.1$", "image_embedder.linear_1"),
    (r"^vision_in\.proj\.3$", "image_embedder.linear_2"),
    (r"^vision_in\.proj\.4$", "image_embedder.norm_out"),
    (r"^cond_type_embedding$", "cond_type_embed"),
)
FLUX2: Dialect = (
    (r"^img_in$", "x_embedder"),
    (r"^txt_in$", "context_embedder"),
    (r"^time_in\.in_layer$", "time_guidance_embed.timestep_embedder.linear_1"),
    (r"^time_in\.out_layer$", "time_guidance_embed.timestep_embedder.linear_2"),
    (r"^guidance_in\.in_layer$", "time_guidance_embed.guidance_embedder.linear_1"),
    (r"^guidance_in\.out_layer$", "time_guidance_embed.guidance_embedder.linear_2"),
    (r"^(double_stream_modulation_(?:img|txt)|single_stream_modulation)\.lin$", r"\1.linear"),
)
CHROMA: Dialect = (
    (r"^(distilled_guidance_layer\.layers\.\d+)\.in_layer$", r"\1.linear_1"),
    (r"^(distilled_guidance_layer\.layers\.\d+)\.out_layer$", r"\1.linear_2"),
)
LUMINA: Dialect = (
    (r"\battention\.qkv$", "attn.{to_q=|to_k|to_v}"),
    (r"\battention\.out$", "attn.to_out.0"),
    (r"\battention\.([qk])_norm$", r"attn.norm_\1"),
    (r"\bfeed_forward\.w([123])$", r"feed_forward.linear_\1"),
    (r"^(context_refiner\.\d+)\.attention_norm1$", r"\1.norm1"),
    (r"\battention_norm1$", "norm1.norm"),
    (r"\battention_norm2$", "norm2"),
    (r"^final_layer\.adaLN_modulation\.1$", "norm_out.linear_1"),
    (r"^final_layer\.linear$", "norm_out.linear_2"),
    (r"\badaLN_modulation\.1$", "norm1.linear"),
    (r"^cap_embedder\.", "time_caption_embed.caption_embedder."),
    (r"^t_embedder\.mlp\.0$", "time_caption_embed.timestep_embedder.linear_1"),
    (r"^t_embedder\.mlp\.2$", "time_caption_embed.timestep_embedder.linear_2"),
)
# Z-Image's spelling of the same layers with Lumina's narrower k and v.
LUMINA_SPLIT: Dialect = (
    (r"\battention\.qkv$", "attention.{to_q=|to_k|to_v}"),
    (r"\battention\.out$", "attention.to_out.0"),
)
LTX: Dialect = (
    (r"^patchify_proj$", "proj_in"),
    (r"^audio_patchify_proj$", "audio_proj_in"),
    (r"^adaln_single\.", "time_embed."),
    (r"^audio_adaln_single\.", "audio_time_embed."),
    (r"^av_ca_(video|audio)_scale_shift_adaln_single\.", r"av_cross_attn_\1_scale_shift."),
    (r"^av_ca_a2v_gate_adaln_single\.", "av_cross_attn_video_a2v_gate."),
    (r"^av_ca_v2a_gate_adaln_single\.", "av_cross_attn_audio_v2a_gate."),
    (r"^(audio_)?prompt_adaln_single\.", r"\1prompt_adaln."),
    (r"\bscale_shift_table_a2v_ca_(video|audio)$", r"\1_a2v_cross_attn_scale_shift_table"),
    (r"\.([qk])_norm$", r".norm_\1"),
)
MOCHI: Dialect = (
    (r"^blocks\.", "transformer_blocks."),
    (r"\.attn\.qkv_x$", ".attn1.{to_q|to_k|to_v}"),
    (r"\.attn\.qkv_y$", ".attn1.{add_q_proj|add_k_proj|add_v_proj}"),
    (r"\.attn\.proj_x$", ".attn1.to_out.0"),
    (r"\.attn\.proj_y$", ".attn1.to_add_out"),
    (r"\.attn\.([qk])_norm_x$", r".attn1.norm_\1"),
    (r"\.attn\.([qk])_norm_y$", r".attn1.norm_added_\1"),
    (r"\.mod_x$", ".norm1.linear"),
    (r"^transformer_blocks\.47\.mod_y$", "transformer_blocks.47.norm1_context.linear_1"),
    (r"\.mod_y$", ".norm1_context.linear"),
    (r"\.mlp_x\.w1$", ".ff.net.0.proj~"),
    (r"\.mlp_x\.w2$", ".ff.net.2"),
    (r"\.mlp_y\.w1$", ".ff_context.net.0.proj~"),
    (r"\.mlp_y\.w2$", ".ff_context.net.2"),
    (r"^x_embedder\.", "patch_embed."),
    (r"^t_embedder\.mlp\.0$", "time_embed.timestep_embedder.linear_1"),
    (r"^t_embedder\.mlp\.2$", "time_embed.timestep_embedder.linear_2"),
    (r"^t5_y_embedder\.", "time_embed.pooler."),
    (r"^t5_yproj$", "time_embed.caption_proj"),
    (r"^final_layer\.mod$", "norm_out.linear~"),
    (r"^final_layer\.linear$", "proj_out"),
)
COSMOS_ENDS: Dialect = (
    (r"^t_embedder\.1\.", "time_embed.t_embedder."),
    (r"^x_embedder\.proj\.1$", "patch_embed.proj"),
    (r"^final_layer\.ada[lL][nN]_modulation\.([12])$", r"norm_out.linear_\1"),
    (r"^final_layer\.linear$", "proj_out"),
)
COSMOS: Dialect = (
    (r"^blocks\.block(\d+)\.blocks\.", r"transformer_blocks.\1."),
    (r"^(transformer_blocks\.\d+)\.0\.block\.attn\.", r"\1.attn1."),
    (r"^(transformer_blocks\.\d+)\.1\.block\.attn\.", r"\1.attn2."),
    (r"^(transformer_blocks\.\d+)\.2\.block\.layer1$", r"\1.ff.net.0.proj"),
    (r"^(transformer_blocks\.\d+)\.2\.block\.layer2$", r"\1.ff.net.2"),
    (r"^(transformer_blocks\.\d+)\.0\.adaLN_modulation\.", r"\1.norm1.linear_"),
    (r"^(transformer_blocks\.\d+)\.1\.adaLN_modulation\.", r"\1.norm2.linear_"),
    (r"^(transformer_blocks\.\d+)\.2\.adaLN_modulation\.", r"\1.norm3.linear_"),
    (r"\.to_([qkv])\.0$", r".to_\1"),
    (r"\.to_([qk])\.1$", r".norm_\1"),
    (r"^affline_norm$", "time_embed.norm"),
    (r"^extra_pos_embedder\.", "learnable_pos_embed."),
    *COSMOS_ENDS,
)
PREDICT2: Dialect = (
    (r"^blocks\.", "transformer_blocks."),
    (r"^(transformer_blocks\.\d+)\.adaln_modulation_self_attn\.", r"\1.norm1.linear_"),
    (r"^(transformer_blocks\.\d+)\.adaln_modulation_cross_attn\.", r"\1.norm2.linear_"),
    (r"^(transformer_blocks\.\d+)\.adaln_modulation_mlp\.", r"\1.norm3.linear_"),
    (r"^(transformer_blocks\.\d+)\.self_attn\.", r"\1.attn1."),
    (r"^(transformer_blocks\.\d+)\.cross_attn\.", r"\1.attn2."),
    (r"^(transformer_blocks.*)\.([qkv])_proj$", r"\1.to_\2"),
    (r"^(transformer_blocks.*)\.output_proj$", r"\1.to_out.0"),
    (r"^(transformer_blocks.*)\.([qk])_norm$", r"\1.norm_\2"),
    (r"\.mlp\.layer1$", ".ff.net.0.proj"),
    (r"\.mlp\.layer2$", ".ff.net.2"),
    (r"^t_embedding_norm$", "time_embed.norm"),
    *COSMOS_ENDS,
)
# diffusers has a component of that name.
ANIMA: Dialect = ((r"^llm_adapter\.", "text_conditioner."),)
ACE_STEP_15: Dialect = (
    (r"^decoder\.", ""),
    (r"_attn\.([qkv])_proj$", r"_attn.to_\1"),
    (r"_attn\.o_proj$", "_attn.to_out.0"),
    (r"_attn\.([qk])_norm$", r"_attn.norm_\1"),
)


class Part(NamedTuple):
    """Rows of a layer that have a name of their own: ``start`` and ``length`` None for all; ``swapped``: its halves change places."""

    name: str
    start: int | None = None
    length: int | None = None
    swapped: bool = False


def other_names(dialects: Iterable[Dialect], layer: str, shape: tuple[int, ...]) -> Iterator[Part]:
    """Every other name of a layer, or of parts of it, in a family's dialects (``families.Family.dialects``).

    shape: of its weight, [out, in, ...].

    >>> list(other_names((TENCENT_SPLIT,), "double_blocks.0.img_attn.qkv", (9, 3)))[0]
    Part(name='double_blocks.0.img_attn_q', start=0, length=3, swapped=False)
    """
    for dialect in dialects:
        name = layer
        for pattern, replacement in dialect:
            name = _compiled(pattern).sub(replacement, name)
        if name == layer:
            continue
        swapped = name.endswith("~")
        head, brace, choice = name.rstrip("~").partition("{")
        if brace:
            choice, _, tail = choice.partition("}")
            yield from _parts(head, choice.split("|"), tail, shape)
        else:
            yield Part(head, swapped=swapped)


def _parts(head: str, names: list[str], tail: str, shape: tuple[int, ...]) -> Iterator[Part]:
    inputs = shape[1] if len(shape) > 1 else 0
    wide = sum(name.endswith("=") for name in names)
    others = len(names) - wide
    rest, odd = divmod(shape[0] - wide * inputs, others or 1)
    if rest <= 0 or odd:
        # For a model of unusual widths no name is better than a wrong one.
        return
    start = 0
    for name in names:
        length = inputs if name.endswith("=") else rest
        yield Part(head + name.rstrip("=") + tail, start, length)
        start += length


@cache
def _compiled(pattern: str) -> re.Pattern:
    return re.compile(pattern)
