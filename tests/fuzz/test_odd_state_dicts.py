"""hypothesis over every algorithm's tensors in right and wrong shapes: nothing is lost, nothing raises, what fits can be computed."""

import math
from random import Random

import odd_state_dicts
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from laws import little_memory

from strata.lora_math import family
from strata.lora_math.adapters import Adapter, from_record
from strata.lora_math.errors import StrataError
from strata.lora_math.extremes import largest
from strata.lora_math.fuse import apply_all_
from strata.lora_math.reading import state_dict

WEIGHTS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (16, 8),
    "lora_unet_down_blocks_0_resnets_0_conv1": (8, 4, 3, 3),
    "transformer.transformer_blocks.0.attn.to_q": (12, 12),
    "diffusion_model.blocks.0.norm": (8,),
    "diffusion_model.x.conv": (8, 4, 3),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (8, 8),
}
SHAPES = [*WEIGHTS.values(), (), (0,), (0, 4), (8, 0), (1, 1), (4, 2, 1, 2, 2)]
seeds = st.randoms(use_true_random=False)
quickly = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=[Phase.generate],  # a smaller example takes minutes to find and says no more
)


@quickly
@given(seeds)
def test_every_tensor_is_used_or_left_over_with_a_reason(rng):
    tensors = odd_state_dicts.draw(rng, WEIGHTS)
    metadata = odd_state_dicts.draw_metadata(rng, list(WEIGHTS)) if rng.random() < 0.5 else {}
    found = state_dict.parse(tensors, metadata)
    used = {key for entry in found.entries for key in entry.keys}
    assert used.isdisjoint(found.leftovers)
    assert used | found.leftovers.keys() == tensors.keys()
    assert all(found.leftovers.values())
    for entry in found.entries:
        assert math.isfinite(getattr(entry.adapter, "scale", 0.0))
        assert isinstance(from_record(entry.adapter.record()), type(entry.adapter))
    guess = family.guess(found.entries, metadata)
    assert guess.family in (None, *guess.families)
    assert guess.family is not None or len(guess.families) != 1


@quickly
@given(seeds)
def test_an_adapter_that_fits_a_shape_changes_a_weight_of_it_in_every_number_type(rng):
    for entry in state_dict.parse(odd_state_dicts.draw(rng, WEIGHTS)).entries:
        for shape in SHAPES:
            if entry.adapter.mismatch(shape) is None and 0 not in shape:  # no model has an empty weight
                _change(entry.adapter, shape, rng.choice((torch.float32, torch.bfloat16, torch.float16)))


def _change(adapter: Adapter, shape, dtype) -> None:
    weight = torch.ones(shape, dtype=dtype)
    changed = apply_all_(weight.clone(), [(0.5, adapter)], torch.float32)
    assert changed.shape == (adapter.shape_after or shape)
    assert changed.dtype == dtype
    energy = adapter.squared_norm(shape)
    assert energy is None or not energy < 0
    tensors = []
    adapter.map_tensors(lambda tensor: tensors.append(tensor) or tensor)
    if all(largest(tensor.double()) < 10 for tensor in tensors if not tensor.is_complex()):
        assert changed.isfinite().all()


@pytest.mark.parametrize("seed", range(20))
def test_several_on_one_weight_are_what_one_after_the_other_is(seed):
    """Paddings among them: what follows one was made for the weight as it was."""
    rng = Random(seed)
    tensors = odd_state_dicts.draw(rng, {"lora_unet_x": (8, 4)})
    plain = [e.adapter for e in state_dict.parse(tensors).entries if e.adapter.mismatch((8, 4)) is None]
    wide = state_dict.parse(
        {
            "w.lora_up.weight": torch.ones(8, 1),
            "w.lora_down.weight": torch.ones(1, 6),
            "w.reshape_weight": torch.tensor([8, 6]),
        }
    ).entries[0]
    plain = [adapter for adapter in plain if adapter.shape_after is None and not adapter.needs_weight]
    terms = [(0.5, adapter) for adapter in plain]
    weight = torch.randn(8, 4)
    expected = torch.full((8, 6), 2.0)
    expected[:, :4] += weight
    for coefficient, adapter in terms:
        expected[:, :4] += adapter.delta(weight, coefficient, torch.float32)
    found = apply_all_(
        weight.clone(), [*terms[:1], (1.0, wide.adapter), *terms[1:], (1.0, wide.adapter)], torch.float32
    )
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize(
    "sizes", [[8, 1 << 20], [float("nan"), 6], [float("inf"), 6], [-8, 6], [8, 6, 1, 1, 1, 1, 1, 1, 1, 1]]
)
def test_a_padding_to_nonsense_is_refused(sizes):
    tensors = {
        "w.lora_up.weight": torch.ones(8, 1),
        "w.lora_down.weight": torch.ones(1, 1 << 20),
        "w.reshape_weight": torch.tensor(sizes),
    }
    found = state_dict.parse(tensors)
    reasons = [entry.adapter.mismatch((8, 4)) for entry in found.entries] or list(found.leftovers.values())
    assert reasons and all("pads" in reason or "reshape_weight" in reason for reason in reasons)


@pytest.mark.parametrize("kind", ["lokr", "hada"])
def test_tucker_factors_with_a_kernel_of_their_own_fit_nothing(kind):
    one, core = torch.ones(2, 4, 1), torch.ones(2, 2, 3)
    tensors = {
        "lokr": {"w1": torch.ones(2, 2), "w2_a": torch.ones(2, 4, 0), "w2_b": one, "t2": core},
        "hada": {"w1_a": torch.ones(2, 4, 2), "w1_b": one, "t1": core, "w2_a": one, "w2_b": one, "t2": core},
    }[kind]
    (entry,) = state_dict.parse({f"x.{kind}_{part}": tensor for part, tensor in tensors.items()}).entries
    assert "are not matrices" in entry.adapter.mismatch((*entry.adapter.matrix_shape,))


def test_the_norm_of_what_claims_to_be_larger_than_any_memory_is_computed_from_what_is_stored():
    sizes = torch.tensor([1 << 20, 1 << 20])
    sparse = {
        "bias_indices": torch.tensor([[0, 5], [1, 7]]),
        "bias_values": torch.tensor([3.0, 4.0]),
        "bias_size": sizes,
    }
    long = torch.ones(1 << 14, 1)  # its change would take 1 GB
    loha = {"hada_w1_a": long, "hada_w1_b": long.T, "hada_w2_a": long, "hada_w2_b": 2 * long.T}
    with little_memory(1 << 26):
        for tensors, norm in ((sparse, 25.0), (loha, 4.0 * (1 << 28))):
            (entry,) = state_dict.parse({f"x.{part}": tensor for part, tensor in tensors.items()}).entries
            assert entry.adapter.squared_norm(entry.adapter.matrix_shape) == pytest.approx(norm)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e30])
def test_an_alpha_beyond_all_sense_is_refused_with_its_number(alpha):
    tensors = {
        "w.lora_up.weight": torch.ones(8, 1),
        "w.lora_down.weight": torch.ones(1, 4),
        "w.alpha": torch.tensor(alpha),
    }
    assert set(state_dict.parse(tensors).leftovers.values()) == {f"its alpha is {alpha:g}"}


def test_the_rule_for_a_scale_raises_nothing_but_ours():
    rule = state_dict.Rule(alpha=1e308, factor=1e308)
    with pytest.raises(StrataError, match="alpha"):
        rule.scale(4)
