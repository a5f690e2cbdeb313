"""Files from outside on ComfyUI's own models: the layer that a name means, the family that a file is not for, a layer named twice.

Expected layers are written down by hand, from the trainers' sources and public reports.
"""

from __future__ import annotations

from types import SimpleNamespace

import comfy.supported_models
import pytest
import torch
from comfy import model_management, model_patcher

from strata.lora_math import family
from strata.lora_math.errors import StrataError
from strata.lora_math.reading import state_dict
from strata.nodes.comfy.library import FileKey, Lora
from strata.nodes.comfy.targets import clip_targets, model_targets
from strata.nodes.fitting.fit import match
from strata.nodes.fitting.side import NOTHING, Side
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.report import lora as report
from strata.tests.nodes.helpers import compatibility, core_models, lora_makers, naming_files, small_models


@pytest.mark.parametrize(
    ("model", "module", "key"),
    [
        ("FLUX.1", "lora_unet_model_diffusion_model_double_blocks_0_img_attn_proj", "double_blocks.0.img_attn.proj.weight"),
        ("LTX-2", "lora_unet_model_transformer_blocks_0_attn1_to_k", "transformer_blocks.0.attn1.to_k.weight"),
        ("FLUX.1", "lora_unet_single_transformer_blocks_0_attn_to_k_", ("single_blocks.0.linear1.weight", (0, 3072, 3072))),
        ("FLUX.1", "lora_unet_context_embedder_", "txt_in.weight"),
        ("HunyuanVideo", "Hunyuan_video_I2V_lora_double_blocks_0_img_attn_proj", "double_blocks.0.img_attn.proj.weight"),
        ("HunyuanVideo", "Hunyuan_video_I2V_lora_double_blocks_0_img_mlp_fc1", "double_blocks.0.img_mlp.0.weight"),
        ("HunyuanVideo", "Hunyuan_video_I2V_lora_single_blocks_0_modulation_linear", "single_blocks.0.modulation.lin.weight"),
        ("Wan 14B", "diffusion_model.blocks.0.modulation", "blocks.0.modulation"),
        ("Wan 14B", "diffusion_model.head.modulation", "head.modulation"),
        ("Wan 14B", "lora_unet_blocks_0.modulation", "blocks.0.modulation"),
    ],
)  # fmt: skip
def test_the_layer_that_a_name_means(model, module, key):
    (target,) = model_targets(compatibility.patcher(model)).find(module, "weight")
    expected = f"diffusion_model.{key}" if isinstance(key, str) else (f"diffusion_model.{key[0]}", key[1])
    assert target.patch_key == expected


@pytest.mark.parametrize(
    "module",
    [
        "text_embedding_projection.aggregate_embed",
        "lora_te_text_embedding_projection_aggregate_embed",
        "text_encoders.text_embedding_projection.aggregate_embed",
        "text_embedding_projection",
    ],
)
def test_ltx2s_projection_is_in_the_clip(module):
    from comfy.text_encoders import lt

    clip = SimpleNamespace(
        cond_stage_model=lt.LTXAVTEModel(device="meta", dtype=torch.float16, dtype_llama=torch.float16),
        patcher=SimpleNamespace(backup={}),
    )
    (target,) = clip_targets(clip).find(module, "weight")
    assert target.patch_key == "text_embedding_projection.weight" and target.shape == (3840, 188160)
    assert family.is_text_encoder(module)


def attention(blocks: int, name: str, layers: tuple[str, ...], width: int = 3072) -> dict[str, torch.Tensor]:
    return {
        f"{name.format(i)}{layer}.{end}.weight": torch.empty(shape, device="meta")
        for i in range(blocks)
        for layer in layers
        for end, shape in (("lora_A", (4, width)), ("lora_B", (width, 4)))
    }


TWO = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def _flux(double=19, single=38):
    return attention(double, "transformer.transformer_blocks.{}.attn.", TWO) | attention(
        single, "transformer.single_transformer_blocks.{}.attn.", TWO[:3]
    )


def _kohya_double():
    found = {}
    for i in range(19):
        for stream in ("img", "txt"):
            for layer, out in (("qkv", 9216), ("proj", 3072)):
                module = f"lora_unet_double_blocks_{i}_{stream}_attn_{layer}"
                found[f"{module}.lora_down.weight"] = torch.empty(4, 3072, device="meta")
                found[f"{module}.lora_up.weight"] = torch.empty(out, 4, device="meta")
    return found


def _native(model):
    return next(naming_files.files(model)).tensors


FOREIGN = [
    ("FLUX.1 attention", _flux, "Qwen-Image"),
    ("FLUX.1 attention", _flux, "FLUX.2 klein 4B"),
    ("FLUX.1 attention", _flux, "HunyuanVideo"),
    ("FLUX.1 attention", _flux, "SD3.5 large"),
    ("FLUX.1 double blocks, kohya", _kohya_double, "FLUX.2 klein 4B"),
    ("FLUX.1 double blocks, kohya", _kohya_double, "HunyuanVideo"),
    ("Chroma", lambda: _native("Chroma"), "FLUX.2 klein 4B"),
    ("Chroma", lambda: _native("Chroma"), "HunyuanVideo"),
    ("klein attention", lambda: _flux(5, 20), "HunyuanVideo"),
    ("klein", lambda: _native("FLUX.2 klein 4B"), "HunyuanVideo"),
    ("klein", lambda: _native("FLUX.2 klein 4B"), "FLUX.1"),
    ("Lens attention", lambda: attention(48, "transformer.transformer_blocks.{}.attn.", TWO, 1536), "SD3"),
    ("Lens", lambda: _native("Lens"), "SD3"),
    ("Qwen-Image", lambda: _native("Qwen-Image"), "FLUX.1"),
    ("Mage-Flow", lambda: _native("Mage-Flow"), "Qwen-Image"),
    ("Wan", lambda: _native("Wan 14B"), "Z-Image"),
]
AT_HOME = [
    ("FLUX.1 attention", _flux, "FLUX.1"),
    ("FLUX.1 attention", _flux, "Chroma"),
    ("FLUX.1, a few blocks", lambda: attention(4, "transformer.single_transformer_blocks.{}.attn.", TWO[:3]), "FLUX.1"),
    (
        "FLUX.1, a few blocks",
        lambda: attention(4, "transformer.single_transformer_blocks.{}.attn.", TWO[:3]),
        "HunyuanVideo",
    ),
    ("a few double blocks", lambda: attention(7, "transformer.transformer_blocks.{}.attn.", TWO), "Qwen-Image"),
    ("a few double blocks", lambda: attention(7, "transformer.transformer_blocks.{}.attn.", TWO), "HunyuanVideo"),
    ("klein attention", lambda: _flux(5, 20), "FLUX.2 klein 4B"),
    ("kohya, double blocks", _kohya_double, "FLUX.1"),
]


def sides(tensors, model):
    """(the file as the report knows it, its fit on the model)."""
    contents = state_dict.parse(tensors)
    found = family.guess(contents.entries)
    lora = Lora(
        name="x.safetensors",
        path="",
        key=FileKey("x", 0, 0, 0),
        size=0,
        metadata={},
        contents=contents,
        family=found.family,
        families=found.families,
        broken=frozenset(),
        largest=0.0,
        tensors=len(tensors),
        nbytes=0,
    )
    targets = model_targets(model)
    return lora, Side(match(contents.entries, targets), targets, 1.0)


@pytest.mark.parametrize(("title", "tensors", "model"), FOREIGN, ids=[f"{t} on {m}" for t, _, m in FOREIGN])
def test_a_file_that_is_for_other_families(title, tensors, model):
    lora, side = sides(tensors(), compatibility.patcher(model))
    (problem,) = report.problems(lora, report.misfit(lora, side, NOTHING))
    ours = lora.family or " or ".join(lora.families[:2])
    assert problem.startswith(f"{ours} LoRA, the model is {side.targets.family}: x.safetensors")


@pytest.mark.parametrize(("title", "tensors", "model"), AT_HOME, ids=[f"{t} on {m}" for t, _, m in AT_HOME])
def test_a_file_that_may_be_for_this_family(title, tensors, model):
    lora, side = sides(tensors(), compatibility.patcher(model))
    assert report.problems(lora, report.misfit(lora, side, NOTHING)) == []


@pytest.mark.parametrize(
    ("name", "class_name", "lora_of"),
    [
        ("Wan 1.3B", "WAN_Animate2", "Wan 14B i2v"),
        ("Qwen-Image", "QwenImage21", "FLUX.1"),
        ("FLUX.1", "LongCatImage", "FLUX.1"),
    ],
)
def test_a_class_that_nobody_knows_refuses_nothing(name, class_name, lora_of):
    model = core_models.build(name)
    model.model_config.__class__ = type(class_name, (type(model.model_config),), {})
    patcher = model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    tensors = _flux() if lora_of == "FLUX.1" else _native(lora_of)
    lora, side = sides(tensors, patcher)
    assert not side.targets.certain
    found = report.problems(lora, report.misfit(lora, side, NOTHING))
    assert not any("LoRA, the model is" in problem for problem in found)


def test_a_layer_in_several_spellings_is_applied_once(lora_folder):
    """The reference is the file with one of them: the patched weights are the same to the bit."""
    model = small_models.sd15()
    names = lora_makers.unet_names(model, having="transformer_blocks")
    key_map = {key: name for name, key in names.items() if "down_blocks" in name or "input_blocks" in name}
    key, module = next(iter(key_map.items()))
    shape = lora_makers.shapes(model.model)[key]
    up, down = lora_makers.factors(shape, 4, torch.Generator().manual_seed(0), torch.float32)
    native = key.removesuffix(".weight")
    spellings = [module, native, "lora_unet_" + native.removeprefix("diffusion_model.").replace(".", "_")]
    one = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    three = dict(one)
    for i, other in enumerate(dict.fromkeys(spellings[1:])):
        three |= {f"{other}.lora_up.weight": up + i, f"{other}.lora_down.weight": down.clone()}
    assert len(three) > len(one)
    weights = []
    for title, tensors in (("one", one), ("three", three)):
        name = lora_folder.save(f"{title}.safetensors", tensors)
        output = StrataLoraLoader.execute(name, 0.7, 0.0, model=model)
        patched = output.result[0]
        model_management.load_models_gpu([patched], force_full_load=True)
        weights.append(patched.model.state_dict()[key].clone())
        text = output.result[3]
    assert torch.equal(*weights)
    assert "more than once" in text and "applied once" in text


def test_magnitudes_without_a_layer_stop_the_run(lora_folder):
    model = small_models.sd15()
    tensors = lora_makers.kohya(lora_makers.unet_names(model, having="attn1_to_q"), lora_makers.shapes(model.model))
    name = lora_folder.save("orphan.safetensors", tensors | {"lora_unet_nowhere.lora_magnitude_vector": torch.ones(8)})
    with pytest.raises(StrataError, match="DoRA magnitudes without a layer"):
        StrataLoraLoader.execute(name, 1.0, 0.0, model=model)
    report_text = StrataLoraLoader.execute(name, 1.0, 0.0, model=model, on_problem="warn").result[3]
    assert "lora_unet_nowhere.lora_magnitude_vector" in report_text


def test_a_file_of_nothing_but_an_unsupported_method_is_refused_by_its_name(lora_folder):
    tensors = {f"base_model.model.blocks.0.to_q.{end}": torch.ones(4) for end in ("vera_lambda_b", "vera_lambda_d")}
    name = lora_folder.save("vera.safetensors", tensors)
    with pytest.raises(StrataError, match="VeRA is not supported"):
        StrataLoraLoader.execute(name, 1.0, 0.0, model=small_models.sd15())


KREA2 = {
    "features": 96,
    "tdim": 32,
    "txtdim": 64,
    "heads": 4,
    "kvheads": 2,
    "multiplier": 4,
    "layers": 2,
    "txtlayers": 3,
}


QKV = [f"diffusion_model.blocks.0.attn.w{letter}.weight" for letter in "qkv"]


def krea2():
    config = {"image_model": "krea2", "patch": 2, "channels": 16, **KREA2}
    return small_models.build(comfy.supported_models.Krea2, config, torch.float32)


def qkv_of(model) -> torch.Tensor:
    state = model.model.state_dict()
    return torch.cat([state[key] for key in QKV]).double()


class FusedDora:
    """A DoRA by input of q, k and v as one layer."""

    def __init__(self, rows: int):
        generator = torch.Generator().manual_seed(3)
        self.w1, self.w2 = (torch.randn(size, generator=generator) * 0.1 for size in ((rows // 8, 12), (8, 8)))
        self.magnitude = torch.rand(1, 96, generator=generator) + 0.5
        module = "transformer.transformer_blocks.0.attn.to_qkv"
        named = {"lokr_w1": self.w1, "lokr_w2": self.w2, "dora_scale": self.magnitude}
        self.tensors = {f"{module}.{role}": tensor for role, tensor in named.items()}

    def on(self, whole: torch.Tensor, strength: float) -> torch.Tensor:
        """LyCORIS's formula in float64: W' = m V / ||V|| by column, V = W + kron(w1, w2)."""
        v = whole + torch.kron(self.w1.double(), self.w2.double())
        return whole + strength * (self.magnitude.double() * v / v.norm(dim=0, keepdim=True) - whole)


@pytest.mark.parametrize("placeholders", [False, True], ids=["alone", "with SimpleTuner's untrained q, k and v"])
def test_dora_by_input_of_krea2s_fused_qkv(lora_folder, placeholders):
    model = krea2()
    whole, state = qkv_of(model), model.model.state_dict()
    dora = FusedDora(len(whole))
    tensors = dict(dora.tensors)
    if placeholders:
        for letter, key in zip("qkv", QKV, strict=True):
            stem = f"transformer.transformer_blocks.0.attn.to_{letter}"
            tensors[f"{stem}.lora_down.weight"] = torch.ones(4, 96)
            tensors[f"{stem}.lora_up.weight"] = torch.zeros(len(state[key]), 4)
    name = lora_folder.save("krea.safetensors", tensors)
    patched, _, _, text, *_ = StrataLoraLoader.execute(name, 0.8, 0.0, model=model).result
    # In the file's order two of them come before the trained layer, and one after it.
    assert ("applied once, 6 tensors" in text) == placeholders
    assert "Left over" not in text
    model_management.load_models_gpu([patched], force_full_load=True)
    torch.testing.assert_close(qkv_of(patched), dora.on(whole, 0.8), rtol=1e-5, atol=1e-5)


def test_a_dora_in_parts_knows_of_a_lora_that_comes_before_it_later(lora_folder):
    """Its norms are kept: those of the model alone must not serve for the model with another LoRA."""
    model = krea2()
    whole = qkv_of(model)
    dora = FusedDora(len(whole))
    name = lora_folder.save("krea.safetensors", dora.tensors)
    up, down = torch.randn(len(model.model.state_dict()[QKV[0]]), 2), torch.randn(2, 96)
    module = "transformer.transformer_blocks.0.attn.to_q"
    first = lora_folder.save("q.safetensors", {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up})
    alone = StrataLoraLoader.execute(name, 0.8, 0.0, model=model).result[0]
    before = StrataLoraLoader.execute(first, 0.5, 0.0, model=model).result[0]
    both = StrataLoraLoader.execute(name, 0.8, 0.0, model=before).result[0]
    changed = whole.clone()
    changed[: len(up)] += 0.5 * (up.double() @ down.double())
    for patched, expected in ((both, dora.on(changed, 0.8)), (alone, dora.on(whole, 0.8))):
        model_management.load_models_gpu([patched], force_full_load=True)
        torch.testing.assert_close(qkv_of(patched), expected, rtol=1e-5, atol=1e-5)
