"""Files that claim more than they hold cost what they hold."""

import pytest
import torch
from deadline import deadline

from strata.lora_math.adapters import LoHa, LoKr
from strata.lora_math.reading import state_dict
from strata.lora_math.reading.peft_config import MAX_PACKED


def loha(out, columns, rank, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((out, rank), (rank, columns), (out, rank), (rank, columns))
    return LoHa(*(torch.randn(shape, generator=generator) for shape in shapes), scale=0.5)


@pytest.mark.parametrize(("out", "columns", "rank"), [(700, 900, 2), (900, 700, 3), (60, 4000, 2), (300, 300, 16)])
def test_the_energy_of_a_loha_is_that_of_its_change_either_way(out, columns, rank):
    """Of low rank it is a product of rank r^2, of higher rank rows at a time."""
    adapter = loha(out, columns, rank)
    exact = float(adapter.delta(torch.zeros(out, columns, dtype=torch.float64), 1.0).square().sum())
    assert adapter.squared_norm((out, columns)) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("rank", [4, 64])
def test_a_loha_for_a_weight_larger_than_any(rank):
    """It claims ten thousand million numbers: 40 GB in single precision."""
    adapter = loha(100_000, 100_000, rank)
    with deadline(60):
        found = adapter.squared_norm((100_000, 100_000))
    assert (found is None) == (rank == 64)


def test_a_tucker_lokr_for_a_weight_larger_than_any():
    generator = torch.Generator().manual_seed(2)
    core = torch.randn(4, 4, 3, 3, generator=generator)
    sides = torch.randn(4, 100_000, generator=generator), torch.randn(4, 100_000, generator=generator)
    with deadline(60):
        assert LoKr((torch.ones(1, 1),), (*sides, core), 1.0).squared_norm((100_000, 100_000, 3, 3)) > 0
    small = tuple(side[:, :50] for side in sides)
    adapter = LoKr((torch.ones(1, 1),), (*small, core), 1.0)
    exact = float(adapter.delta(torch.zeros(50, 50, 3, 3, dtype=torch.float64), 1.0).square().sum())
    assert adapter.squared_norm((50, 50, 3, 3)) == pytest.approx(exact, rel=1e-4)


def test_rules_longer_than_any_are_a_reason_and_not_read():
    tensors = {"unet.to_q.lora_A.weight": torch.ones(2, 4), "unet.to_q.lora_B.weight": torch.ones(4, 2)}
    with deadline():
        found = state_dict.parse(tensors, {"lora_adapter_metadata": "[" * (MAX_PACKED + 1)})
    assert not found.entries
    assert all("more than any LoRA needs" in reason for reason in found.leftovers.values())
