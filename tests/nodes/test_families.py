"""Every naming that trainers write, for every family: no tensor is left over, each lands on its weight, and the family is told right.

The expectations come from diffusers' conversions, ComfyUI's own weights and names written down by hand: see ``naming_files.py``.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from strata.lora_math import families, family, noise
from strata.lora_math.reading import state_dict
from strata.nodes.comfy.library import Lora
from strata.nodes.comfy.targets import clip_targets, model_family, model_targets
from strata.nodes.fitting.fit import fit, match
from strata.nodes.fitting.side import NOTHING, Side
from strata.nodes.report import lora as report
from strata.tests.nodes.helpers import compatibility, diffusers_names, naming_files, text_encoder_names

# Files that names and widths cannot tell apart from another family's: there the answer must be "unknown".
OPEN = {
    ("FLUX.1", "XLabs"): "attention of FLUX.1 and Chroma",
    ("FLUX.1", "after `fuse_qkv"): "attention of FLUX.1 and Chroma",
    ("Chroma", "after `fuse_qkv"): "attention of FLUX.1 and Chroma",
    ("Cosmos Predict2 2B", ""): "Anima without its adapter",
    ("Cosmos Predict2 14B", "(d)"): "Cosmos 14B",
    ("Anima", "(d)"): "Cosmos Predict2 2B",
}


def is_open(file) -> bool:
    return any(file.model == model and part in file.title for model, part in OPEN)


@pytest.mark.parametrize("model", naming_files.CASES)
def test_every_naming_of_a_diffusion_model(model):
    expected = model_family(compatibility.patcher(model).model)
    for file, result in compatibility.outcomes():
        if file.model == model:
            assert result.ours == result.tensors, f"{file.title}: {result.ours} of {result.tensors} on the right weight"
            assert result.family == (None if is_open(file) else expected), file.title


@pytest.mark.parametrize("name", text_encoder_names.SETS)
def test_every_naming_of_text_encoders(name):
    for file, result in compatibility.text_outcomes():
        if file.model == name:
            assert result.ours == result.tensors, f"{file.title}: {result.ours} of {result.tensors} on the right weight"
            assert result.family is None, "text encoders do not tell the family"


def test_the_table_is_up_to_date():
    committed = compatibility.TABLE.read_text(encoding="utf-8")
    assert committed == compatibility.markdown(), "run: python tests/nodes/write_compatibility.py"


def test_we_use_whatever_comfyui_uses():
    for file, result in (*compatibility.outcomes(), *compatibility.text_outcomes()):
        assert result.core <= result.ours, file


def entries_of(*modules: str, outputs: int = 640, inputs: int = 640):
    tensors = {}
    for module in modules:
        tensors.update(naming_files.factors(module, outputs, (inputs,), naming_files.NATIVE[0]))
    return state_dict.parse(tensors).entries


def test_one_file_in_three_namings():
    """kohya's UNet, PEFT's first text encoder and diffusers' second: merged files look like this."""
    model, clip = compatibility.patcher("SDXL"), text_encoder_names.clip("SDXL")
    unet = entries_of("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q")
    first = entries_of("base_model.model.text_model.encoder.layers.0.self_attn.q_proj", outputs=768, inputs=768)
    second = entries_of("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj", outputs=1280, inputs=1280)
    on_model = match([*unet, *first, *second], model_targets(model))
    on_clip = match([*unet, *first, *second], clip_targets(clip))
    assert [target.patch_key for target, _ in on_model.pieces] == [
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    ]
    assert [target.patch_key for target, _ in on_clip.pieces] == [
        "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
        "clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
    ]
    assert on_model.strangers == (*first, *second)
    assert on_clip.strangers == tuple(unet)


@pytest.mark.parametrize("model", ["FLUX.1", "Z-Image", "Wan 14B", "SDXL", "HunyuanVideo"])
def test_a_name_of_another_family_finds_nothing(model):
    strangers = {
        "SDXL": "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "FLUX.1": "transformer.single_transformer_blocks.3.proj_mlp",
        "Wan 14B": "diffusion_model.blocks.0.self_attn.q",
        "Z-Image": "diffusion_model.layers.0.attention.qkv",
        "Mochi": "diffusion_model.blocks.0.attn.qkv_y",
        "text": "text_encoder.encoder.layers.0.self_attn.q_proj",
    }
    shared = {"HunyuanVideo": {"FLUX.1"}}
    found = model_targets(compatibility.patcher(model))
    for owner, module in strangers.items():
        expected = owner == model or owner in shared.get(model, ())
        assert bool(found.find(module, "weight")) is expected, module


def test_the_bias_of_a_fused_layer():
    found = model_targets(compatibility.patcher("HunyuanVideo"))
    (target,) = found.find("transformer.single_transformer_blocks.0.proj_mlp", "bias")
    assert target.patch_key == ("diffusion_model.single_blocks.0.linear1.bias", (0, 9216, 12288))
    assert target.shape == (12288,)


def test_no_two_layers_of_a_model_share_a_name():
    """A name with underscores for dots must still mean one layer only."""
    for model in naming_files.CASES:
        layers = [key.removesuffix(".weight") for key in diffusers_names.weights_of(model)]
        assert len({layer.replace(".", "_") for layer in layers}) == len(layers), model


def test_a_last_block_alone_is_not_a_whole_model():
    """Block 4 is the last that FLUX.2 klein 4B has of a list, and every longer model has one too."""
    possible = [
        set(family.candidates(entries_of(f"transformer.transformer_blocks.{n}.attn.to_q", outputs=3072, inputs=3072)))
        for n in range(60)
    ]
    # Whoever has a block has those before it.
    assert all(longer <= shorter for shorter, longer in pairwise(possible))
    ends = {name: max(n for n, names in enumerate(possible) if name in names) for name in set().union(*possible)}
    # Blocks of two streams, as the models' own configurations have them.
    assert ends["FLUX.2"] == 4 and ends["FLUX.1"] == ends["Chroma"] == 18 and ends["Qwen-Image"] == 59
    assert {"FLUX.1", "FLUX.2", "Qwen-Image"} <= possible[4]


# LTX-Video and LTX-2 are relatives too, at LTX-Video's 13 billion, which has the same widths.
RELATED = [("FLUX.1", "Chroma"), ("Anima", "Cosmos Predict2 2B")]
# Alike by name: one layer has the same size by chance.
ALIKE = [("Z-Image", "Lumina 2"), ("Lumina 2", "Z-Image")]


@pytest.mark.parametrize(
    ("owner", "model", "fits"),
    [*((*pair, True) for pair in RELATED), *((*pair, False) for pair in ALIKE), ("FLUX.1", "Wan 14B", False)],
)
def test_a_relatives_lora_is_applied_as_far_as_it_goes(owner, model, fits):
    """Models that were built on each other share layers, and people use their LoRAs on both; on any other model it is an error."""
    file = next(file for file in naming_files.files(owner) if not is_open(file))
    contents = state_dict.parse(file.tensors)
    found, possible = family.detect(contents.entries), family.candidates(contents.entries)
    lora = Lora(
        "a.safetensors", "a", ("a", 1, 1), 1, {}, contents, found, possible, frozenset(), 1e6, len(file.tensors), 1
    )
    targets = model_targets(compatibility.patcher(model))
    side = Side(fit(lora, targets), targets, 1.0)
    assert found not in (None, targets.family)
    assert side.fit.strangers or side.fit.refused, "all of it fits: the test would prove nothing"
    assert (len(side.fit.pieces) > 1) == fits and bool(side.fit.pieces) == (fits or (owner, model) in ALIKE)
    assert (report.problems(lora, report.misfit(lora, side, NOTHING)) == []) == fits


HEADERS = [
    ({"modelspec.architecture": "flux-1-dev/lora"}, families.FLUX),
    ({"modelspec.architecture": "chroma/lora"}, families.CHROMA),
    ({"ss_base_model_version": "flux.1"}, families.FLUX),
    ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, None),  # contradicts the names
    ({}, None),
]


@pytest.mark.parametrize(("header", "expected"), HEADERS)
def test_the_header_settles_what_names_leave_open(header, expected):
    file = next(file for file in naming_files.files("Chroma") if "fuse_qkv" in file.title)
    assert family.detect(state_dict.parse(file.tensors).entries, header) == expected


def test_names_outweigh_the_header():
    file = next(naming_files.files("Z-Image"))
    header = {"modelspec.architecture": "lumina-2/lora"}  # what early trainers of Z-Image wrote
    assert family.detect(state_dict.parse(file.tensors).entries, header) == families.Z_IMAGE


# Their noise falls in ways of their own, or with the size of the picture.
NOT_TOLD = {"PixArt", "Cosmos", "Cosmos Predict2", "LTX-Video", "LTX-2"}


@pytest.mark.parametrize("model", naming_files.CASES)
def test_noise_over_a_sampling_is_comfyuis(model):
    loaded = compatibility.patcher(model).model
    told = noise.noise_of(model_family(loaded))
    assert (told is None) == (model_family(loaded) in NOT_TOLD)
    if told is None:
        return
    # ComfyUI has a number beyond all for the very beginning.
    theirs = [float(loaded.model_sampling.percent_to_sigma(at / 20)) for at in range(1, 21)]
    assert told[1:] == pytest.approx(theirs, rel=0.01, abs=1e-6)
    assert told[0] == pytest.approx(float(loaded.model_sampling.sigma_max), rel=0.01)
