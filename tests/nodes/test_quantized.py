"""Models that are stored in 8 bits or fewer: every format of ComfyUI's own quantized layers, and bytes that only their loader unpacks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

from strata.lora_math.blocks import layout_of
from strata.nodes.comfy.live import loras_of
from strata.nodes.comfy.live_layers import PACKED, split
from strata.nodes.comfy.targets import model_targets
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import adapter_makers, lora_makers, sampling, small_models

CPU = torch.device("cpu")
SIZES = {"hidden_size": 256, "num_heads": 2, "axes_dim": [16, 56, 56]}  # some formats quantize 256 columns together
CONFIG = {**small_models.SMALL_FLUX, **SIZES, "dtype": torch.float32}
# Formats whose layers round their inputs as well: the fixture looks whether that is so.
ROUND_INPUTS = {"int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8"}
EXACT_INPUTS = sorted(set(QUANT_ALGOS) - ROUND_INPUTS)


def is_matrix(key: str, weight: torch.Tensor) -> bool:
    return "blocks" in key and key.endswith(".weight") and weight.ndim == 2


def build(weights: dict[str, torch.Tensor], **settings):
    config = comfy.supported_models.Flux(CONFIG)
    for name, value in settings.items():
        setattr(config, name, value)
    config.set_inference_dtype(torch.float32, torch.float32)
    model = config.get_model({}, device=CPU)
    model.load_model_weights(weights, "")
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def plain_weights() -> dict[str, torch.Tensor]:
    state = small_models.flux(**SIZES).model.state_dict()
    prefix = "diffusion_model."
    return {key.removeprefix(prefix): weight for key, weight in state.items() if key.startswith(prefix)}


def stored(weights: dict[str, torch.Tensor], matrices: Iterable[str], kind: str) -> dict[str, torch.Tensor]:
    """A checkpoint of this format."""
    for key in matrices:
        quantized = QuantizedTensor.from_float(
            weights[key], QUANT_ALGOS[kind]["comfy_tensor_layout"], scale="recalculate"
        )
        weights.update(quantized.state_dict(key))
        format = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
        weights[key.removesuffix("weight") + "comfy_quant"] = format
    return weights


def quantized(kind: str):
    """As ComfyUI loads a checkpoint of this format."""
    weights = plain_weights()
    matrices = [key for key, weight in weights.items() if is_matrix(key, weight)]
    return build(stored(weights, matrices, kind), quant_config={"mixed_ops": True})


def dequantized(model):
    """The model with the same numbers in float32."""
    read = lambda p: p.dequantize() if isinstance(p, QuantizedTensor) else p.data  # noqa: E731
    prefix = "diffusion_model."
    return build({key.removeprefix(prefix): read(p).float() for key, p in model.model.named_parameters()})


def stored_bytes(model) -> dict[str, torch.Tensor]:
    return {
        key: value.contiguous().reshape(-1).view(torch.uint8).clone() for key, value in model.model.state_dict().items()
    }


@pytest.fixture(scope="module", params=sorted(QUANT_ALGOS))
def case(request):
    model = quantized(request.param)
    exact = dequantized(model)
    layer, plain = (m.model.diffusion_model.single_blocks[0].linear1 for m in (model, exact))
    assert isinstance(layer.weight, QuantizedTensor)
    x = torch.randn(2, 5, layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
    error = float((layer(x) - plain(x)).norm() / plain(x).norm())
    assert error > 1e-3 if request.param in ROUND_INPUTS else error < 1e-5
    return request.param, model, exact


def load(model, name, **options):
    return StrataLoraLoader.execute(name, 1.0, 0.0, model=model, **options).result


def test_shapes_and_blocks_are_those_of_the_weights(case):
    _, model, exact = case
    ours, theirs = model_targets(model), model_targets(exact)
    assert ours.names == theirs.names
    assert ours.shapes == theirs.shapes
    a, b = layout_of(ours.shapes), layout_of(theirs.shapes)
    assert all(a.locate(key) == b.locate(key) for key in theirs.shapes)
    assert [block.name for block in (*a.blocks, *a.aux)] == [block.name for block in (*b.blocks, *b.aux)]


def test_a_lora_is_applied_whole(case, lora_folder):
    """Patched as ComfyUI's loader would, to the bit of the sampled latent; live at least as near to the truth, and exactly where the
    layer itself computes exactly."""
    kind, model, exact = case
    tensors = lora_makers.full_lora(exact, alpha=8.0, dtype=torch.float32)
    name = lora_folder.save("a.safetensors", tensors)
    sample = lambda m: sampling.sample(m, "FLUX.1")  # noqa: E731
    base, first, before = sample(exact), sample(model), stored_bytes(model)
    reference = sample(load(exact, name)[0])
    patched, live = load(model, name), load(model, name, apply="live")
    assert "all 117 tensors applied" in patched[3]
    assert "Rounded: 29 weights" in patched[3] and "apply = live" in patched[3]
    assert "Rounded" not in live[3] and "Rounded" not in load(exact, name)[3]
    core = sample(comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0])
    assert torch.equal(sample(patched[0]), core)
    errors = [sampling.distance(latent, reference, reference - base) for latent in (sample(live[0]), core)]
    assert errors[0] < errors[1], errors
    if kind in EXACT_INPUTS:
        assert errors[0] < 1e-4
        assert errors[1] > 0.1, "patching loses a good part of the LoRA here: the help page says so"
    assert torch.equal(sample(model), first)
    after = stored_bytes(model)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "nvfp4"])
def test_auto_is_live_where_a_patch_would_be_rounded_and_patched_elsewhere(kind, lora_folder):
    model = quantized(kind)
    exact = dequantized(model)
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(exact, alpha=8.0, dtype=torch.float32))
    sample = lambda m: sampling.sample(m, "FLUX.1")  # noqa: E731
    base, reference = sample(exact), sample(load(exact, name)[0])
    found, _, _, report, _ = load(model, name, apply="auto")
    coarse = {f"diffusion_model.{key}" for key, weight in plain_weights().items() if is_matrix(key, weight)}
    (lora,) = loras_of(found)
    assert {key if isinstance(key, str) else key[0] for key in lora.changes} == coarse
    assert found.patches and not coarse & set(found.patches)
    assert f"Live: {len(coarse)} weights that are stored in 8 bits or fewer" in report and "Rounded" not in report
    assert sampling.distance(sample(found), reference, reference - base) < 1e-4
    on_exact = load(exact, name, apply="auto")
    assert (
        not loras_of(on_exact[0]) and "Patched: no weight that it changes is stored in 8 bits or fewer" in on_exact[3]
    )


def test_the_report_tells_how_much_of_every_block_changes(case, lora_folder):
    _, model, exact = case
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(exact, alpha=8.0, dtype=torch.float32))
    ours, theirs = (
        re.findall(r"^  (\w+) x 0\.5: .*?\((\S+) % of these weights\)", report, re.MULTILINE)
        for report in (load(m, name, block_weights=BlockSpec("default=0.5"))[3] for m in (model, exact))
    )
    assert len(theirs) >= 4 and [block for block, _ in ours] == [block for block, _ in theirs]
    for (block, shown), (_, expected) in zip(ours, theirs, strict=True):
        assert float(shown) == pytest.approx(float(expected), rel=0.11), block  # two digits of each


@pytest.mark.parametrize("kind", EXACT_INPUTS)
@pytest.mark.parametrize("maker", ["DoRA", "OFT", "IA3", "LoKr"])
def test_what_reads_the_weight_reads_its_numbers(kind, maker):
    """Live against patches on the same numbers in float32."""
    from test_live import with_live, with_patches

    model = quantized(kind)
    exact = dequantized(model)
    changes = adapter_makers.everywhere(exact, adapter_makers.MAKERS[maker])
    sample = lambda m: sampling.sample(m, "FLUX.1")  # noqa: E731
    base, reference = sample(exact), sample(with_patches(exact, changes))
    assert split(model, changes)[1:] == ({}, {})
    assert sampling.distance(sample(with_live(model, changes)), reference, reference - base) < 1e-4


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "nvfp4"])
def test_text_encoders(kind, lora_folder):
    """The numbers that they encode to, patched: bit for bit those of ComfyUI's loader. And block weights, which measure them."""
    make = lambda **settings: small_models.clip(  # noqa: E731
        comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer, clip_l=small_models.SMALL_CLIP, **settings
    )
    exact = make()
    weights = exact.cond_stage_model.state_dict()
    matrices = [key for key in weights if ".layers." in key and key.endswith("weight") and weights[key].ndim == 2]
    clip = make(quantized=stored(dict(weights), matrices, kind))
    layer = clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0]
    assert isinstance(layer.mlp.fc1.weight, QuantizedTensor)
    names, shapes = lora_makers.clip_names(exact, "lora_te_"), lora_makers.shapes(exact.cond_stage_model)
    tensors = lora_makers.kohya(names, shapes, alpha=8.0, dtype=torch.float32)
    name = lora_folder.save("te.safetensors", tensors)
    encode = lambda c: c.encode_from_tokens(c.tokenize("a photo"))  # noqa: E731
    plain, core = encode(clip), encode(comfy.sd.load_lora_for_models(None, clip, tensors, 0.0, 0.7)[1])
    whole = StrataLoraLoader.execute(name, 0.0, 0.7, clip=clip).result
    assert not torch.equal(core, plain) and torch.equal(encode(whole[1]), core)
    blocks = StrataLoraLoader.execute(name, 0.0, 1.4, clip=clip, block_weights=BlockSpec("TE=0.5")).result
    assert torch.equal(encode(blocks[1]), core)
    assert len(re.findall("TE:clip_l.* % of these weights", blocks[3])) == small_models.SMALL_CLIP["num_hidden_layers"]
    assert torch.equal(encode(clip), plain)


class Packed(torch.Tensor):
    """A weight in 4 bits whose bytes and shape are told as ComfyUI-GGUF tells them: ``size()`` of the bytes, ``shape`` of the weight."""

    STEP = 0.02

    @classmethod
    def of(cls, weight: torch.Tensor) -> Packed:
        levels = (weight / cls.STEP).round().clamp(-8, 7).to(torch.int16) + 8
        packed = (levels[:, ::2] | levels[:, 1::2] << 4).to(torch.uint8).as_subclass(cls)
        packed.tensor_shape = weight.shape
        return packed

    @property
    def shape(self):
        return getattr(self, "tensor_shape", None) or self.size()

    def detach(self):
        return self

    def unpacked(self) -> torch.Tensor:
        bytes_ = self.as_subclass(torch.Tensor).to(torch.int16)
        return (torch.stack([bytes_ & 15, bytes_ >> 4], -1).flatten(1) - 8).float() * self.STEP


class PackedOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            if isinstance(weight := state_dict.get(f"{prefix}weight"), Packed):
                self.weight = torch.nn.Parameter(weight, requires_grad=False)
                self.bias = torch.nn.Parameter(state_dict[f"{prefix}bias"], requires_grad=False)
            else:
                super()._load_from_state_dict(state_dict, prefix, *rest)

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            if isinstance(self.weight, Packed):  # an estimate of its memory
                destination[f"{prefix}weight"] = torch.empty(self.weight.size(), dtype=torch.uint8, device="meta")

        def forward(self, x):
            if isinstance(self.weight, Packed):
                return torch.nn.functional.linear(x, self.weight.unpacked(), self.bias)
            return super().forward(x)


@pytest.fixture(scope="module")
def packed():
    weights = {key: Packed.of(weight) if is_matrix(key, weight) else weight for key, weight in plain_weights().items()}
    exact = build({key: weight.unpacked() if isinstance(weight, Packed) else weight for key, weight in weights.items()})
    return build(weights, custom_operations=PackedOps), exact


@pytest.mark.parametrize("maker", ["LoRA", "LoHa", "LoKr", "GLoRA", "IA3", "OFT", "BOFT"])
def test_live_on_packed_weights(packed, maker):
    from test_live import with_live, with_patches

    model, exact = packed
    changes = adapter_makers.everywhere(exact, adapter_makers.MAKERS[maker])
    assert model_targets(model).shapes == model_targets(exact).shapes
    assert split(model, changes)[1:] == ({}, {})
    sample = lambda m: sampling.sample(m, "FLUX.1")  # noqa: E731
    base, reference = sample(exact), sample(with_patches(exact, changes))
    assert torch.equal(sample(model), base)
    assert sampling.distance(sample(with_live(model, changes)), reference, reference - base) < 1e-4


def test_block_weights_on_packed_weights(packed, lora_folder):
    """Their size is known to their loader alone: a block that has some is told without it."""
    model, exact = packed
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(exact, alpha=8.0, dtype=torch.float32))
    loaded = load(model, name, apply="live", block_weights=BlockSpec("D0=0.5, S*=0, default=1"))
    lines = dict(re.findall(r"^  (\w+) x (.*)$", loaded[3], re.MULTILINE))
    assert lines["D00"].startswith("0.5: 30 tensors") and lines["S00"].startswith("0: 9 tensors")
    assert "of these weights" not in lines["D00"] and "of these weights" in lines["OTHER"]
    reference = load(exact, name, block_weights=BlockSpec("D0=0.5, S*=0, default=1"))
    first, second, base = (sampling.sample(m, "FLUX.1") for m in (loaded[0], reference[0], exact))
    assert sampling.distance(first, second, second - base) < 1e-4


def test_what_must_read_packed_weights_is_left_to_their_loader(packed):
    """It unpacks a weight before it hands it to the patches; no hook could."""
    model, exact = packed
    changes = adapter_makers.everywhere(exact, adapter_makers.MAKERS["DoRA"])
    live, rest, reasons = split(model, changes)
    matrices = {key for key in changes if is_matrix(key, model.model.get_parameter(key))}
    assert matrices and rest.keys() == matrices == set(reasons[PACKED])
    assert live.keys() == changes.keys() - matrices
    assert split(exact, changes)[1:] == ({}, {})
