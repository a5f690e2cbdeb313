"""Layouts of every kind of model that ComfyUI loads, from the models themselves: all weights placed once."""

import random

import pytest

from strata.lora_math.blocks import builtin_layout, layout_of, parse
from strata.tests.nodes.helpers import core_models

# Letters and counts worked out from ComfyUI's model code; auxiliary lists behind the bar.
EXPECTED = {
    "SD1.5": "IN12 M1 OUT12",
    "SD2": "IN12 M1 OUT12",
    "SDXL": "IN9 M1 OUT9",
    "SSD-1B": "IN9 M1 OUT9",
    "SDXL refiner": "IN12 M1 OUT12",
    "SD3": "J24",
    "SD3.5 medium": "J24",
    "SD3.5 large": "J38",
    "FLUX.1": "D19 S38",
    "FLUX.1 schnell": "D19 S38",
    "FLUX.2 klein 4B": "D5 S20",
    "FLUX.2 klein 9B": "D8 S24",
    "FLUX.2 dev": "D8 S48",
    "Chroma": "D19 S38 | DG5",
    "Chroma Radiance": "D19 S38 | DG5 NB4",
    "HunyuanVideo": "D20 S40 | TR2",
    "HunyuanVideo 1.5": "D54 | TR2",
    "Lumina 2": "L26 | CR2 NR2",
    "Z-Image": "L30 | CR2 NR2",
    "Z-Image Omni": "L30 | CR2 SR2 NR2",
    "Qwen-Image": "T60",
    "Wan 14B": "B40",
    "Wan 14B i2v": "B40",
    "Wan 1.3B": "B30",
    "Wan 2.2 5B": "B30",
    "Wan VACE": "B40 | V8",
    "Wan Camera": "B40 | CA1",
    "Wan S2V": "B40 | AI12 AN12",
    "Wan HuMo": "B40",
    "Wan Animate": "B40 | FA8",
    "Wan Dancer": "B40 | ME2 MI8",
    "LTX-Video": "T28",
    "LTX-2": "T48 | VC2 AC2",
    "HiDream": "D16 S32",
    "HiDream-O1": "L36 | VB27",
    "AuraFlow": "D4 S32",
    "PixArt": "B28",
    "PixArt alpha": "B28",
    "HunyuanDiT": "B40",
    "Cosmos 7B": "B28",
    "Cosmos 14B": "B36",
    "Cosmos Predict2 2B": "B28",
    "Cosmos Predict2 14B": "B36",
    "Anima": "B28 | LA6",
    "Krea 2": "B28 | FL2 FR2",
    "OmniGen2": "L32 | CR2 RR2 NR2",
    "Boogu": "D8 S32 | CR2 RR2 NR2",
    "Ideogram 4": "L34",
    "Ernie": "L36",
    "Lens": "T48",
    "Mage-Flow": "T12",
    "JoyImage": "D20",
    "Kandinsky 5": "T32 | TT2",
    "CogVideoX": "B30",
    "Mochi": "B48",
    "MiniMax H3": "B50 | TR2",
    "SeedVR2": "B32",
    "ACE-Step": "T24 | LE6 PC3",
    "ACE-Step 1.5": "L24 | LE8 TB4 TP2 DT2",
    "Stable Audio": "L24",
    "PixelDiT": "P14 PX2",
}
# Weights in no block, by the first word of their name, for the families that people use most.
OTHER = {
    "SDXL": "time_embed label_emb out",
    "FLUX.1": "img_in time_in vector_in guidance_in txt_in final_layer",
    "Qwen-Image": "time_text_embed txt_norm img_in txt_in norm_out proj_out",
    "Wan 14B": "patch_embedding text_embedding time_embedding time_projection head",
    "HiDream": "t_embedder p_embedder x_embedder final_layer caption_projection",
    "PixArt": "t_block x_embedder t_embedder y_embedder final_layer",
}
ENCODERS = {
    "SD1.5": {"clip_l": 12},
    "SD2": {"clip_h": 24},
    "SDXL": {"clip_l": 12, "clip_g": 32},
    "SDXL refiner": {"clip_g": 32},
    "SD3": {"clip_l": 12, "clip_g": 32, "t5xxl": 24},
    "FLUX.1": {"clip_l": 12, "t5xxl": 24},
    "FLUX.2": {"mistral3_24b": 40},
    "HunyuanVideo": {"clip_l": 12, "llama": 32},
    "Wan": {"umt5xxl": 24},
    "Z-Image": {"qwen3_4b": 36},
    "Qwen-Image": {"qwen25_7b": 28},
    "Lumina 2": {"gemma2_2b": 26},
    "HiDream": {"clip_l": 12, "clip_g": 32, "t5xxl": 24, "llama": 32},
    "LTX-2": {"gemma3_12b": 48, "text_embedding_projection": 0},
    "AuraFlow": {"pile_t5xl": 24},
    "PixArt": {"t5xxl": 24},
    "Anima": {"qwen3_06b": 28},
    "Krea 2": {"qwen3vl_4b": 36},
    "ACE-Step": {"umt5base": 12},
}


def summary(layout):
    def counts(blocks):
        groups = dict.fromkeys(block.group for block in blocks)
        return " ".join(f"{group}{sum(block.group == group for block in blocks)}" for group in groups)

    return counts(layout.blocks) + (f" | {counts(layout.aux)}" if layout.aux else "")


def test_every_model_has_an_expectation():
    assert EXPECTED.keys() == core_models.CONFIGS.keys()


@pytest.fixture(scope="module")
def names():
    """Weight names of all models; a model is built once."""
    return {name: core_models.weight_names(name) for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_counts_and_every_weight_is_in_one_place(names, name):
    keys = names[name]
    layout = layout_of(keys)
    assert summary(layout) == EXPECTED[name]
    by_prefix = {f"diffusion_model.{block.prefix}": block.name for block in (*layout.blocks, *layout.aux)}
    for key in keys:
        place = layout.locate(key)
        starts = [key[: at + 1] for at, character in enumerate(key) if character == "."]
        homes = [by_prefix[start] for start in starts if start in by_prefix]
        assert homes == ([place.block] if place.group != "OTHER" else []), key
    if name in OTHER:
        assert list(layout.others) == OTHER[name].split()


@pytest.mark.parametrize("name", ["SDXL", "Z-Image", "FLUX.1", "Boogu", "ACE-Step 1.5", "Krea 2", "LTX-2"])
def test_the_order_of_keys_does_not_matter(names, name):
    keys = list(names[name])
    random.Random(0).shuffle(keys)
    assert layout_of(keys).blocks == layout_of(names[name]).blocks
    assert layout_of(keys).aux == layout_of(names[name]).aux
    assert layout_of([key.removeprefix("diffusion_model.") for key in keys]).blocks == layout_of(keys).blocks


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_do_not_depend_on_a_loras_blocks(names, name):
    """A weight for one block reaches exactly the weights under its prefix."""
    layout = layout_of(names[name])
    block = layout.blocks[len(layout.blocks) // 2]
    weights = parse(f"{block.name}=0.25", layout).resolve(layout)
    for key in names[name]:
        inside = key.startswith(f"diffusion_model.{block.prefix}")
        assert weights.weight(key) == (0.25 if inside else 1.0)


PARTS = [
    ("SD1.5", "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight", "IN04", "attn", None, 0),
    ("SD1.5", "output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight", "OUT03", "cross", None, 0),
    ("SD1.5", "input_blocks.0.0.weight", "IN00", "conv", None, None),
    ("SD1.5", "input_blocks.1.0.emb_layers.1.weight", "IN01", "mod", None, None),
    ("SDXL", "input_blocks.8.1.transformer_blocks.7.ff.net.0.proj.weight", "IN08", "mlp", None, 7),
    ("SDXL", "middle_block.1.transformer_blocks.9.norm1.weight", "M00", "norm", None, 1),
    ("SDXL", "middle_block.2.in_layers.2.weight", "M00", "conv", None, 2),
    ("SDXL", "output_blocks.0.1.proj_in.weight", "OUT00", "proj", None, None),
    ("SD3.5 medium", "joint_blocks.3.context_block.mlp.fc1.weight", "J03", "mlp", "txt", None),
    ("SD3.5 medium", "joint_blocks.3.x_block.attn2.qkv.weight", "J03", "attn", "img", None),
    ("FLUX.1", "double_blocks.7.img_attn.qkv.weight", "D07", "attn", "img", None),
    ("FLUX.1", "double_blocks.7.txt_mod.lin.weight", "D07", "mod", "txt", None),
    ("FLUX.1", "double_blocks.7.txt_attn.norm.key_norm.weight", "D07", "norm", "txt", None),
    ("FLUX.1", "single_blocks.12.linear1.weight", "S12", "fused", None, None),
    ("FLUX.1", "single_blocks.12.modulation.lin.weight", "S12", "mod", None, None),
    ("Qwen-Image", "transformer_blocks.59.attn.to_q.weight", "T59", "attn", "img", None),
    ("Qwen-Image", "transformer_blocks.59.attn.add_q_proj.weight", "T59", "attn", "txt", None),
    ("Qwen-Image", "transformer_blocks.59.attn.norm_added_k.weight", "T59", "norm", "txt", None),
    ("Qwen-Image", "transformer_blocks.59.img_mlp.net.0.proj.weight", "T59", "mlp", "img", None),
    ("Wan 14B i2v", "blocks.5.cross_attn.k_img.weight", "B05", "cross", None, None),
    ("Wan 14B", "blocks.5.self_attn.q.weight", "B05", "attn", None, None),
    ("Wan 14B", "blocks.5.ffn.0.weight", "B05", "mlp", None, None),
    ("Wan 14B", "blocks.5.modulation", "B05", "mod", None, None),
    ("Wan VACE", "vace_blocks.1.self_attn.q.weight", "V1", "attn", None, None),
    ("Wan Dancer", "music_injector.injector.1.q.weight", "MI1", "cross", None, None),
    ("Z-Image", "layers.10.attention.qkv.weight", "L10", "attn", None, None),
    ("Z-Image", "layers.10.adaLN_modulation.0.weight", "L10", "mod", None, None),
    ("Z-Image", "context_refiner.0.feed_forward.w1.weight", "CR0", "mlp", None, None),
    ("Z-Image", "noise_refiner.1.attention.qkv.weight", "NR1", "attn", None, None),
    ("LTX-Video", "transformer_blocks.3.attn2.to_q.weight", "T03", "cross", None, None),
    ("LTX-2", "transformer_blocks.3.attn1.to_q.weight", "T03", "attn", "video", None),
    ("LTX-2", "transformer_blocks.3.audio_ff.net.2.weight", "T03", "mlp", "audio", None),
    ("LTX-2", "transformer_blocks.3.audio_to_video_attn.to_q.weight", "T03", "a2v", "video", None),
    ("LTX-2", "transformer_blocks.3.video_to_audio_attn.to_q.weight", "T03", "v2a", "audio", None),
    ("HiDream", "double_stream_blocks.3.block.attn1.to_q_t.weight", "D03", "attn", "txt", None),
    ("HiDream", "double_stream_blocks.3.block.ff_i.experts.2.w1.weight", "D03", "mlp", "img", None),
    ("AuraFlow", "double_layers.1.attn.w1q.weight", "D01", "attn", "txt", None),
    ("AuraFlow", "double_layers.1.mlpX.c_fc1.weight", "D01", "mlp", "img", None),
    ("AuraFlow", "single_layers.1.modCX.1.weight", "S01", "mod", None, None),
    ("Cosmos 7B", "blocks.block3.blocks.1.block.attn.to_k.0.weight", "B03", "cross", None, 1),
    ("Cosmos 7B", "blocks.block3.blocks.2.block.layer1.weight", "B03", "mlp", None, 2),
    ("Cosmos Predict2 2B", "blocks.3.adaln_modulation_self_attn.1.weight", "B03", "mod", None, None),
    ("Mochi", "blocks.3.attn.qkv_y.weight", "B03", "attn", "txt", None),
    ("OmniGen2", "layers.3.norm1.linear.weight", "L03", "mod", None, None),
    ("CogVideoX", "blocks.3.q.weight", "B03", "attn", None, None),
    ("FLUX.1", "final_layer.linear.weight", "OTHER:final_layer", None, None, None),
]


@pytest.mark.parametrize(("model", "key", "block", "component", "stream", "sub"), PARTS)
def test_components_and_streams(names, model, key, block, component, stream, sub):
    assert f"diffusion_model.{key}" in names[model]
    place = layout_of(names[model]).locate(f"diffusion_model.{key}")
    assert (place.block, place.component, place.stream, place.sub) == (block, component, stream, sub)


@pytest.mark.parametrize("family", ENCODERS)
def test_text_encoders(family):
    keys = core_models.text_encoder_names(family)
    layout = layout_of([], keys, family)
    assert layout.encoder_layers == ENCODERS[family]
    for key in keys:
        place, encoder = layout.locate(key), key.split(".")[0]
        homes = [block.name for block in layout.text_encoders if key.startswith(block.prefix)]
        assert homes == ([place.block] if place.index is not None else [])
        assert place.group == f"TE:{encoder}" and (place.index is not None or place.block == f"TE:{encoder}.other")
    assert builtin_layout(family).encoder_layers.items() <= layout.encoder_layers.items()
    assert {block.prefix for block in layout.text_encoders} == {
        block.prefix for block in builtin_layout(family).text_encoders
    }


BUILTIN = {
    "SD1.5": "SD1.5",
    "SD2": "SD2",
    "SDXL": "SDXL",
    "SDXL refiner": "SDXL refiner",
    "SD3": "SD3",
    "FLUX.1": "FLUX.1",
    "FLUX.2": "FLUX.2 dev",
    "Chroma": "Chroma",
    "Qwen-Image": "Qwen-Image",
    "Wan": "Wan 14B i2v",
    "HunyuanVideo": "HunyuanVideo",
    "Z-Image": "Z-Image",
    "Lumina 2": "Lumina 2",
    "LTX-Video": "LTX-Video",
    "LTX-2": "LTX-2",
    "HiDream": "HiDream",
    "AuraFlow": "AuraFlow",
    "PixArt": "PixArt",
    "Mochi": "Mochi",
    "Cosmos Predict2": "Cosmos Predict2 2B",
    "Anima": "Anima",
    "Krea 2": "Krea 2",
    "ACE-Step": "ACE-Step",
}


@pytest.mark.parametrize("family", BUILTIN)
def test_the_builtin_layout_is_the_models(names, family):
    model, builtin = layout_of(names[BUILTIN[family]]), builtin_layout(family)
    assert builtin.blocks == model.blocks
    assert set(builtin.aux) <= set(model.aux)
    for key in names[BUILTIN[family]]:
        place = model.locate(key)
        if place.group in builtin.counts:
            assert builtin.locate(key) == place, key
