"""A module's block from its name alone is the block of the weight that it changes, in every naming that trainers write.

Which weight that is comes from diffusers' conversions and ComfyUI's own models (``naming_files.py``), and once more from the pack's way
with the model loaded.
"""

from __future__ import annotations

import random
import re

import comfy.lora_convert
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math import families, family, names
from strata.lora_math.blocks import builtin_layout, layout_of
from strata.lora_math.module_blocks import block_of
from strata.lora_math.reading import state_dict, xlabs
from strata.lora_math.reading.state_dict import split_key
from strata.nodes.comfy.targets import clip_targets, model_targets
from strata.tests.nodes.helpers import compatibility, diffusers_names, naming_files, text_encoder_names
from strata.tests.nodes.helpers.naming_files import Fused


def modules_of(file):
    """(module, what it changes) of a file as the pack reads it; reading may give tensors other names."""
    tensors = xlabs.convert(comfy.lora_convert.convert_lora(dict(file.tensors)))
    keys = {id(tensor): key for key, tensor in tensors.items()}
    for key, rows in file.expected.items():
        found = split_key(keys.get(id(file.tensors[key]), ""))
        if found is not None:
            part = rows.parts[0] if isinstance(rows, Fused) else rows
            yield found[0], part.key, file.tensors[key].shape


def row(layout, key: str) -> str:
    """The row of the desk that holds a weight."""
    place = layout.locate(key)
    return place.group if place.group.startswith("TE") or place.index is None else place.block


@pytest.mark.parametrize("model", naming_files.CASES)
def test_every_naming_of_a_diffusion_model(model):
    layout = layout_of(f"diffusion_model.{key}" for key in diffusers_names.weights_of(model))
    found = model_targets(compatibility.patcher(model))
    wrong = {}
    for file in naming_files.files(model):
        for module, key, _ in modules_of(file):
            by_name, by_map = block_of(module, layout), {row(layout, t.key) for t in found.find(module, "weight")}
            if by_name != row(layout, key) or by_map - {by_name}:
                wrong[file.title, module] = (by_name, row(layout, key), by_map)
    assert not wrong


@pytest.mark.parametrize("name", text_encoder_names.SETS)
def test_every_naming_of_text_encoders(name):
    clip = text_encoder_names.clip(name)
    shapes = {key: tuple(value.shape) for key, value in clip.cond_stage_model.state_dict().items()}
    layout, found = layout_of((), shapes), clip_targets(clip)
    wrong = {}
    for file in naming_files.text_files(name):
        for module, key, _ in modules_of(file):
            by_name = block_of(module, layout, shapes[key])
            by_map = {
                row(layout, t.key) for t in found.find(module, "weight", lambda shape, key=key: shape == shapes[key])
            }
            if by_name != row(layout, key) or by_map - {by_name}:
                wrong[file.title, module] = (by_name, row(layout, key), by_map)
    assert not wrong


VARIANTS = [(row.name, width) for row in families.TABLE for width in row.depths]
MODELS = {
    ("FLUX.1", 3072): "FLUX.1",
    ("Chroma", 3072): "Chroma",
    ("FLUX.2", 6144): "FLUX.2 dev",
    ("FLUX.2", 4096): "FLUX.2 klein 9B",
    ("FLUX.2", 3072): "FLUX.2 klein 4B",
    ("Qwen-Image", 3072): "Qwen-Image",
    ("Wan", 5120): "Wan 14B",
    ("Wan", 3072): "Wan 2.2 5B",
    ("Wan", 1536): "Wan 1.3B",
    ("HunyuanVideo", 3072): "HunyuanVideo",
    ("HunyuanVideo", 2048): "HunyuanVideo 1.5",
    ("Z-Image", 3840): "Z-Image",
    ("Lumina 2", 2304): "Lumina 2",
    ("SD3", 1536): "SD3",
    ("SD3", 2432): "SD3.5 large",
    ("LTX-Video", 2048): "LTX-Video",
    ("LTX-2", 4096): "LTX-2",
    ("HiDream", 2560): "HiDream",
    ("PixArt", 1152): "PixArt",
    ("Mochi", 3072): "Mochi",
    ("Cosmos", 4096): "Cosmos 7B",
    ("Cosmos", 5120): "Cosmos 14B",
    ("Cosmos Predict2", 2048): "Cosmos Predict2 2B",
    ("Cosmos Predict2", 5120): "Cosmos Predict2 14B",
    ("Anima", 2048): "Anima",
    ("ACE-Step", 2560): "ACE-Step",
    ("Lens", 1536): "Lens",
    ("Mage-Flow", 3072): "Mage-Flow",
}
# Widths whose models the tests cannot build as they were published.
UNBUILT = {
    ("HunyuanImage", 3584): "no configuration here",
    ("LTX-Video", 4096): "no configuration here",
    ("AuraFlow", 3072): "the configuration here has the 36 blocks of version 0.1",
    ("Krea 2", 6144): "built narrower here",
    ("ACE-Step 1.5", 2048): "built narrower here",
}


def test_every_size_of_every_family_is_built_or_excused():
    assert set(VARIANTS) == MODELS.keys() | UNBUILT.keys()


@pytest.mark.parametrize(("family", "width"), [key for key in MODELS if key[0] not in ("Lens", "Mage-Flow")])
def test_the_depth_for_a_width_is_the_models(family, width):
    model = layout_of(f"diffusion_model.{key}" for key in diffusers_names.weights_of(MODELS[family, width]))
    assert builtin_layout(family, width).blocks == model.blocks


@pytest.mark.parametrize(
    ("module", "body"),
    [
        ("lora_unet_model_diffusion_model_double_blocks_0_img_attn_proj", "double_blocks_0_img_attn_proj"),
        ("lora_unet_model_transformer_blocks_0_attn1_to_k", "transformer_blocks_0_attn1_to_k"),
        ("lora_unet_context_embedder_", "context_embedder"),
        ("lora_unet_single_transformer_blocks_0_attn_to_k_", "single_transformer_blocks_0_attn_to_k"),
        ("Hunyuan_video_I2V_lora_single_blocks_0_modulation_linear", "single_blocks_0_modulation_linear"),
        ("lora_unet__blocks_0_ffn_0", "blocks_0_ffn_0"),
        ("oft_unet_down_blocks_0_resnets_0_conv1", "down_blocks_0_resnets_0_conv1"),
        ("dit.blocks.0.self_attn.q", "blocks_0_self_attn_q"),
        ("net.blocks.0.self_attn.q_proj", "blocks_0_self_attn_q_proj"),
        ("pipe.dit.transformer_blocks.0.attn.to_q", "transformer_blocks_0_attn_to_q"),
        ("model.diffusion_model.input_blocks.1.1.proj_in", "input_blocks_1_1_proj_in"),
        ("module.transformer.blocks.0.attn1.to_q", "blocks_0_attn1_to_q"),
        ("lora_transformer_transformer_blocks_0_attn_to_q", "transformer_blocks_0_attn_to_q"),
        ("lora_transformer_layers_0_attention_to_q", "layers_0_attention_to_q"),
        ("lycoris_transformer_blocks_0_attn_to_q", "transformer_blocks_0_attn_to_q"),
        ("_orig_mod.transformer_blocks.0._orig_mod.attn.to_q", "transformer_blocks_0_attn_to_q"),
        ("transformer_blocks.0._checkpoint_wrapped_module.attn.to_q.base_layer", "transformer_blocks_0_attn_to_q"),
        ("base_model.model.model.diffusion_model.blocks.0.ffn.0", "blocks_0_ffn_0"),
        ("lora_flux_double_blocks_0_img_attn_proj", "double_blocks_0_img_attn_proj"),
        ("flux.single_blocks.0.linear1", "single_blocks_0_linear1"),
        ("lora_unet__fsdp_wrapped_module_double_blocks_0_img_attn_proj", "double_blocks_0_img_attn_proj"),
        ("lora_backbone_blocks_0_ffn_0", "blocks_0_ffn_0"),
        ("My-Trainer_lora_double_blocks_0_img_attn_proj", "double_blocks_0_img_attn_proj"),
        ("my.trainer.lora.double_blocks.0.img_attn.proj", "double_blocks_0_img_attn_proj"),
        ("ema_model.double_blocks.0.img_attn.proj", "double_blocks_0_img_attn_proj"),
        ("ema.diffusion_model.double_blocks.0.img_attn.proj", "double_blocks_0_img_attn_proj"),
        ("generator.model.blocks.0.ffn.0", "blocks_0_ffn_0"),
        ("student.diffusion_model.blocks.0.ffn.0", "blocks_0_ffn_0"),
        ("policy.transformer_blocks.0.attn.to_q", "transformer_blocks_0_attn_to_q"),
        ("double_blocks.0.img_attn.proj.default", "double_blocks_0_img_attn_proj"),
        # Layers and other networks that only look like it.
        ("blocks.0.lora.down", "blocks_0_lora_down"),
        ("mid_block.attn.to_q.lora.down", "mid_block_attn_to_q_lora_down"),
        ("flux_in.proj", "flux_in_proj"),
        ("controlnet.double_blocks.0.img_attn.proj", "controlnet_double_blocks_0_img_attn_proj"),
    ],
)
def test_wrappers_that_trainers_combine(module, body):
    assert names.read(module) == names.ModuleName(False, None, None, body)


WRAPPERS = [
    *("lora_unet_", "lora_unet__", "lycoris_", "oft_unet_", "base_model.model.", "model.", "diffusion_model.", "unet."),
    *(
        "ema.",
        "student.",
        "_fsdp_wrapped_module.",
        "backbone_",
        "module.",
        "_orig_mod.",
        "dit.",
        "net.",
        "pipe.",
        "transformer.",
        "lora_unet_model_",
        "Some_new_lora_",
    ),
]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(WRAPPERS), max_size=5), st.booleans(), st.sampled_from(["", "_"]), st.data())
def test_any_wrappers_around_any_layer(wrappers, flat, end, data):
    """In any order and number, dotted or flattened, with or without what some trainers leave at the end."""
    model = data.draw(st.sampled_from(["FLUX.1", "SDXL", "Wan 14B", "Z-Image", "Qwen-Image", "LTX-2", "Mochi"]))
    layer = data.draw(st.sampled_from(sorted(naming_files.native_layers(model))))
    if wrappers and "Some_new_lora_" in wrappers[1:]:
        wrappers = [w for w in wrappers if w != "Some_new_lora_"]  # a tag stands at the beginning
    module = "".join(wrappers) + (layer.replace(".", "_") if flat else layer) + end
    assert names.read(module) == names.ModuleName(False, None, None, layer.replace(".", "_"))


@pytest.mark.parametrize("model", naming_files.CASES)
def test_no_two_layers_have_one_body(model):
    bodies = [names.model_body(f"diffusion_model.{layer}") for layer in naming_files.native_layers(model)]
    assert len(set(bodies)) == len(bodies)


T5_LAYER = "encoder_block_0_layer_0_SelfAttention_q"


@pytest.mark.parametrize(
    ("module", "encoder", "number", "body"),
    [
        ("lora_te_text_model_encoder_layers_3_mlp_fc1", None, None, "encoder_layers_3_mlp_fc1"),
        ("lora_te2_text_model_encoder_layers_3_mlp_fc1", None, 2, "encoder_layers_3_mlp_fc1"),
        ("oft_te1_text_model_encoder_layers_3_mlp_fc1", None, 1, "encoder_layers_3_mlp_fc1"),
        ("te1.text_model.encoder.layers.3.mlp.fc1", None, 1, "encoder_layers_3_mlp_fc1"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc1", None, 1, "encoder_layers_3_mlp_fc1"),
        ("text_encoder_2.base_model.model.encoder.block.0.layer.0.SelfAttention.q", None, 2, T5_LAYER),
        ("lycoris_text_encoder_2_text_model_encoder_layers_3_mlp_fc1", None, 2, "encoder_layers_3_mlp_fc1"),
        ("conditioner.embedders.1.transformer.text_model.encoder.layers.3.mlp.fc1", None, 2, "encoder_layers_3_mlp_fc1"),
        ("cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1", None, None, "encoder_layers_3_mlp_fc1"),
        ("text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q", "t5xxl", None, T5_LAYER),
        ("text_encoders_clip_l_transformer_text_model_encoder_layers_3_mlp_fc1", "clip_l", None, "encoder_layers_3_mlp_fc1"),
        ("clip_g.transformer.text_model.encoder.layers.3.mlp.fc1", "clip_g", None, "encoder_layers_3_mlp_fc1"),
        ("lora_prior_te_text_projection", None, None, "text_projection"),
        ("base_model.model.text_model.encoder.layers.3.mlp.fc1", None, None, "encoder_layers_3_mlp_fc1"),
        ("text_embedding_projection.aggregate_embed", None, None, "text_embedding_projection"),
        ("text_encoders.text_embedding_projection.video_aggregate_embed", None, None, "text_embedding_projection_video_aggregate_embed"),
    ],
)  # fmt: skip
def test_text_encoders_by_any_name(module, encoder, number, body):
    assert names.read(module) == names.ModuleName(True, encoder, number, body)
    flat = module.replace(".", "_")
    if "embedders" not in module and "base_model" not in module:
        assert names.read(flat).body == body and names.read(flat).text


def test_a_name_of_a_megabyte_is_read_at_once():
    """Names longer than any layer's stay as they are; steps up to that length are counted, not timed."""
    name = "lora_" * 200_000
    assert names.read(name) == names.ModuleName(False, None, None, name)


# Krea 2 is built half as wide here as it was published.
@pytest.mark.parametrize("model", [model for model in naming_files.CASES if model != "Krea 2"])
def test_a_part_of_a_file_never_excludes_its_family(model):
    """A few kinds of layer in a few blocks, in every naming: what is said of it may be less, never wrong."""
    expected = families.of_class(type(compatibility.patcher(model).model.model_config).__name__)
    chance = random.Random(model)
    for file in naming_files.files(model):
        modules = {}
        for entry in state_dict.parse(xlabs.convert(dict(file.tensors))).entries:
            kind = re.sub(r"\d+", "0", entry.module)
            number = next(iter(re.findall(r"\d+", entry.module)), "")
            modules.setdefault(kind, {}).setdefault(number, []).append(entry)
        for _ in range(6):
            kinds = chance.sample(sorted(modules), min(len(modules), chance.randint(1, 3)))
            numbers = set(chance.sample(range(60), 20))
            chosen = [e for k in kinds for n, es in modules[k].items() if not n or int(n) in numbers for e in es]
            found = family.candidates(chosen)
            assert not found or expected in found, (file.title, [e.module for e in chosen][:5])
