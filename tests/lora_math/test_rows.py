"""A change of q, k and v as one layer, cut up for a model that has them apart: the parts put together are the whole."""

from __future__ import annotations

import pytest
import torch

from strata.lora_math.adapters import from_record
from strata.lora_math.reading import state_dict

SIZES, INPUTS = (24, 8, 8), 16
TOTAL = sum(SIZES)
FILES = {
    "LoRA": {"lora_up.weight": (TOTAL, 4), "lora_down.weight": (4, INPUTS)},
    "DoRA": {"lora_up.weight": (TOTAL, 4), "lora_down.weight": (4, INPUTS), "dora_scale": (TOTAL, 1)},
    "LoHa": {"hada_w1_a": (TOTAL, 2), "hada_w1_b": (2, INPUTS), "hada_w2_a": (TOTAL, 2), "hada_w2_b": (2, INPUTS)},
    "LoKr": {"lokr_w1": (4, 4), "lokr_w2": (TOTAL // 4, INPUTS // 4)},
    "DoRA over LoHa": {
        "hada_w1_a": (TOTAL, 2), "hada_w1_b": (2, INPUTS), "hada_w2_a": (TOTAL, 2), "hada_w2_b": (2, INPUTS), "dora_scale": (TOTAL, 1),
    },
    "diff": {"diff": (TOTAL, INPUTS)},
}  # fmt: skip


def adapter_of(shapes: dict):
    generator = torch.Generator().manual_seed(4)
    tensors = {
        f"x.{suffix}": torch.randn(shape, generator=generator, dtype=torch.float64) for suffix, shape in shapes.items()
    }
    (entry,) = state_dict.parse(tensors).entries
    return entry.adapter


@pytest.mark.parametrize("kind", FILES)
def test_parts_make_the_whole(kind):
    adapter = adapter_of(FILES[kind])
    weight = torch.randn(TOTAL, INPUTS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    whole = adapter.delta(weight, 0.7)
    start = 0
    for size in SIZES:
        part = adapter.cut(start, size, TOTAL)
        rows = weight[start : start + size]
        assert part.mismatch((size, INPUTS)) is None
        assert part.mismatch((size + 1, INPUTS)) is not None
        expected = whole[start : start + size]
        torch.testing.assert_close(part.delta(rows, 0.7), expected, rtol=1e-12, atol=1e-12)
        moved = from_record(part.record())  # as it travels through ComfyUI
        torch.testing.assert_close(
            moved.apply_(rows.clone(), 0.7, torch.float64), rows + expected, rtol=1e-12, atol=1e-12
        )
        factors = part.factors(torch.float64)
        if factors is not None:
            torch.testing.assert_close(0.7 * factors[0] @ factors[1], expected, rtol=1e-12, atol=1e-12)
        start += size


def test_what_needs_the_whole_weight_is_not_cut():
    rotation = adapter_of({"oft_blocks": (4, TOTAL // 4, TOTAL // 4)})
    assert rotation.cut(0, 8, TOTAL) is None


def test_a_dora_over_the_inputs_is_cut_but_waits_for_the_norms_of_all_rows():
    on_inputs = adapter_of({**FILES["LoRA"], "dora_scale": (1, INPUTS)})
    part = on_inputs.cut(0, 8, TOTAL)
    assert part.shared
    assert part.c is None


def test_a_change_of_another_height_is_not_cut():
    assert adapter_of(FILES["LoRA"]).cut(0, 8, TOTAL + 8) is None
