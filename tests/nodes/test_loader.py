"""What the loader says and does beyond the arithmetic: errors, warnings, reports, zero strengths, broken tensors."""

import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import lora_makers, small_models
from strata.tests.nodes.helpers.saved_loras import family_models, weights


def load(name, model=None, clip=None, strength_model=1.0, strength_clip=1.0, **settings):
    return StrataLoraLoader.execute(name, strength_model, strength_clip, model=model, clip=clip, **settings)


@pytest.fixture(scope="module")
def sd15():
    return small_models.sd15()


@pytest.fixture(scope="module")
def sd15_clip():
    return small_models.sd15_clip()


def sd15_lora(model, clip=None, **settings):
    return lora_makers.full_lora(model, clip, **settings)


def test_nothing_connected_is_an_error(lora_folder, sd15):
    name = lora_folder.save("a.safetensors", sd15_lora(sd15))
    with pytest.raises(StrataError, match="connect MODEL, CLIP or both"):
        load(name)


def test_strength_zero_returns_the_inputs_themselves(lora_folder, sd15, sd15_clip):
    name = lora_folder.save("a.safetensors", sd15_lora(sd15, sd15_clip))
    model, clip, _, report, _ = load(name, sd15, sd15_clip, 0.0, 0.0).result
    assert model is sd15
    assert clip is sd15_clip
    assert "strength 0" in report
    model, clip, *_ = load(name, sd15, sd15_clip, 1.0, 0.0).result
    assert model is not sd15
    assert clip is sd15_clip


def test_the_report_counts_what_was_used(lora_folder, sd15, sd15_clip):
    tensors = sd15_lora(sd15, sd15_clip, rank=4, alpha=2.0)
    unet = sum(key.startswith("lora_unet_") for key in tensors)
    text = len(tensors) - unet
    name = lora_folder.save("a.safetensors", tensors | {"strange.thing": torch.ones(1)})
    output = load(name, sd15, sd15_clip, 0.8, 0.4)
    report = output.result[3]
    assert f"{len(tensors)} of {len(tensors) + 1} tensors applied" in report
    assert f"Model (SD1.5): all {unet} tensors at strength 0.8" in report
    assert f"Text encoder clip_l: {text} tensors at strength 0.4" in report
    assert "SD1.5 LoRA, rank 4, alpha 2" in report
    assert "strange.thing" in report
    assert output.ui["strata_report"] == [report]
    assert output.ui["strata_verdict"] == [report.splitlines()[0]]


@pytest.mark.parametrize(
    ("lora_of", "model", "message"),
    [
        (small_models.sdxl, small_models.sd15, "SDXL LoRA, the model is SD1.5"),
        (small_models.sdxl, small_models.flux, "SDXL LoRA, the model is FLUX.1"),
        (small_models.flux, small_models.sdxl, "FLUX.1 LoRA, the model is SDXL"),
        (small_models.sd15, small_models.sd2, "SD1.5 LoRA, the model is SD2"),
    ],
    ids=["sdxl on sd15", "sdxl on flux", "flux on sdxl", "sd15 on sd2"],
)
def test_a_lora_of_another_family_is_refused_by_name(lora_folder, lora_of, model, message):
    model = model()
    name = lora_folder.save("other.safetensors", lora_makers.full_lora(lora_of()))
    with pytest.raises(StrataError, match=message) as error:
        load(name, model)
    assert "other.safetensors" in str(error.value)
    output = load(name, model, on_problem="warn")
    assert output.result[0] is model
    assert message in output.result[3]
    assert message in output.ui["strata_verdict"][0]
    assert output.ui["strata_warned"] == [True]


def test_a_layer_never_has_one_number_of_outputs_in_its_weight_and_another_in_its_bias(lora_folder, sd15):
    """Each alone would end the sampling with an error of PyTorch; both together may be what the file is for."""
    layer = "diffusion_model.time_embed.0"
    outputs, inputs = sd15.model.state_dict()[f"{layer}.weight"].shape
    weight, bias = torch.zeros(outputs + 5, inputs), torch.zeros(outputs + 5)
    other = {"lora_unet_mid_block_attentions_0_proj_in.diff_b": torch.ones(128)}
    for tensors, problem in (
        ({f"{layer}.set_weight": weight}, f"its weight would have {outputs + 5} outputs, and bias has {outputs}"),
        ({f"{layer}.set_bias": bias}, f"its bias would have {outputs + 5} outputs, and weight has {outputs}"),
        ({f"{layer}.set_weight": weight, f"{layer}.set_bias": bias}, None),
    ):
        name = lora_folder.save("resized.safetensors", tensors | other)
        changed, _, _, report, _ = StrataLoraLoader.execute(name, 1.0, 0.0, model=sd15).result
        assert (problem in report) if problem else "Does not fit" not in report
        assert any(key.startswith(layer) for key in changed.patches) == (problem is None)


def test_a_file_of_two_models_says_which_one_acts(lora_folder):
    wan = family_models()["Wan 14B"]()
    tensors = {
        f"{model}.blocks.{n}.attn1.to_q.lora_{factor}.weight": torch.randn(4, 96)
        if factor == "A"
        else torch.randn(96, 4)
        for model in ("transformer", "transformer_2")
        for n in range(2)
        for factor in "AB"
    }
    name = lora_folder.save("both.safetensors", tensors)
    output = StrataLoraLoader.execute(name, 1.0, 0.0, model=wan)
    assert output.ui["strata_warned"] == [True]
    first, second = (tensors[f"{m}.blocks.0.attn1.to_q.lora_B.weight"] for m in ("transformer", "transformer_2"))
    own = wan.model.state_dict()
    key = "diffusion_model.blocks.0.self_attn.q.weight"
    change = (weights(output.result[0])[key] - own[key]).double()
    meant = first.double() @ tensors["transformer.blocks.0.attn1.to_q.lora_A.weight"].double()
    assert float((change - meant).norm()) < 1e-4 * float(meant.norm()) and not torch.equal(first, second)
    assert "transformer is for the first model of a pair" in output.result[3]
    only = lora_folder.save("one.safetensors", {k: t for k, t in tensors.items() if k.startswith("transformer_2")})
    output = StrataLoraLoader.execute(only, 1.0, 0.0, model=wan)
    assert output.ui["strata_warned"] == [False] and "all 4 tensors" in output.result[3]


def test_a_lora_of_unknown_names_fits_nothing(lora_folder, sd15, sd15_clip):
    name = lora_folder.save(
        "odd.safetensors", {"odd.lora_up.weight": torch.ones(4, 2), "odd.lora_down.weight": torch.ones(2, 4)}
    )
    with pytest.raises(
        StrataError,
        match=r"Nothing fits, the model is SD1\.5: odd\.safetensors does not belong to it \(it names layers like odd",
    ):
        load(name, sd15, sd15_clip)


def test_the_other_half_not_connected(lora_folder, sd15, sd15_clip):
    both = sd15_lora(sd15, sd15_clip)
    text = lora_folder.save("text.safetensors", {k: v for k, v in both.items() if k.startswith("lora_te_")})
    unet = lora_folder.save("unet.safetensors", {k: v for k, v in both.items() if not k.startswith("lora_te_")})
    with pytest.raises(StrataError, match=r"No CLIP is connected, and text\.safetensors"):
        load(text, model=sd15)
    with pytest.raises(StrataError, match=r"No MODEL is connected, and unet\.safetensors"):
        load(unet, clip=sd15_clip)
    assert "no CLIP is connected" in load(lora_folder.save("both.safetensors", both), model=sd15).result[3]
    assert load(text, sd15, sd15_clip).result[0] is sd15


def test_shapes_that_disagree_are_found_before_sampling(lora_folder, sd15):
    tensors = sd15_lora(sd15)
    module = next(key for key in tensors if key.endswith("attn1_to_q.lora_down.weight"))
    tensors[module] = torch.ones(4, 7)
    report = load(lora_folder.save("a.safetensors", tensors), sd15).result[3]
    assert "Does not fit, 3 tensors" in report
    assert "it changes a 32x7 weight, this one is 32x32" in report


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_tensor_never_reaches_the_model(lora_folder, sd15, value):
    tensors = sd15_lora(sd15, dtype=torch.float32)
    key = next(key for key in tensors if key.endswith("attn1_to_q.lora_up.weight"))
    tensors[key] = tensors[key].clone()
    tensors[key][0, 0] = value
    name = lora_folder.save("broken.safetensors", tensors)
    with pytest.raises(StrataError, match=r"Damaged: 1 tensor of broken\.safetensors with NaN or infinity"):
        load(name, sd15)
    model, _, _, report, _ = load(name, sd15, on_problem="warn").result
    assert "NaN or infinity" in report
    assert all(torch.isfinite(model.patch_weight_to_device(key, return_weight=True)).all() for key in model.patches)
    assert (
        len(model.patches) == len(load(lora_folder.save("ok.safetensors", sd15_lora(sd15)), sd15).result[0].patches) - 1
    )


def test_a_strength_that_is_no_number_is_refused(lora_folder, sd15):
    name = lora_folder.save("a.safetensors", sd15_lora(sd15))
    with pytest.raises(StrataError, match="strength_model is nan"):
        load(name, sd15, strength_model=float("nan"))


def test_the_scale_in_a_header_is_used_and_reported(lora_folder, sd15):
    """PEFT keeps alpha in the header; ComfyUI's loader, which does not look there, would be off by alpha / rank."""
    tensors = {}
    for index, module in enumerate(
        ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in"]
    ):
        up, down = lora_makers.factors(
            (32 if not index else 128, 32 if not index else 128), 4, torch.Generator().manual_seed(1), torch.float32
        )
        tensors |= {f"unet.{module}.lora_B.weight": up, f"unet.{module}.lora_A.weight": down}
    metadata = {"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 8}'}
    name = lora_folder.save("peft.safetensors", tensors, metadata)
    model, _, _, report, _ = load(name, sd15).result
    assert "alpha 8 is read from the file's header" in report
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    base = sd15.model.state_dict()[key].double()
    up, down = list(tensors.values())[:2]
    changed = model.patch_weight_to_device(key, return_weight=True).double()
    assert torch.allclose(changed - base, 8 / 4 * up.double() @ down.double(), atol=1e-7)


def test_the_same_settings_give_the_same_patches_uuid(lora_folder, sd15):
    name = lora_folder.save("a.safetensors", sd15_lora(sd15))
    once, again, other = (load(name, sd15, strength_model=s).result[0].patches_uuid for s in (0.7, 0.7, 0.8))
    assert once == again
    assert other != once


def test_trigger_words_come_out(lora_folder, sd15):
    name = lora_folder.save("a.safetensors", sd15_lora(sd15), {"modelspec.trigger_phrase": "ohwx, style"})
    assert load(name, sd15).result[2] == "ohwx, style"
