"""What is written is read again as what it was: every algorithm, in every style that has a form for it."""

from __future__ import annotations

import pytest
import torch
from adapter_kinds import ALL, SHAPES, build, weight_of
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math.adapters import IA3, Adapter, Diff, DoRA, LoHa, LoKr, LoRA, Padded, PeftOFT, from_record
from strata.lora_math.adapters.lokr import LoKrConv1d
from strata.lora_math.adapters.stored import KOHYA, PEFT, STYLES
from strata.lora_math.errors import StrataError
from strata.lora_math.reading import state_dict
from strata.lora_math.reading.state_dict import Entry
from strata.lora_math.writing.state_dict import write

# What each trainer's format has no form for. All other pairs must be written.
UNWRITABLE = {
    KOHYA: {"PEFT BOFT", "PEFT IA3 on outputs", "PEFT IA3 on no known side", "PEFT LoKr of a conv1d"},
    PEFT: {
        *("LoRA Tucker", "GLoRA", "OFT", "OFT of several runs", "OFT rescaled", "BOFT"),
        *("IA3 output", "sparse", "DoRA input"),
    },
}
MORE = {
    "PEFT IA3 on outputs": lambda r: IA3(r(16), False, True),
    "PEFT IA3 on no known side": lambda r: IA3(r(16), None, True),
    "OFT on the weight's side": lambda r: PeftOFT(r(3, 6), 5, False, True),
    "scaled OFT": lambda r: PeftOFT(r(3, 6), 5, True),
    "PEFT LoKr of a conv1d": lambda r: LoKrConv1d((r(4, 3),), r(4, 4, 3), 0.7),
    "padded": lambda r: Padded(LoRA(r(16, 3), r(3, 12), None, 0.7), (16, 12)),
    "DoRA of LoHa": lambda r: DoRA(LoHa(r(16, 2), r(2, 12), r(16, 2), r(2, 12), scale=0.3), 1 + r(16), 0),
}


def adapter_of(kind: str, layer: str, seed: int) -> Adapter:
    if kind not in MORE:
        return build(kind, layer, seed)
    generator = torch.Generator().manual_seed(seed)
    return MORE[kind](lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator) * 0.4)


def again(adapter: Adapter, style: str) -> Adapter:
    """The adapter after a trip through the keys and the header of a file."""
    written = write([Entry("unet.some.layer", "weight", adapter, ())], style)
    found = state_dict.parse(written.tensors, written.metadata)
    assert not found.leftovers
    (entry,) = (entry for entry in found.entries if not entry.optional)
    assert (entry.module, entry.parameter) == ("unet.some.layer", "weight")
    return entry.adapter


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", [*ALL, *MORE])
@given(seed=st.integers(0, 2**16), layer=st.sampled_from(list(SHAPES)))
@settings(max_examples=8)
def test_reading_undoes_writing(kind, style, seed, layer):
    if kind in MORE:
        layer = "conv1d" if "conv1d" in kind else "linear"
    adapter = adapter_of(kind, layer, seed)
    if kind in UNWRITABLE[style]:
        with pytest.raises(StrataError, match=r"unet\.some\.layer: .* cannot be written"):
            write([Entry("unet.some.layer", "weight", adapter, ())], style)
        return
    found = again(adapter, style)
    assert type(found) is type(adapter)
    weight = weight_of(layer)
    for strength in (1.0, -0.7):
        expected = adapter.delta(weight, strength)
        # alpha is stored in float32, and IA3 in PEFT's files as 1 + w in float32: rounded by 2^-24 of |1 + w|, its change by that of |W|
        # more.
        stored_as_sum = "PEFT IA3" in kind or (kind == "IA3 input" and style == "peft")
        rounding = 2.0**-23 * (weight.abs() + expected.abs()) if stored_as_sum else 0
        bound = 2e-7 * expected.abs() + 1e-7 * float(expected.abs().max()) + rounding
        assert bool(((found.delta(weight, strength) - expected).abs() <= bound).all())


@pytest.mark.parametrize("kind", ALL)
def test_kohya_keeps_every_tensor_to_the_bit(kind):
    """But for those that a scale is multiplied into: of two whole Kronecker factors, and of a difference."""
    if kind in UNWRITABLE[KOHYA] or kind in ("LoKr whole", "diff", "DoRA of LoKr"):
        return
    adapter = build(kind, "conv2d")
    held, found = [], []
    adapter.map_tensors(lambda t: held.append(t) or t)
    again(adapter, KOHYA).map_tensors(lambda t: found.append(t) or t)
    assert len(held) == len(found)
    for one, other in zip(held, found, strict=True):
        assert torch.equal(one.flatten(), other.flatten().to(one.dtype))


@given(alpha=st.floats(1e-3, 1e3), rank=st.integers(1, 64), style=st.sampled_from(STYLES))
@settings(max_examples=60)
def test_the_scale_survives(alpha, rank, style):
    generator = torch.Generator().manual_seed(rank)
    adapter = LoRA(
        torch.randn(5, rank, generator=generator), torch.randn(rank, 7, generator=generator), None, alpha / rank
    )
    weight = torch.zeros(5, 7, dtype=torch.float64)
    expected = adapter.delta(weight)
    assert torch.allclose(
        again(adapter, style).delta(weight), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())
    )


def test_the_exact_cayley_transform_is_said_in_the_header():
    generator = torch.Generator().manual_seed(0)
    for terms in (0, 3, 5):
        adapter = PeftOFT(torch.randn(3, 6, generator=generator) * 0.2, terms)
        assert again(adapter, PEFT).terms == terms
    both = [Entry(f"m{t}", "weight", PeftOFT(torch.zeros(3, 6), t), ()) for t in (0, 3)]
    with pytest.raises(StrataError, match="Cayley"):
        write(both, PEFT)


def test_a_bias_goes_along_and_what_follows_from_another_does_not():
    entries = [
        Entry("m", "weight", LoRA(torch.ones(4, 1), torch.ones(1, 3)), ()),
        Entry("m", "bias", Diff(torch.arange(4.0), 0.5), ()),
    ]
    found = {e.parameter: e.adapter for e in state_dict.parse(write(entries, PEFT).tensors).entries}
    assert torch.equal(found["bias"].delta(torch.zeros(4), 1.0), torch.arange(4.0, dtype=torch.float64) / 2)
    scaling = IA3(torch.ones(4), False, True)
    entries = [Entry("m", "weight", scaling, ()), Entry("m", "bias", scaling.bias_adapter(), (), optional=True)]
    assert set(write(entries, PEFT).tensors) == {"m.ia3_l"}


def test_one_key_for_two_things_is_refused():
    entries = [Entry("m", "weight", LoRA(torch.ones(4, 1), torch.ones(1, 3), None, scale), ()) for scale in (2.0, 3.0)]
    with pytest.raises(StrataError, match=r"m: .*twice"):
        write(entries, KOHYA)


def test_what_lives_only_in_memory_is_refused_by_name():
    part = LoKr((torch.ones(2, 2),), (torch.ones(4, 3),)).cut(0, 4, 8)
    with pytest.raises(StrataError, match="rows is never stored"):
        from_record(part.record()).write(KOHYA)


def test_an_alpha_that_is_a_tensor_is_not_said_a_second_time():
    """A header that says it too would count in readers that look there first."""
    tensors, rule = LoRA(torch.ones(8, 4), torch.ones(4, 6), None, 0.5).write(KOHYA)
    assert float(tensors[".alpha"]) == 2
    assert rule.alpha is None
