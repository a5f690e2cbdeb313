"""How much a LoRA changes a block, relative to the model's own weights."""

from __future__ import annotations

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

from strata.lora_math.blocks import layout_of
from strata.nodes.apply import apply_stack
from strata.nodes.comfy.library import CACHE
from strata.nodes.comfy.magnitudes import SAMPLE, magnitudes
from strata.nodes.comfy.targets import model_targets
from strata.nodes.desk.profile import profile
from strata.nodes.fitting.amounts import Amount
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.fitting.fit import fit
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import core_models, lora_makers, small_models

CPU = torch.device("cpu")


def patcher_of(**weights) -> ModelPatcher:
    module = torch.nn.Module()
    for name, weight in weights.items():
        layer = torch.nn.Module()
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        setattr(module, name, layer)
    return ModelPatcher(module, CPU, CPU)


def uneven(rows: int, *rest: int, seed: int = 0) -> torch.Tensor:
    """A weight whose rows differ in size, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(rows, *[1] * len(rest), generator=generator) + 0.5
    return torch.randn(rows, *rest, generator=generator) * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(1280, 1280), (10240, 1280), (640, 640, 3, 3), (320,), (3, 5)])
def test_the_sample_tells_the_norm_of_every_shape_and_type(shape, dtype):
    weight = uneven(*shape).to(dtype)
    found = magnitudes(patcher_of(layer=weight))["layer.weight"]
    exact = float(weight.double().square().sum())
    assert found.squared_norm(shape) == pytest.approx(exact, rel=0.04 if weight.numel() > SAMPLE else 1e-5)


def test_parts_of_a_fused_weight_have_their_own_norms():
    weight = torch.cat([uneven(1024, 1024) * size for size in (1, 5, 0.2)])
    found = magnitudes(patcher_of(qkv=weight))["qkv.weight"]
    for start in (0, 1024, 2048):
        exact = float(weight[start : start + 1024].double().square().sum())
        assert found.squared_norm((1024, 1024), start * 1024) == pytest.approx(exact, rel=0.04)
    assert found.squared_norm((1, 16), 16) > 0, "less than the sample steps over"


LAYOUTS = sorted({algorithm["comfy_tensor_layout"] for algorithm in QUANT_ALGOS.values()})


@pytest.mark.parametrize("shape", [(256, 256), (1024, 768), (2064, 1280), (32, 4096)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_quantized_weights_count_with_their_scales(layout, shape):
    """Also where the numbers are packed, padded, or rotated: against the whole weight, unpacked by ComfyUI."""
    quantized = QuantizedTensor.from_float(uneven(*shape) * 0.01, layout, scale="recalculate")
    found = magnitudes(patcher_of(layer=quantized))["layer.weight"]
    exact = float(quantized.dequantize().double().square().sum())
    assert found.squared_norm(shape) == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize("convrot", [False, True])
def test_a_scale_for_each_row(convrot):
    weight = uneven(512, 1024) * 0.01
    quantized = QuantizedTensor.from_float(weight, "TensorWiseINT8Layout", per_channel=True, convrot=convrot)
    assert quantized.params.scale.numel() == 512
    found = magnitudes(patcher_of(layer=quantized))["layer.weight"]
    assert found.squared_norm((512, 1024)) == pytest.approx(float(weight.double().square().sum()), rel=0.04)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_a_fused_weight_that_is_quantized(layout):
    weight = torch.cat([uneven(1024, 1024) * size for size in (1, 5, 0.2)])
    quantized = QuantizedTensor.from_float(weight, layout, scale="recalculate")
    found, numbers = magnitudes(patcher_of(qkv=quantized))["qkv.weight"], quantized.dequantize().double()
    for start in (0, 1024, 2048):
        exact = float(numbers[start : start + 1024].square().sum())
        assert found.squared_norm((1024, 1024), start * 1024) == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_weight_is_not_unpacked_whole(layout, monkeypatch):
    quantized = QuantizedTensor.from_float(uneven(2048, 2048), layout, scale="recalculate")
    unpacked, dequantize = [], quantized.layout_cls.dequantize
    count = lambda qdata, params: unpacked.append(qdata.numel()) or dequantize(qdata, params)  # noqa: E731
    monkeypatch.setattr(quantized.layout_cls, "dequantize", staticmethod(count))
    assert magnitudes(patcher_of(layer=quantized))
    assert sum(unpacked) < quantized._qdata.numel() / 8


def test_a_format_that_comes_later_costs_its_number_alone(monkeypatch):
    strange = QuantizedTensor.from_float(uneven(1024, 1024), "TensorCoreNVFP4Layout", scale="recalculate")
    monkeypatch.setattr(strange.layout_cls, "dequantize", staticmethod(lambda *_: 1 / 0))
    assert magnitudes(patcher_of(strange=strange, plain=uneven(4, 4))).keys() == {"plain.weight"}


def test_weights_that_tell_nothing_are_left_out():
    packed = torch.zeros(256, 128, dtype=torch.uint8)
    assert magnitudes(patcher_of(meta=torch.empty(4, 4, device="meta"), packed=packed, none=torch.empty(0, 4))) == {}


def test_what_is_patched_right_now_does_not_count():
    model = small_models.sd15()
    before = magnitudes(model)
    patched = model.clone()
    patched.add_patches({"diffusion_model.out.2.weight": ("diff", (torch.full((4, 32, 3, 3), 100.0),))}, 1.0)
    patched.patch_model(CPU)
    try:
        after = magnitudes(patched)
        assert all(torch.equal(after[key].means, before[key].means) for key in before)
    finally:
        patched.unpatch_model(CPU)


def relative_by_hand(model, name: str) -> dict[str, float]:
    """Block -> norm of its dense change over that of the weights that change, in float64."""
    patched = apply_stack(model, None, [StackEntry(name, 1.0, 1.0)], "error").model
    layout, base = layout_of(model.model.state_dict()), model.model.state_dict()
    change: dict[str, float] = {}
    own: dict[str, float] = {}
    for key in patched.patches:
        block = layout.locate(key).block.split(":")[0]
        delta = patched.patch_weight_to_device(key, return_weight=True).double() - base[key].double()
        change[block] = change.get(block, 0.0) + float(delta.square().sum())
        own[block] = own.get(block, 0.0) + float(base[key].double().square().sum())
    return {block: (change[block] / own[block]) ** 0.5 for block in change}


def test_report_and_profile_tell_the_relative_change(lora_folder):
    model = small_models.sd15(torch.float64)
    name = lora_folder.save("full.safetensors", lora_makers.full_lora(model, dtype=torch.float32))
    assert not any("relative" in row for row in profile(name).answer["blocks"].values()), "no model is known yet"
    report = StrataLoraLoader.execute(name, 0.5, 1.0, model=model, block_weights=BlockSpec("IN4=0.5, default=1"))[3]
    expected = relative_by_hand(model, name)
    rows = profile(name).answer["blocks"]
    assert expected.keys() <= rows.keys()
    for block, relative in expected.items():
        assert rows[block]["relative"] == pytest.approx(relative, rel=0.05)
    line = next(line for line in report.splitlines() if line.startswith("  IN04 x 0.5"))
    shown = float(line.split("(")[1].split(" %")[0])
    assert shown == pytest.approx(100 * expected["IN04"], rel=0.1)


def test_a_profile_from_before_the_weights_were_measured_is_made_anew(lora_folder):
    model = small_models.sd15()
    name = lora_folder.save("late.safetensors", lora_makers.full_lora(model))
    StrataLoraLoader.execute(name, 1.0, 1.0, model=model)
    before = profile(name).answer
    assert before["exact"] and not any("relative" in row for row in before["blocks"].values())
    StrataLoraLoader.execute(name, 1.0, 1.0, model=model, block_weights=BlockSpec("default=1"))
    assert all("relative" in row for row in profile(name).answer["blocks"].values())


def test_a_target_in_a_fused_weight_has_the_norm_of_its_rows():
    model = small_models.flux(torch.float32)
    weight = model.model.diffusion_model.double_blocks[0].img_attn.qkv.weight
    third = len(weight) // 3
    with torch.no_grad():
        for at, size in enumerate((1, 5, 0.2)):
            weight[at * third : (at + 1) * third] *= size
    targets = model_targets(model)
    targets.measure(model)
    for at, name in enumerate(("q", "k", "v")):
        (target,) = targets.find(f"transformer.transformer_blocks.0.attn.to_{name}", "weight")
        exact = float(weight[at * third : (at + 1) * third].double().square().sum())
        assert targets.squared_norm(target) == pytest.approx(exact, rel=0.04)


def test_a_model_that_tells_nothing_is_asked_once(monkeypatch):
    model = ModelPatcher(core_models.build("SDXL"), CPU, CPU)  # on meta
    targets = model_targets(model)
    targets.measure(model)
    monkeypatch.setattr("strata.nodes.comfy.targets.magnitudes", None)
    targets.measure(model)
    assert targets.measured


def test_a_change_that_depends_on_the_weight_has_no_number(lora_folder):
    model = small_models.sd15()
    weight = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k"
    ia3 = {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_k.weight": torch.full((32, 1), 0.1)}
    ia3["lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_k.on_input"] = torch.tensor(False)
    lora = CACHE.get(lora_folder.save("ia3.safetensors", ia3))
    targets = model_targets(model)
    targets.measure(model)
    amount = Amount()
    for target, entry in fit(lora, targets).pieces:
        assert target.key == f"{weight}.weight"
        amount.add(lora, entry, target, targets)
    assert amount.tensors and amount.relative is None
