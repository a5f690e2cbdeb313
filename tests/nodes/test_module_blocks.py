"""Blocks from module names alone, against ComfyUI's own key maps of the real models: every spelling that it knows."""

import comfy.lora
import pytest

from strata.lora_math.blocks import builtin_layout, layout_of
from strata.lora_math.module_blocks import block_of
from strata.tests.nodes.helpers import core_models

FAMILIES = [
    "SD1.5", "SD2", "SDXL", "SDXL refiner", "SD3", "FLUX.1", "FLUX.2 dev", "Chroma", "HunyuanVideo", "Lumina 2", "Z-Image",
    "Qwen-Image", "Wan 14B", "Wan 14B i2v", "LTX-Video", "HiDream", "AuraFlow", "PixArt", "Cosmos Predict2 2B", "Anima", "Krea 2",
    "Mochi",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_name_of_every_layer(name):
    model = core_models.build(name)
    keys = set(model.state_dict())
    layout = layout_of(keys)
    wrong = {}
    for module, key in comfy.lora.model_lora_keys_unet(model, {}).items():
        key = key if isinstance(key, str) else key[0]
        if key in keys:
            place = layout.locate(key)
            expected = "OTHER" if place.index is None else place.block
            if block_of(module, layout) != expected:
                wrong[module] = (expected, block_of(module, layout))
    assert not wrong


@pytest.mark.parametrize(
    ("module", "family", "block"),
    [
        ("lora_te_text_model_encoder_layers_3_mlp_fc1", "SD1.5", "TE:clip_l"),
        ("lora_te1_text_model_encoder_layers_3_mlp_fc1", "SDXL", "TE:clip_l"),
        ("lora_te2_text_model_encoder_layers_3_mlp_fc1", "SDXL", "TE:clip_g"),
        ("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj", "SDXL", "TE:clip_g"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", "SD3", "TE:t5xxl"),
        ("text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q", "FLUX.1", "TE:t5xxl"),
        ("transformer.transformer_blocks.3.attn.to_q", "Qwen-Image", "T03"),
        ("transformer_blocks.3.attn.to_q", "Qwen-Image", "T03"),
        ("base_model.model.transformer_blocks.3.attn.to_q", "FLUX.1", "D03"),
        ("unet.base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "SDXL", "M00"),
        ("lora_unet_double_blocks_99_img_attn_qkv", "FLUX.1", "OTHER"),
        ("nonsense", "FLUX.1", "OTHER"),
    ],
)
def test_single_names(module, family, block):
    assert block_of(module, builtin_layout(family)) == block
