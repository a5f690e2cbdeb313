"""Scale and more from the safetensors header and from PEFT's adapter_config.json."""

import json

import pytest
import torch

from strata.lora_math.reading.peft_config import Rules
from strata.lora_math.reading.state_dict import parse


def header(**fields):
    return {"lora_adapter_metadata": json.dumps(fields)}


def lora(module, rank=16):
    return {f"{module}.lora_B.weight": torch.ones(4, rank), f"{module}.lora_A.weight": torch.ones(rank, 3)}


def scale(module, metadata, config=None):
    (entry,) = parse(lora(module), metadata, config).entries
    return entry.adapter.scale


def test_alpha_of_diffusers():
    assert scale("unet.mid.to_q", header(**{"unet.r": 16, "unet.lora_alpha": 64})) == 4


def test_rank_stabilized_divides_by_the_root():
    assert scale("transformer.to_q", header(**{"transformer.lora_alpha": 8, "transformer.use_rslora": True})) == 2


def test_each_component_has_its_own():
    metadata = header(**{"unet.lora_alpha": 64, "text_encoder.lora_alpha": 8})
    assert scale("unet.to_q", metadata) == 4
    assert scale("text_encoder.to_q", metadata) == 0.5
    assert scale("text_encoder_2.to_q", metadata) == 1


def test_one_component_without_its_prefix():
    metadata = header(**{"transformer.lora_alpha": 64})
    assert scale("diffusion_model.blocks.0.to_q", metadata) == 4
    assert scale("base_model.model.blocks.0.to_q", metadata) == 4
    assert scale("text_encoder.to_q", metadata) == 1


def test_patterns_are_for_the_end_of_a_name():
    metadata = header(
        **{"unet.lora_alpha": 16, "unet.alpha_pattern": {"blocks.1.to_q": 32, "to_k": 48, r".*\.mid\..*": 64}}
    )
    assert scale("unet.blocks.1.to_q", metadata) == 2
    assert scale("unet.blocks.11.to_q", metadata) == 1
    assert scale("unet.blocks.0.to_k", metadata) == 3
    assert scale("unet.a.mid.to_v", metadata) == 4


def test_a_stored_alpha_wins_over_the_header():
    """Trainers that store one have already put rsLoRA's root into it."""
    tensors = {**lora("unet.to_q"), "unet.to_q.alpha": torch.tensor(8.0)}
    (entry,) = parse(tensors, header(**{"unet.lora_alpha": 64, "unet.use_rslora": True})).entries
    assert entry.adapter.scale == 0.5


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", '{"r": 1}', '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": true}', "[" * 100000]
)
def test_nonsense_in_the_header_is_no_rule(text):
    assert scale("unet.to_q", {"lora_adapter_metadata": text}) == 1


def test_an_expression_that_is_not_read_leaves_its_component_out_by_name():
    """A wrong scale would be a wrong picture: nothing of that component is applied, and the reason shows the expression."""
    metadata = header(**{"unet.lora_alpha": 8, "unet.alpha_pattern": {"(a+)+b": 2}, "text_encoder.lora_alpha": 8})
    found = parse({**lora("unet.to_q"), **lora("text_encoder.to_q")}, metadata)
    assert [entry.module for entry in found.entries] == ["text_encoder.to_q"]
    assert len(found.leftovers) == 2
    assert all("alpha_pattern is not understood: its expression '(a+)+b'" in why for why in found.leftovers.values())


def test_an_expression_that_is_not_read_leaves_out_only_what_it_could_fit():
    pattern = {"to_q": 4, "blocks.(?!1).*": 2, "to_k": 16}
    metadata = header(**{"unet.lora_alpha": 8, "unet.alpha_pattern": pattern})
    names = ("blocks.1.to_q", "blocks.2.to_k", "blocks.3.to_v", "mid.to_k", "mid.to_v")
    found = parse({key: tensor for name in names for key, tensor in lora(f"unet.{name}").items()}, metadata)
    assert {entry.module: entry.adapter.scale * 16 for entry in found.entries} == {
        "unet.blocks.1.to_q": 4, "unet.mid.to_k": 16, "unet.mid.to_v": 8,
    }  # fmt: skip
    assert {key.split(".lora")[0] for key in found.leftovers} == {"unet.blocks.2.to_k", "unet.blocks.3.to_v"}
    assert all("'blocks.(?!1).*'" in why for why in found.leftovers.values())


@pytest.mark.parametrize("expression", ["(?i)mid", "mid|(?!x)to_k", "midx?(?!a)", "^mid.(?=to)to_k", "m(?!x).*"])
def test_what_an_expression_that_is_not_read_could_fit_stays_out(expression):
    metadata = header(**{"unet.lora_alpha": 8, "unet.alpha_pattern": {expression: 2}})
    assert parse(lora("unet.mid.to_k"), metadata).entries == ()


def test_a_number_in_quotes_is_one():
    assert scale("unet.mid.to_q", header(**{"unet.r": "16", "unet.lora_alpha": "64"})) == 4


def test_config_beside_the_file():
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"to_k": 4}}
    assert scale("base_model.model.to_q", {}, config) == 2
    assert scale("base_model.model.to_k", {}, config) == 1


@pytest.mark.parametrize("config", [None, [], "x", {}, {"r": "x", "lora_alpha": None}])
def test_nonsense_in_the_config_is_no_rule(config):
    assert scale("base_model.model.to_q", {}, config) == 1


@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), -float("inf"), 10**400, 0, -3], ids=lambda n: f"{n}"[:4]
)
def test_numbers_that_json_has_and_no_rank_can_be(number):
    config = {"peft_type": "LOKR", "r": number, "rank_pattern": {"m": number}, "use_rslora": True, "lora_alpha": 1}
    assert Rules.from_adapter_config(config).for_module("m").rank is None
    assert scale("base_model.model.to_q", {}, {"lora_alpha": 8, "r": number, "rank_pattern": {"to_q": number}}) == 0.5


@pytest.mark.parametrize("alpha", ["NaN", "Infinity", "1" + "0" * 400])
def test_an_alpha_in_the_header_that_is_no_number_is_refused(alpha):
    packed = {"lora_adapter_metadata": '{"unet.lora_alpha": ' + alpha + "}"}
    tensors = {"unet.to_q.lora_A.weight": torch.ones(4, 8), "unet.to_q.lora_B.weight": torch.ones(8, 4)}
    found = parse(tensors, packed)
    assert not found.entries
    assert all("its alpha is" in reason for reason in found.leftovers.values())


def test_thousands_of_patterns_all_count():
    rules = Rules.from_adapter_config({"lora_alpha": 1, "alpha_pattern": {f"m{i}": i for i in range(5000)}})
    assert rules.for_module("m7").alpha == 7
    assert rules.for_module("m4999").alpha == 4999


def test_lokr_divides_by_the_configured_rank_even_where_no_tensor_shows_it():
    whole = {"base_model.model.m.lokr_w1": torch.ones(2, 2), "base_model.model.m.lokr_w2": torch.ones(2, 2)}
    config = {"peft_type": "LOKR", "r": 32, "alpha": 8, "rank_pattern": {"n": 4}}
    (entry,) = parse(whole, {}, config).entries
    assert entry.adapter.scale == 0.25
    renamed = {key.replace(".m.", ".n."): tensor for key, tensor in whole.items()}
    (entry,) = parse(renamed, {}, config).entries
    assert entry.adapter.scale == 2


@pytest.mark.parametrize(
    ("feedforward", "on_input"), [(["fc2"], True), (["to_q"], False), (r".*\.fc2", True), ("fc2", False)]
)
def test_ia3_feedforward_modules(feedforward, on_input):
    """A list holds endings, a text is a pattern for the whole name."""
    rules = Rules.from_adapter_config({"peft_type": "IA3", "feedforward_modules": feedforward})
    assert rules.for_module("base_model.model.blocks.0.fc2").on_input is on_input


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        ({"use_cayley_neumann": False, "num_cayley_neumann_terms": 5}, 0),
        ({"use_cayley_neumann": True, "num_cayley_neumann_terms": 3}, 3),
        ({}, 5),
        ({"num_cayley_neumann_terms": float("nan")}, None),
        ({"num_cayley_neumann_terms": float("inf")}, 64),
        ({"num_cayley_neumann_terms": 10**400}, 64),
    ],
)
def test_oft_series(config, terms):
    assert Rules.from_adapter_config({"peft_type": "OFT", **config}).for_module("m").neumann_terms == terms
