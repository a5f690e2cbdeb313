"""Save LoRA: what ComfyUI's own loader makes of the file is what the stack made of the model."""

from __future__ import annotations

import hashlib
import json
import math
import os

import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.sd
import comfy.supported_models
import folder_paths
import pytest
import safetensors
import safetensors.torch
import torch

from strata.lora_math import schedule
from strata.lora_math.adapters.stored import KOHYA, PEFT
from strata.lora_math.errors import StrataError
from strata.lora_math.reading.state_dict import Entry
from strata.lora_math.writing.state_dict import write
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.save import StrataLoraSave
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import adapter_makers, lora_makers, small_models
from strata.tests.nodes.helpers.saved_loras import assert_same, by_core, family_models, weights

# The others depend on the weight, or have too high a rank: so does a Kronecker product of two whole matrices.
FACTORED = {"LoRA", "Tucker", "LoHa", "GLoRA"}


def save(stack=None, **settings):
    """(name, tensors, report) of a saved file."""
    given = {
        "method": "sum",
        "shrink": "exact",
        "amount": 0.0,
        "filename_prefix": "made",
        "precision": "fp32",
    } | settings
    return StrataLoraSave.execute(lora_stack=stack, **given).result


def file_of(folder, model, maker, style=KOHYA, having="") -> str:
    made = adapter_makers.everywhere(model, maker, having=having)
    entries = [Entry(key.removesuffix(".weight"), "weight", terms[0][1], ()) for key, terms in made.items()]
    written = write(entries, style)
    return folder.save(
        "made_for_it.safetensors", {k: t.contiguous() for k, t in written.tensors.items()}, dict(written.metadata)
    )


STYLES = {"OFT on inputs": PEFT}


@pytest.mark.parametrize("algorithm", adapter_makers.MAKERS)
def test_every_algorithm_through_cores_loader(algorithm, lora_folder, output):
    model = small_models.sd15()
    maker = adapter_makers.MAKERS[algorithm]
    # A few layers of each kind: linear, convolution 1x1 and 3x3.
    name = file_of(lora_folder, model, maker, STYLES.get(algorithm, KOHYA), "input_blocks.1.")
    ours = StrataLoraLoader.execute(name, 0.7, 0.0, model=model).result[0]
    assert weights(ours)
    saved, _, report = save([(name, 0.7, 0.0)], model=model)
    core = by_core(model, None, saved)[0]
    assert_same(ours, core, model, 2e-6)
    assert ("stored whole" in report) == (algorithm not in FACTORED)


@pytest.mark.parametrize("algorithm", ["DoRA", "OFT", "IA3"])
def test_what_needs_the_model_is_refused_by_name_without_it(algorithm, lora_folder, output):
    model = small_models.sd15()
    name = file_of(lora_folder, model, adapter_makers.MAKERS[algorithm], having="input_blocks.1.")
    with pytest.raises(StrataError, match=f"diffusion_model.*{algorithm}"):
        save([(name, 0.7, 0.0)])
    assert not os.path.exists(output / "loras") or not os.listdir(output / "loras")


MODELS = family_models()


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        *((family, layout) for family in MODELS for layout in ("best", "diffusers")),
        *(("FLUX.1", "comfyui"), ("Wan 14B", "kohya"), ("Qwen-Image", "comfyui")),
    ],
)
def test_every_family_and_layout(family, layout, lora_folder, output):
    model = MODELS[family]()
    tensors = lora_makers.kohya(
        lora_makers.unet_names(model, "diffusion_model."), lora_makers.shapes(model.model), dtype=torch.float32
    )
    names = [
        lora_folder.save("one.safetensors", tensors),
        lora_folder.save("two.safetensors", {key: value * 0.5 for key, value in tensors.items()}),
    ]
    stack = [(names[0], 0.8, 1.0), (names[1], -0.3, 1.0)]
    ours = StrataLoraLoader.execute(names[1], -0.3, 0.0, model=model, lora_stack=stack[:1]).result[0]
    saved, found, report = save(stack, model=model, layout=layout)
    assert_same(ours, by_core(model, None, saved)[0], model, 5e-6)
    # And through our own loader, by the name that the node gives.
    again = StrataLoraLoader.execute(saved, 1.0, 0.0, model=model).result[0]
    assert_same(ours, again, model, 5e-6)
    prefix = {"comfyui": "diffusion_model.", "kohya": "lora_unet_"}.get(layout)
    if prefix is not None:  # a parameter that is no layer's weight has one name only: ComfyUI's own
        others = {key.split(".lora_")[0].removesuffix(".alpha") for key in found if not key.startswith(prefix)}
        assert others <= {key for key in model.model.state_dict() if not key.endswith((".weight", ".bias"))}
    if layout == "best":
        best = {
            "Qwen-Image": "transformer.transformer_blocks.",
            "Z-Image": "diffusion_model.",
            "Wan 14B": "diffusion_model.",
        }
        assert any(key.startswith(best.get(family, "lora_unet_")) for key in found), next(iter(found))
    assert "error" in report and saved in report


@pytest.mark.parametrize("family", ["SD1.5", "SDXL"])
def test_text_encoders_go_along(family, lora_folder, output):
    model, clip, prefixes = (
        (small_models.sd15(), small_models.sd15_clip(), ("lora_te_",))
        if family == "SD1.5"
        else (small_models.sdxl(), small_models.sdxl_clip(), ("lora_te1_", "lora_te2_"))
    )
    name = lora_folder.save("full.safetensors", lora_makers.full_lora(model, clip, prefixes, dtype=torch.float32))
    ours = StrataLoraLoader.execute(name, 0.8, 0.4, model=model, clip=clip).result
    for connected in ({"model": model, "clip": clip}, {"model": model}, {}):
        saved, found, _ = save([(name, 0.8, 0.4)], **connected)
        core = by_core(model, clip, saved)
        assert_same(ours[0], core[0], model, 5e-6)
        assert_same(ours[1].patcher, core[1].patcher, clip.patcher, 5e-6)
        assert any(key.startswith(prefixes) for key in found), list(found)[-1]


def test_block_weights_are_baked_in(lora_folder, output):
    model = small_models.sd15()
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(model, dtype=torch.float32))
    blocks = BlockSpec("IN*=0.3,M0=0,OUT*=1.2")
    ours = StrataLoraLoader.execute(name, 0.8, 0.0, model=model, block_weights=blocks).result[0]
    saved, found, report = save([StackEntry(name, 0.8, 0.0, blocks)], model=model)
    assert_same(ours, by_core(model, None, saved)[0], model, 5e-6)
    assert not any("mid_block" in key for key in found), "a block of weight 0 is no part of the file"
    assert "OUT" in report or "out" in report
    with pytest.raises(StrataError, match="block weights: connect the MODEL"):
        save([StackEntry(name, 0.8, 0.0, blocks)])


def test_block_weights_of_text_encoders_count_without_the_clip(lora_folder, output):
    model, clip = small_models.sd15(), small_models.sd15_clip()
    name = lora_folder.save("full.safetensors", lora_makers.full_lora(model, clip, ("lora_te_",), dtype=torch.float32))
    for text in ("TE=0.25", "TE=-2,IN1=0", "IN1=1,default=0", "IN1=0.5"):
        stack = [StackEntry(name, 0.8, 0.4, BlockSpec(text))]
        ours = StrataLoraLoader.execute(name, 0.8, 0.4, model=model, clip=clip, block_weights=text).result
        saved = save(stack, model=model)[0]
        least = 0 if "default=0" in text else 6
        assert_same(ours[1].patcher, by_core(model, clip, saved)[1].patcher, clip.patcher, 5e-6, least)
    with pytest.raises(StrataError, match="for parts of its text encoders: connect the CLIP"):
        save([StackEntry(name, 0.8, 0.4, BlockSpec("TE:clip_l.3=0.5"))], model=model)


def test_a_layer_in_two_spellings_counts_once_with_a_model_and_without(lora_folder, output):
    model = small_models.sd15()
    module = "input_blocks_1_1_proj_in"
    shape = model.model.state_dict()["diffusion_model.input_blocks.1.1.proj_in.weight"].shape
    make = torch.Generator().manual_seed(1)
    up = torch.randn(shape[0], 4, *[1] * (len(shape) - 2), generator=make)
    down = torch.randn(4, *shape[1:], generator=make)
    names = (f"lora_unet_{module}", "diffusion_model.input_blocks.1.1.proj_in")
    tensors = {f"{n}.lora_{part}.weight": t.clone() for n in names for part, t in (("up", up), ("down", down))}
    name = lora_folder.save("twice.safetensors", tensors)
    ours = StrataLoraLoader.execute(name, 1.0, 0.0, model=model).result[0]
    for connected in ({"model": model}, {}):
        saved, _, report = save([(name, 1.0, 1.0)], **connected)
        assert_same(ours, by_core(model, None, saved)[0], model, 5e-6, least=1)
    assert "several spellings" in report


@pytest.mark.parametrize("strength", [1e200, -1e308, 1.1e6])
def test_a_strength_that_no_file_can_hold_is_refused(strength, lora_folder, output):
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(small_models.sd15()))
    with pytest.raises(StrataError, match="no strength that a file can hold"):
        save([(name, strength, 1.0)])
    assert save([(name, 5e-324, 1.0), (name, 1.0, 0.0)])[1]


def test_a_trained_lora_is_saved_and_handed_on(lora_folder, output):
    model = small_models.sd15()
    trained = lora_makers.kohya(
        lora_makers.unet_names(model, "diffusion_model."), lora_makers.shapes(model.model), dtype=torch.float32
    )
    saved, found, _ = save(None, lora_model=trained, model=model)
    expected = comfy.sd.load_lora_for_models(model, None, trained, 1.0, 0.0)[0]
    assert_same(expected, by_core(model, None, saved)[0], model, 5e-6)
    path = folder_paths.get_full_path_or_raise("loras", saved)
    written = safetensors.torch.load_file(path)
    assert set(found) == set(written) and all(torch.equal(found[key], written[key]) for key in found)


@pytest.mark.parametrize(
    "shrink, amount",
    [("rank", 2), ("energy", 80.0), ("error", 40.0), ("size", 0.25)],
    ids=["rank", "energy", "error", "size"],
)
def test_what_the_report_tells_is_what_is_lost(shrink, amount, lora_folder, output):
    model = small_models.sd15()
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(model, rank=8, dtype=torch.float32))
    ours = weights(StrataLoraLoader.execute(name, 1.0, 0.0, model=model).result[0])
    saved, _, report = save([(name, 1.0, 0.0)], model=model, shrink=shrink, amount=amount, precision="fp16")
    core, own = weights(by_core(model, None, saved)[0]), model.model.state_dict()
    norm = math.sqrt(sum(float((w - own[k]).double().square().sum()) for k, w in ours.items()))
    lost = math.sqrt(sum(float((core.get(k, own[k]) - w).double().square().sum()) for k, w in ours.items()))
    path = folder_paths.get_full_path_or_raise("loras", saved)
    with safetensors.safe_open(path, "pt") as file:
        recipe = json.loads(file.metadata()["strata.recipe"])
    assert recipe["error"] == pytest.approx(lost / norm, rel=2e-3)
    assert f"error {100 * recipe['error']:.2g} %" in report
    if shrink == "size":
        assert 0.8 * amount * 1e6 < os.path.getsize(path) <= amount * 1e6
        assert "sum, 0.25 MB, fp16" in report
    if shrink == "error":
        assert 0.3 < recipe["error"] <= 0.401


def test_files_are_numbered_and_never_written_over(lora_folder, output):
    model = small_models.sd15()
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(model))
    first, second = (save([(name, 1.0, 1.0)], filename_prefix="mine/style")[0] for _ in range(2))
    assert first == os.path.join("mine", "style_00001_.safetensors") and second == os.path.join(
        "mine", "style_00002_.safetensors"
    )
    assert first in folder_paths.get_filename_list("loras")
    kept = save([(name, 1.0, 1.0)], folder="models/loras")[0]
    assert (lora_folder.path / kept).is_file()
    assert not [file for _, _, files in os.walk(output) for file in files if not file.endswith(".safetensors")]


def test_the_header_is_fresh(lora_folder, output):
    model = small_models.sd15()
    old = {
        "sshs_model_hash": "0" * 64,
        "ss_network_dim": "4",
        "ss_base_model_version": "sd_v1",
        "modelspec.trigger_phrase": "ohwx",
    }
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(model), old)
    saved, _, _ = save([(name, 0.5, 1.0)], model=model, shrink="rank", amount=2, thumbnail=torch.rand(1, 300, 400, 3))
    path = folder_paths.get_full_path_or_raise("loras", saved)
    with safetensors.safe_open(path, "pt") as file:
        told = file.metadata()
    assert told["sshs_model_hash"] not in (old["sshs_model_hash"], "") and told["ss_network_dim"] == "2"
    assert told["modelspec.architecture"] == "stable-diffusion-v1/lora" and told["modelspec.trigger_phrase"] == "ohwx"
    assert told["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    (source,) = json.loads(told["strata.recipe"])["sources"]
    raw = (lora_folder.path / name).read_bytes()
    own = hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()
    assert (source["name"], source["strength_model"], source["hash"]) == (name, 0.5, own), "not the hash in its header"


def test_trigger_words_of_sidecars_are_united(lora_folder, output):
    model = small_models.sd15()
    names = [lora_folder.save(f"{n}.safetensors", lora_makers.full_lora(model)) for n in ("one", "two")]
    for name, words in zip(names, ("ohwx, cat", "cat, dog"), strict=True):
        side = (lora_folder.path / name).with_suffix(".json")
        side.write_text(json.dumps({"activation text": words}), encoding="utf-8")
    saved, _, _ = save([(name, 1.0, 1.0) for name in names], model=model)
    with safetensors.safe_open(folder_paths.get_full_path_or_raise("loras", saved), "pt") as file:
        assert file.metadata()["modelspec.trigger_phrase"] == "ohwx, cat, dog"


class Stopped(BaseException):
    pass


def test_pressing_stop_leaves_nothing(lora_folder, output, monkeypatch):
    model = small_models.sd15()
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(model))
    calls, stop_at = 0, 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Stopped

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", stop)
    save([(name, 1.0, 1.0)], model=model)
    total, folder = calls, output / "loras"
    before = set(os.listdir(folder))
    for moment in (1, total // 2, total - 3, total - 1, total):
        calls, stop_at = 0, moment
        with pytest.raises(Stopped):
            save([(name, 1.0, 1.0)], model=model)
        assert set(os.listdir(folder)) == before


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"stack": None}, "Nothing is connected"),
        ({"filename_prefix": "../../x"}, "leads out of the folder"),
        ({"filename_prefix": ""}, "filename_prefix is empty"),
        ({"filename_prefix": None}, "filename_prefix is missing"),
        ({"shrink": "rank", "amount": 0}, "rank is 0"),
        ({"shrink": "energy", "amount": 200.0}, "energy is 2"),
        ({"shrink": "energy", "amount": None}, "amount is missing"),
        ({"shrink": "none"}, "is one of"),
        ({"method": "none"}, "method is .none.; it is one of"),
        ({"precision": "fp8"}, "precision is .fp8.; it is one of"),
        ({"folder": "elsewhere"}, "folder is .elsewhere.; it is one of"),
        ({"lora_model": "text"}, "takes a LORA_MODEL"),
        ({"shrink": "size", "amount": 0.007}, "too small"),
    ],
)
def test_faults_are_sentences(settings, says, lora_folder, output):
    model = small_models.sd15()
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(model))
    with pytest.raises(StrataError, match=says):
        save(**{"stack": [(name, 1.0, 1.0)], **settings})


def over_time(value, name):
    if value == "keyframes":
        value = comfy.hooks.HookKeyframeGroup()
        for strength, start in ((0.2, 0.0), (0.5, 0.3), (2.0, 0.8)):
            value.add(comfy.hooks.HookKeyframe(strength, start))
    return StackEntry(name, 0.8, 0.6, None, value)


# How the strength varies, the moment, and the factor by hand.
MOMENTS = [
    ("0@0%, 1@50%, 0@100%", "25%", 0.5),
    ("hold: 1@0s, -0.5@4s", "5s", -0.5),
    ("1@14sigma, 0@4sigma", "9 sigma", 0.5),
    ([0.1, 0.2, 0.3], "2s", 0.3),
    ({"points": [[0.0, 0.0], [1.0, 0.6]], "interpolation": "linear"}, "50%", 0.3),
    ("keyframes", "0%", 0.2),
    ("keyframes", "50%", 0.5),
    ("keyframes", "100%", 2.0),
    (schedule.Variation(schedule.parse("0@0%, 1@100%"), 0.5, 0.5), "50%", 0.25),
    ("0.4", "3s", 0.4),  # constant: any moment does
]


@pytest.mark.parametrize("varies, moment, factor", MOMENTS)
def test_a_moment_of_a_strength_over_time(varies, moment, factor, lora_folder, output):
    model, clip = small_models.sd15(), small_models.sd15_clip()
    name = lora_folder.save("full.safetensors", lora_makers.full_lora(model, clip, dtype=torch.float32))
    ours = StrataLoraLoader.execute(name, 0.8 * factor, 0.6, model=model, clip=clip).result
    saved, _, report = save([over_time(varies, name)], model=model, clip=clip, moment=moment)
    core = by_core(model, clip, saved)
    assert_same(ours[0], core[0], model, 5e-6)
    assert_same(ours[1].patcher, core[1].patcher, clip.patcher, 5e-6)
    assert (f"at {moment.replace(' ', '')}: model {0.8 * factor:g}" in report) == (varies != "0.4")


@pytest.mark.parametrize(
    "varies, moment, says",
    [
        ("0@0%, 1@100%", "", "has a strength over time, which no LoRA file can hold. Write into 'moment'"),
        ("0@0%, 1@100%", "4s", "at the moment 4s: the strength over time counts otherwise"),
        ("keyframes", "4s", "count in percent"),
        (schedule.Variation(None, 1.0, 0.0), "50%", "differently on the positive and the negative prompt"),
        ("0@0%, 1@100%", "50", "'50' is no moment of a sampling: write it like 50%"),
        ("0@0%, 1@100%", "150%", "is no moment"),
        ("0@0%, 1@100%", "nan%", "is no moment"),
        ("0@0%, 1@100%", 7, "moment is 7, which is not a text"),
        (object(), "50%", "keyframes input takes a strength over time"),
    ],
)
def test_a_strength_over_time_that_no_moment_tells_is_refused(varies, moment, says, lora_folder, output):
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(small_models.sd15()))
    with pytest.raises(StrataError, match=says):
        save([over_time(varies, name)], moment=moment)


def test_what_has_no_effect_is_said(lora_folder, output):
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(small_models.sd15()))
    assert "moment 50% had no effect" in save([(name, 1.0, 1.0)], moment="50%")[2]
    assert "layout kohya had no effect: connect the MODEL or CLIP" in save([(name, 1.0, 1.0)], layout="kohya")[2]
    assert "had no effect" not in save([(name, 1.0, 1.0)])[2]


def test_a_mask_is_refused(lora_folder, output):
    name = lora_folder.save("one.safetensors", lora_makers.full_lora(small_models.sd15()))
    with pytest.raises(StrataError, match="has a mask, which no LoRA file can hold"):
        save([StackEntry(name, 1.0, 1.0, mask=torch.ones(1, 8, 8))])


def test_a_lora_of_another_model_is_refused(lora_folder, output):
    name = lora_folder.save("xl.safetensors", lora_makers.full_lora(small_models.sdxl()))
    with pytest.raises(StrataError, match="fit"):
        save([(name, 1.0, 1.0)], model=small_models.flux())
