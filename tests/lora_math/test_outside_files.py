"""Files that other programs write otherwise than their trainers meant: found in public reports, each with its right answer.

References: PEFT's own DoRA, formulas in float64 written out here, the trainers' own numbers.
"""

from __future__ import annotations

import json

import pytest
import torch
from deadline import deadline
from torch import nn
from torch.nn import Linear

from strata.lora_math.adapters import DoRA, LoRA, SetWeight, from_record
from strata.lora_math.adapters.dora import IN
from strata.lora_math.reading.state_dict import parse
from strata.lora_math.reading.trigger_words import trigger_words


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peft_dora(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, magnitude: torch.Tensor, alpha: float):
    """W' - W of PEFT's own layer."""
    from peft import LoraConfig, get_peft_model

    model = nn.Sequential()
    model.add_module("to_q", Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64))
    model.to_q.weight.data = weight.clone()
    config = LoraConfig(r=len(down), lora_alpha=alpha, target_modules=["to_q"], use_dora=True)
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=False).double()
    layer = wrapped.base_model.model.to_q
    layer.lora_A["default"].weight.data = down.clone()
    layer.lora_B["default"].weight.data = up.clone()
    layer.lora_magnitude_vector["default"].weight.data = magnitude.clone()
    return wrapped.merge_and_unload().to_q.weight.data - weight


PAIRS = [
    ("lora_unet_down_blocks_2_attentions_0_transformer_blocks_2_attn1_to_q",
     "lora_unet_down_blocks_2_attentions_0_transformer_blocks_2_attn1.to_q"),
    ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", "lora_te1_text_model_encoder_layers_0_self_attn.q_proj"),
    ("lora_unet_blocks_0_attn1_to_q", "unet.blocks.0.attn1.to_q"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "dotted"), PAIRS)
@pytest.mark.parametrize("magnitude", ["lora_magnitude_vector", "dora_scale"])
def test_magnitudes_with_dots_beside_underscored_modules(module, dotted, magnitude):
    """diffusers' converter to kohya's names replaces all dots but the last two."""
    down, up, weight, m = random(4, 12), random(8, 4, seed=1), random(8, 12, seed=2), random(8, seed=3).abs() + 1
    tensors = {
        f"{module}.lora_down.weight": down,
        f"{module}.lora_up.weight": up,
        f"{module}.alpha": torch.tensor(2.0),
        f"{dotted}.{magnitude}": m if magnitude != "dora_scale" else m[:, None],
    }
    contents = parse(tensors)
    (entry,) = contents.entries
    assert not contents.leftovers and not contents.orphans
    assert entry.module == module and set(entry.keys) == set(tensors)
    torch.testing.assert_close(entry.adapter.delta(weight), peft_dora(weight, down, up, m, 2.0), rtol=1e-10, atol=1e-10)


def test_an_alpha_in_another_spelling_counts():
    tensors = {
        "a_b.lora_down.weight": random(4, 12),
        "a_b.lora_up.weight": random(8, 4),
        "a.b.alpha": torch.tensor(1.0),
    }
    (entry,) = parse(tensors).entries
    assert entry.alpha == 1.0 and entry.adapter.scale == 0.25


def test_two_whole_loras_in_two_spellings_keep_their_own():
    tensors = {}
    for module, alpha in (("a_b", 1.0), ("a.b", 2.0)):
        tensors |= {f"{module}.lora_down.weight": random(4, 12), f"{module}.lora_up.weight": random(8, 4)}
        tensors[f"{module}.alpha"] = torch.tensor(alpha)
    assert [entry.alpha for entry in parse(tensors).entries] == [1.0, 2.0]


def test_magnitudes_of_no_layer_are_named():
    tensors = {
        "a.lora_down.weight": random(4, 12),
        "a.lora_up.weight": random(8, 4),
        "b.lora_magnitude_vector": random(8),
    }
    contents = parse(tensors)
    assert contents.orphans == ("b.lora_magnitude_vector",)
    assert len(contents.entries) == 1 and not isinstance(contents.entries[0].adapter, DoRA)


def test_wans_modulation():
    value = random(1, 6, 16)
    contents = parse({"diffusion_model.blocks.0.diff_m": value, "diffusion_model.head.diff_m": value[:, :2]})
    assert [(e.module, e.parameter) for e in contents.entries] == [
        ("diffusion_model.blocks.0.modulation", "weight"),
        ("diffusion_model.head.modulation", "weight"),
    ]
    torch.testing.assert_close(contents.entries[0].adapter.delta(torch.zeros(1, 6, 16), 0.5), 0.5 * value)


@pytest.mark.parametrize("shape", [(10, 12), (8, 16), (6, 12)])
def test_a_replaced_weight_of_another_shape(shape):
    value = random(*shape)
    (entry,) = parse({"a.set_weight": value}).entries
    adapter = entry.adapter.meeting((8, 12))
    assert adapter.mismatch((8, 12)) is None and adapter.shape_after == shape
    base = random(8, 12, seed=1)
    assert torch.equal(adapter.apply_(base.clone(), 0.3, torch.float64), value)
    assert torch.equal(adapter.apply_(base.clone(), 0.0, torch.float64), base)


def test_a_replaced_bias():
    value = random(10)
    (entry,) = parse({"a.set_bias": value}).entries
    assert entry.parameter == "bias" and isinstance(entry.adapter, SetWeight)
    assert torch.equal(entry.adapter.meeting((10,), True).apply_(torch.zeros(10).double(), 1.0, torch.float64), value)
    assert entry.adapter.meeting((8,), True).shape_after == (10,)


@pytest.mark.parametrize(("value", "here"), [((64,), (128,)), ((8, 12), (8,)), ((8, 12), (800, 1200))])
def test_a_norm_or_a_wild_shape_is_not_replaced(value, here):
    adapter = SetWeight(torch.ones(value)).meeting(here)
    assert adapter.shape_after is None and adapter.mismatch(here) is not None


def test_fused_qkv_that_comfyui_has_cut():
    """Its converter gives q, k and v the whole factors of a LoKr and says where their rows begin."""
    w1, w2 = random(2, 3), random(9, 4, seed=1)  # 18 rows, of which q has 12, k and v 3 each: no multiple of w2's 9
    whole = torch.kron(w1, w2)
    tensors, rows = {}, {"to_q": (0, 12), "to_k": (12, 15), "to_v": (15, 18)}
    for name, (start, _) in rows.items():
        module = f"diffusion_model.transformer_blocks.0.attn.{name}"
        tensors |= {f"{module}.lokr_w1": w1, f"{module}.lokr_w2": w2, f"{module}.row_offset": torch.tensor(start)}
    contents = parse(tensors)
    assert not contents.leftovers and len(contents.entries) == 3
    for entry, (start, stop) in zip(contents.entries, rows.values(), strict=True):
        base = torch.zeros(stop - start, 12, dtype=torch.float64)
        torch.testing.assert_close(entry.adapter.delta(base), whole[start:stop])


def test_any_number_of_parts_of_one_fused_layer_is_read_in_proportion():
    tensors = {f"a{chr(0x4E00 + i)}.row_offset": torch.tensor(float(i)) for i in range(20_000)}
    with deadline(20):
        assert not parse(tensors).entries


@pytest.mark.parametrize("offset", [-1, 18, 1000])
def test_a_row_offset_beyond_the_rows_is_refused(offset):
    tensors = {
        "a.to_q.lokr_w1": random(2, 3),
        "a.to_q.lokr_w2": random(9, 4),
        "a.to_q.row_offset": torch.tensor(offset),
    }
    contents = parse(tensors)
    assert not contents.entries and all("row_offset" in reason for reason in contents.leftovers.values())


@pytest.mark.parametrize(
    ("suffixes", "method"),
    [
        (("vera_lambda_b", "vera_lambda_d"), "VeRA"),
        (("hra_u",), "HRA"),
        (("bone_block",), "Bone"),
        (("miss_block",), "MiSS"),
        (("fourierft_spectrum",), "FourierFT"),
        (("hira_A.weight", "hira_B.weight"), "HiRA"),
        (("ln_tuning_layers",), "LayerNorm tuning"),
    ],
)
@pytest.mark.parametrize("prefix", ["base_model.model.", "lora_unet_", "transformer."])
def test_what_cannot_be_applied_is_refused_by_its_name(suffixes, method, prefix):
    contents = parse({f"{prefix}blocks.0.attn.to_q.{suffix}": torch.ones(4, 4) for suffix in suffixes})
    assert not contents.entries
    assert all(
        reason.startswith(method) and reason.endswith("is not supported") for reason in contents.leftovers.values()
    )


def test_an_embedding_in_the_file_is_named_as_what_it_is():
    tensors = {
        "a.lora_down.weight": random(4, 12),
        "a.lora_up.weight": random(8, 4),
        "bundle_emb.ohwx.clip_l": random(2, 768),
    }
    (reason,) = parse(tensors).leftovers.values()
    assert "embedding" in reason and "ohwx" in reason and "OneTrainer" in reason


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"ss_tag_frequency": json.dumps({"1_ohwx": {"ohwx": 1}})}, ["ohwx"]),
        ({"ss_tag_frequency": json.dumps({"10_ohwx woman": {"a": 3}, "3_sks_dog": {}})}, ["ohwx woman", "sks dog"]),
        ({"trained_words": "ohwx woman, sks"}, ["ohwx woman", "sks"]),
        ({"trained_words": '["ohwx woman", "sks"]'}, ["ohwx woman", "sks"]),
        ({"trigger_words": "ohwx"}, ["ohwx"]),
        ({"ss_tag_frequency": json.dumps({"images": {"a": 1}})}, []),
        ({"ss_tag_frequency": "[1]", "trained_words": "{"}, ["{"]),
    ],
)
def test_trigger_words_in_the_header(tmp_path, metadata, words):
    assert trigger_words(str(tmp_path / "a.safetensors"), metadata) == words


def test_where_alpha_was_read():
    tensors = {"a.lora_A.weight": random(4, 12), "a.lora_B.weight": random(8, 4)}
    header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 8})}
    assert parse(tensors, header).rules_from == "the file's header"
    assert "adapter_config.json" in parse(tensors, {}, {"lora_alpha": 8}).rules_from


def test_dora_over_rows_of_several_weights():
    """On the input axis the norms are over q, k and v together: the parts, told of each other, are the whole's rows."""
    down, up, weight, m = random(4, 12), random(20, 4, seed=1), random(20, 12, seed=2), random(12, seed=3).abs() + 1
    whole = DoRA(LoRA(up, down), m, IN)
    v = weight + up @ down
    expected = v * m / v.norm(dim=0, keepdim=True) - weight  # LyCORIS: W' = m V / ||V|| by column
    torch.testing.assert_close(whole.delta(weight), expected)
    rows = [(0, 12), (12, 4), (16, 4)]
    parts = [whole.cut(start, length, 20) for start, length in rows]
    assert all(part.awaits for part in parts)
    with pytest.raises(ValueError, match="other weights"):
        parts[0].delta(weight[:12])
    columns = [part.columns(weight.narrow(0, *where)) for part, where in zip(parts, rows, strict=True)]
    for at, (part, where) in enumerate(zip(parts, rows, strict=True)):
        ready = from_record(part.knowing(sum(columns[:at] + columns[at + 1 :])).record())
        mine = weight.narrow(0, *where)
        assert not ready.awaits
        torch.testing.assert_close(ready.delta(mine, 0.7), 0.7 * expected.narrow(0, *where))
        prepared = ready.prepared(mine)
        torch.testing.assert_close(prepared.c, m / v.norm(dim=0))
