"""Layouts for use without a model, with the counts that core fixes or that the published checkpoints have."""

from __future__ import annotations

from .errors import BlockTextError
from .groups import AUX, MAIN
from .layout import Layout, make_blocks, te_blocks

_CLIP_PATH, _T5_PATH, _LLM_PATH = (
    "transformer.text_model.encoder.layers",
    "transformer.encoder.block",
    "transformer.model.layers",
)
_ENCODERS = {
    "clip_l": (_CLIP_PATH, 12),
    "clip_g": (_CLIP_PATH, 32),
    "clip_h": (_CLIP_PATH, 24),
    "t5xxl": (_T5_PATH, 24),
    "umt5xxl": (_T5_PATH, 24),
    "umt5base": (_T5_PATH, 12),
    "pile_t5xl": (_T5_PATH, 24),
    "llama": (_LLM_PATH, 32),
    "qwen25_7b": (_LLM_PATH, 28),
    "qwen3_4b": (_LLM_PATH, 36),
    "qwen3_06b": (_LLM_PATH, 28),
    "qwen3vl_4b": (_LLM_PATH, 36),
    "gemma2_2b": (_LLM_PATH, 26),
    "gemma3_12b": (_LLM_PATH, 48),
    "mistral3_24b": (_LLM_PATH, 40),
}
_UNET12 = {"input_blocks": 12, "middle_block": 3, "output_blocks": 12}
_UNET9 = {"input_blocks": 9, "middle_block": 3, "output_blocks": 9}
_UNET_OTHER = "time_embed label_emb out"
_FLUX_OTHER = "img_in time_in vector_in guidance_in txt_in final_layer"
_DIT_OTHER = "x_embedder t_embedder t_embedding_norm final_layer"

# family: (lists and counts, text encoders, first words of what is in no block, stream style of the main list)
_FAMILIES: dict[str, tuple[dict[str, int], str, str, str]] = {
    "SD1.5": (_UNET12, "clip_l", "time_embed out", ""),
    "SD2": (_UNET12, "clip_h", "time_embed out", ""),
    "SDXL": (_UNET9, "clip_l clip_g", _UNET_OTHER, ""),
    "SDXL refiner": (_UNET12, "clip_g", _UNET_OTHER, ""),
    "SD3": (
        {"joint_blocks": 24},
        "clip_l clip_g t5xxl",
        "pos_embed x_embedder t_embedder y_embedder context_embedder final_layer",
        "",
    ),
    "FLUX.1": ({"double_blocks": 19, "single_blocks": 38}, "clip_l t5xxl", _FLUX_OTHER, ""),
    "FLUX.2": (
        {"double_blocks": 8, "single_blocks": 48},
        "mistral3_24b",
        "img_in time_in guidance_in txt_in final_layer double_stream_modulation_img "
        "double_stream_modulation_txt single_stream_modulation",
        "",
    ),
    "Chroma": (
        {"distilled_guidance_layer.layers": 5, "double_blocks": 19, "single_blocks": 38},
        "t5xxl",
        "img_in txt_in distilled_guidance_layer final_layer",
        "",
    ),
    "Qwen-Image": (
        {"transformer_blocks": 60},
        "qwen25_7b",
        "time_text_embed txt_norm img_in txt_in norm_out proj_out",
        "added",
    ),
    "Wan": (
        {"blocks": 40},
        "umt5xxl",
        "patch_embedding text_embedding time_embedding time_projection head img_emb",
        "",
    ),
    "HunyuanVideo": (
        {"txt_in.individual_token_refiner.blocks": 2, "double_blocks": 20, "single_blocks": 40},
        "clip_l llama",
        _FLUX_OTHER,
        "",
    ),
    "Z-Image": (
        {"context_refiner": 2, "noise_refiner": 2, "layers": 30},
        "qwen3_4b",
        "x_pad_token cap_pad_token x_embedder t_embedder cap_embedder final_layer",
        "",
    ),
    "Lumina 2": (
        {"context_refiner": 2, "noise_refiner": 2, "layers": 26},
        "gemma2_2b",
        "x_embedder t_embedder cap_embedder final_layer",
        "",
    ),
    "LTX-Video": (
        {"transformer_blocks": 28},
        "t5xxl",
        "scale_shift_table patchify_proj adaln_single caption_projection proj_out",
        "",
    ),
    "LTX-2": (
        {
            "video_embeddings_connector.transformer_1d_blocks": 2,
            "audio_embeddings_connector.transformer_1d_blocks": 2,
            "transformer_blocks": 48,
        },
        "gemma3_12b",
        "scale_shift_table audio_scale_shift_table patchify_proj adaln_single caption_projection "
        "audio_patchify_proj audio_adaln_single audio_caption_projection proj_out audio_proj_out",
        "audio",
    ),
    "HiDream": (
        {"double_stream_blocks": 16, "single_stream_blocks": 32},
        "clip_l clip_g t5xxl llama",
        "t_embedder p_embedder x_embedder final_layer caption_projection",
        "suffix_t",
    ),
    "AuraFlow": (
        {"double_layers": 4, "single_layers": 32},
        "pile_t5xl",
        "positional_encoding register_tokens t_embedder cond_seq_linear init_x_linear final_linear modF",
        "aura",
    ),
    "PixArt": (
        {"blocks": 28},
        "t5xxl",
        "t_block x_embedder t_embedder y_embedder csize_embedder ar_embedder final_layer",
        "",
    ),
    "Mochi": ({"blocks": 48}, "t5xxl", "x_embedder t_embedder t5_y_embedder t5_yproj final_layer", "xy"),
    "Cosmos Predict2": ({"blocks": 28}, "t5xxl", _DIT_OTHER, ""),
    "Anima": ({"llm_adapter.blocks": 6, "blocks": 28}, "qwen3_06b", f"{_DIT_OTHER} llm_adapter", ""),
    "Krea 2": (
        {"txtfusion.layerwise_blocks": 2, "txtfusion.refiner_blocks": 2, "blocks": 28},
        "qwen3vl_4b",
        "first tmlp txtfusion txtmlp last tproj",
        "",
    ),
    "ACE-Step": (
        {"lyric_encoder.encoders": 6, "transformer_blocks": 24},
        "umt5base",
        "timestep_embedder t_block speaker_embedder genre_embedder lyric_embs lyric_encoder lyric_proj "
        "projectors final_layer proj_in",
        "",
    ),
}
FAMILIES = tuple(_FAMILIES)


def builtin_layout(family: str) -> Layout:
    """The usual layout of a family (its largest common model). Raises BlockTextError if there is none."""
    if family not in _FAMILIES:
        raise BlockTextError(f"There is no model family {family!r}. Known families: {', '.join(FAMILIES)}.")
    lists, encoders, others, style = _FAMILIES[family]
    main = [path for path in lists if path in MAIN]
    aux = [path for path in lists if path in AUX]
    return Layout(
        tuple(block for path in main for block in make_blocks(path, MAIN[path], range(lists[path]), False)),
        tuple(block for path in aux for block in make_blocks(path, AUX[path], range(lists[path]), True)),
        tuple(
            block
            for encoder in encoders.split()
            for block in te_blocks(encoder, _ENCODERS[encoder][0], range(_ENCODERS[encoder][1]))
        ),
        tuple(encoders.split()),
        tuple(others.split()),
        family,
        styles={main[0]: style},
    )
