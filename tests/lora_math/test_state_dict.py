"""Key names to adapters: every trainer's spelling, several adapters on one module, and a reason for whatever is left over."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math.reading import state_dict
from strata.lora_math.reading.state_dict import parse, split_key

MODULE = "base_model.model.blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("suffix", "role"),
    [
        (".lora_up.weight", "lora_up"),
        (".lora_mid.weight", "lora_mid"),
        ("_lora.up.weight", "lora_up"),
        (".lora.down.weight", "lora_down"),
        (".lora_linear_layer.up.weight", "lora_up"),
        (".lora_A.weight", "lora_down"),
        (".lora_B.default.weight", "lora_up"),
        (".lora_A", "lora_down"),
        (".lora_A.default", "lora_down"),
        (".lora_E.default", "lora_E"),
        (".lora_B.bias", "lora_up_bias"),
        (".lora_B.default.bias", "lora_up_bias"),
        (".lora_magnitude_vector", "magnitude"),
        (".lora_magnitude_vector.default.weight", "magnitude"),
        (".magnitude", "magnitude"),
        (".dora_scale", "dora_scale"),
        (".alpha", "alpha"),
        (".scalar", "scalar"),
        (".hada_w1_a", "hada_w1_a"),
        (".hada_t2.default", "hada_t2"),
        (".lokr_w2_b", "lokr_w2_b"),
        (".lokr_w1.default", "lokr_w1"),
        (".a1.weight", "glora_a1"),
        (".oft_blocks", "oft_blocks"),
        (".oft_blocks.3", "oft_blocks.3"),
        (".rescale", "rescale"),
        (".oft_R.weight", "oft_R"),
        (".oft_R.default.weight", "oft_R"),
        (".oft_R.scaled_oft", "scaled_oft"),
        (".boft_R", "boft_R"),
        (".boft_s.default", "boft_s"),
        (".ia3_l", "ia3_l"),
        (".ia3_l.default", "ia3_l"),
        (".on_input", "on_input"),
        (".diff", "diff"),
        (".diff_b", "diff_b"),
        (".w_norm", "diff"),
        (".set_weight", "set_weight"),
        (".reshape_weight", "reshape_weight"),
        (".bias_indices", "bias_indices"),
    ],
)
def test_suffixes(suffix, role):
    assert split_key(MODULE + suffix) == (MODULE, role)


@pytest.mark.parametrize(
    "key", ["", ".", "weight", "model.layers.0.weight", "model.layers.0.bias", "emb_params", "a.b.c.d.e.f.g"]
)
def test_other_keys(key):
    assert split_key(key) is None


def lora(module="m", out=4, inputs=3):
    return {f"{module}.lora_up.weight": torch.ones(out, 1), f"{module}.lora_down.weight": torch.ones(1, inputs)}


def test_lora_and_difference_on_one_module_both_apply():
    """ComfyUI 0.30 keeps one patch for each weight of a file, and loses the LoRA."""
    contents = parse(
        {**lora(), "m.diff": torch.full((4, 3), 5.0), "m.diff_b": torch.ones(4), "m.alpha": torch.tensor(2.0)}
    )
    assert [(entry.parameter, entry.adapter.name) for entry in contents.entries] == [
        ("weight", "LoRA"),
        ("weight", "diff"),
        ("bias", "diff"),
    ]
    weight = torch.zeros(4, 3)
    for entry in contents.entries[:2]:
        entry.adapter.apply_(weight, 1.0, torch.float32)
    assert torch.equal(weight, torch.full((4, 3), 7.0))
    assert sorted(key for entry in contents.entries for key in entry.keys) == sorted(
        ["m.lora_up.weight", "m.lora_down.weight", "m.alpha", "m.diff", "m.diff_b"]
    )


def test_sparse_residue_beside_a_lora():
    contents = parse(
        {
            **lora(),
            "m.bias_indices": torch.tensor([[1], [2]], dtype=torch.int16),
            "m.bias_values": torch.tensor([9.0]),
            "m.bias_size": torch.tensor([4, 3], dtype=torch.int16),
        }
    )
    weight = torch.zeros(4, 3)
    for entry in contents.entries:
        assert entry.adapter.mismatch((4, 3)) is None
        entry.adapter.apply_(weight, 1.0, torch.float32)
    assert weight[1, 2] == 10
    assert weight.sum() == 12 + 9


@pytest.mark.parametrize("alpha", [2.0, None])
def test_alpha(alpha):
    tensors = {"m.lora_up.weight": torch.ones(4, 8), "m.lora_down.weight": torch.ones(8, 3)}
    if alpha is not None:
        tensors["m.alpha"] = torch.tensor(alpha)
    (entry,) = parse(tensors).entries
    assert entry.adapter.scale == (1 if alpha is None else alpha / 8)


def test_lokr_with_whole_matrices_has_no_scale_and_no_use_for_an_infinite_alpha():
    whole = {"m.lokr_w1": torch.ones(2, 2), "m.lokr_w2": torch.ones(2, 2)}
    for alpha in (0.0, 1.0, 1e10, float("inf")):
        (entry,) = parse({**whole, "m.alpha": torch.tensor(alpha)}).entries
        assert entry.adapter.scale == 1
    half = {"m.lokr_w1": torch.ones(2, 2), "m.lokr_w2_a": torch.ones(2, 1), "m.lokr_w2_b": torch.ones(1, 2)}
    (entry,) = parse({**half, "m.alpha": torch.tensor(float("inf"))}).entries
    assert entry.adapter.scale == 1


def test_old_glora_is_told_from_new_by_its_shapes():
    generator = torch.Generator().manual_seed(1)
    a_up, a_down, b_up, b_down = (torch.randn(s, generator=generator) for s in ((5, 2), (2, 5), (7, 2), (2, 5)))
    weight = torch.randn(7, 5, generator=generator)
    expected = weight @ a_up @ a_down + b_up @ b_down
    new = {"m.a1.weight": a_up, "m.a2.weight": a_down, "m.b1.weight": b_up, "m.b2.weight": b_down}
    old = {"m.a1.weight": a_down, "m.a2.weight": a_up, "m.b1.weight": b_down, "m.b2.weight": b_up}
    for tensors in (new, old):
        (entry,) = parse(tensors).entries
        assert torch.allclose(entry.adapter.delta(weight, dtype=torch.float32), expected, atol=1e-5)


def test_ia3_of_lycoris_takes_a_plain_weight_only_with_its_flag():
    contents = parse({"m.weight": torch.ones(4), "m.on_input": torch.tensor(0), "other.weight": torch.ones(4)})
    assert [entry.adapter.name for entry in contents.entries] == ["IA3"]
    assert contents.leftovers == {"other.weight": "unknown kind of tensor"}


def test_ia3_of_peft_changes_a_bias_where_there_is_one():
    """PEFT scales the output after the bias was added; a layer without a bias lacks nothing."""
    output = parse({"base_model.model.m.ia3_l": torch.full((4, 1), 3.0)}).entries
    assert [(entry.parameter, entry.optional) for entry in output] == [("weight", False), ("bias", True)]
    assert torch.equal(output[1].adapter.apply_(torch.ones(4), 0.5, torch.float32), torch.full((4,), 2.0))
    assert [entry.parameter for entry in parse({"base_model.model.m.ia3_l": torch.full((1, 4), 3.0)}).entries] == [
        "weight"
    ]


@pytest.mark.parametrize(
    ("tensors", "method"),
    [
        ({"m.vera_lambda_b": 1, "m.vera_lambda_d": 1}, "VeRA"),
        ({"m.oft_r.default": 3}, "PEFT's OFT from before"),
        ({"m.fourierft_spectrum": 1}, "FourierFT"),
        ({"m.hra_u.default": 2}, "HRA"),
        ({"m.miss_block": 2}, "MiSS"),
        ({"m.shira_weight": 1}, "SHiRA"),
        ({"m.vblora_logits_A.default": 3}, "VB-LoRA"),
        ({"m.loretta_cores.0": 2}, "LoRETTA"),
        ({"internal_xlora_classifier.layers.0.weight": 2}, "X-LoRA"),
        ({"m.lora_embedding_A.default": 2, "m.lora_embedding_B.default": 2}, "embedding"),
        ({"m.a1.weight": 2, "m.a2.weight": 2, "m.b1.weight": 2, "m.b2.weight": 2, "m.bm.weight": 4}, "Tucker core"),
    ],
)
def test_methods_that_cannot_be_applied_are_refused_by_name(tensors, method):
    """All of the module, so that no half of it is taken for something else."""
    contents = parse({key: torch.ones([2] * ndim) for key, ndim in tensors.items()})
    assert contents.entries == ()
    assert set(contents.leftovers) == set(tensors)
    assert all(method in reason and "not supported" in reason for reason in contents.leftovers.values())


def test_a_layer_that_is_named_like_a_method_is_a_layer():
    assert not parse(lora("blocks.0.q_layer")).leftovers
    assert not parse(lora("blocks.0.road_encoder")).leftovers


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("lora_down.weight", "lora_up without lora_down"),
        ("lora_up.weight", "lora_down without lora_up"),
        ("hada_w2_b", "hada_w1_a and hada_w1_b and hada_w2_a without hada_w2_b"),
        ("lokr_w2", "lokr_w1 without lokr_w2"),
        ("boft_s", "boft_R without boft_s"),
    ],
)
def test_half_an_adapter_says_which_half_is_missing(missing, reason):
    families = (
        ("lora_up.weight", "lora_down.weight"),
        ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
        ("lokr_w1", "lokr_w2"),
        ("boft_R", "boft_s"),
    )
    names = next(family for family in families if missing in family)
    contents = parse({f"m.{name}": torch.ones(2, 2) for name in names if name != missing})
    assert contents.entries == ()
    assert set(contents.leftovers.values()) == {reason}


def test_doubled_roles_are_left_over():
    contents = parse({**lora(), "m.lora_A.weight": torch.ones(1, 3)})
    assert contents.leftovers == {"m.lora_A.weight": "the same as m.lora_down.weight"}


SUFFIXES = sorted(suffix.replace("*", "default") for suffix in state_dict._SUFFIXES)
SHAPES = st.lists(st.integers(0, 3), max_size=5)
WEIGHT = st.lists(st.integers(1, 3), max_size=5)  # no model has an empty weight
CONFIGS = st.dictionaries(
    st.sampled_from(
        ["r", "lora_alpha", "alpha", "peft_type", "alpha_pattern", "rank_pattern", "feedforward_modules", "use_rslora"]
    ),
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.sampled_from(["LOKR", "IA3", "OFT", "(", "m"])
    | st.dictionaries(st.text(), st.integers()),
)


@given(tensors=st.dictionaries(st.sampled_from(SUFFIXES), SHAPES, max_size=6), config=st.none() | CONFIGS, shape=WEIGHT)
@settings(max_examples=400)
def test_no_file_however_broken_raises(tensors, config, shape):
    """Every tensor is either used or left over with a reason, and every adapter can say whether a weight fits it."""
    file = {f"m{suffix}": torch.ones(dims) for suffix, dims in tensors.items()}
    contents = parse(file, {}, config)
    used = {key for entry in contents.entries for key in entry.keys}
    assert used | set(contents.leftovers) == set(file)
    assert not used & set(contents.leftovers)
    for entry in contents.entries:
        target = tuple(shape)
        if entry.adapter.mismatch(target) is None:
            delta = entry.adapter.delta(torch.ones(target, dtype=torch.float64), 0.5)
            assert delta.shape == (entry.adapter.shape_after or target)


@pytest.mark.parametrize(("alpha", "refused"), [(3.9e6, False), (4.1e6, True), (-4.1e6, True)])
def test_a_scale_beyond_a_million_is_damage(alpha, refused):
    found = parse(
        {"m.lora_up.weight": torch.ones(8, 4), "m.lora_down.weight": torch.ones(4, 8), "m.alpha": torch.tensor(alpha)}
    )
    assert bool(found.leftovers) == refused == (not found.entries)
