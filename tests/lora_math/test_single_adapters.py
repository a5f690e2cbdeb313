"""What holds for one kind of adapter only: rotations, whole weights, DoRA, sparse residues."""

import pytest
import torch
from adapter_kinds import (
    IN,
    OUT,
    build,
    weight_of,
)

from strata.lora_math.adapters import (
    BOFT,
    OFT,
    DoRA,
    LoKr,
    LoRA,
    Padded,
)
from strata.lora_math.reading import state_dict


def test_half_the_strength_of_several_rotations_is_not_half_their_change():
    """BOFT interpolates each of its stages. Its trained weight, at strength 1, is compared with the trainers' own in test_against_*."""
    weight = weight_of("linear")
    for kind in ("BOFT", "PEFT BOFT", "OFT rescaled"):
        adapter = build(kind, "linear")
        half = adapter.delta(weight, 0.5)
        assert half.any()
        assert not torch.allclose(half, adapter.delta(weight) / 2, rtol=0, atol=1e-3)


def test_set_weight_has_no_half_way():
    adapter, weight = build("set", "linear"), weight_of("linear")
    for strength in (0.1, 1.0, -2.0):
        assert torch.allclose(weight + adapter.delta(weight, strength), adapter.value, rtol=0, atol=1e-12)


def test_padded_weight():
    inner = LoRA(torch.ones(4, 1), torch.ones(1, 6))
    padded = Padded(inner, (4, 6))
    weight = torch.arange(12.0).reshape(4, 3)
    result = padded.apply_(weight, 0.5, torch.float32)
    assert result.shape == (4, 6)
    assert torch.equal(result, torch.nn.functional.pad(torch.arange(12.0).reshape(4, 3), (0, 3)) + 0.5)
    assert padded.mismatch((4, 3)) is None
    assert padded.mismatch((5, 3)) is not None


def test_dora_of_a_zero_lora_with_the_models_norms_changes_nothing():
    weight = weight_of("conv2d")
    zero = LoRA(torch.zeros(OUT, 1), torch.zeros(1, IN * 9))
    rows = DoRA(zero, torch.linalg.vector_norm(weight.flatten(1), dim=1), 0)
    columns = DoRA(zero, torch.linalg.vector_norm(weight.transpose(0, 1).flatten(1), dim=1), 1)
    for adapter in (rows, columns):
        assert adapter.delta(weight).abs().max() < 1e-14


def test_a_dora_is_untrained_where_its_lora_is():
    for up, untrained in ((torch.zeros(8, 2), True), (torch.ones(8, 2), False)):
        lora = LoRA(up, torch.ones(2, 6))
        assert lora.is_untrained == untrained
        assert DoRA(lora, torch.ones(8, 1), 0).is_untrained == untrained


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [1e-3, 1e-9])
def test_dora_of_small_weights_divides_by_their_own_norms(axis, size):
    """Embedders and gates have such rows; a row of zeros, which has no direction, stays finite."""
    weight = weight_of("linear") * size
    inner = LoRA(torch.ones(OUT, 1).double() * size, torch.ones(1, IN).double())
    magnitude = torch.linspace(0.5, 2, (OUT, IN)[axis]).double()
    turned = weight + inner.delta(weight)
    shape = (-1, 1) if axis == 0 else (1, -1)
    expected = magnitude.reshape(shape) * turned / turned.norm(dim=1 - axis, keepdim=True) - weight
    assert torch.allclose(DoRA(inner, magnitude, axis).delta(weight), expected, rtol=1e-12, atol=0)
    zeros = torch.zeros_like(weight)
    assert DoRA(LoRA(zeros[:, :1], zeros[:1]), magnitude, axis).delta(zeros).isfinite().all()


def test_sparse_residue_beyond_16_bits():
    """LyCORIS stores row and column as int16; from 32768 on they come out negative."""
    parts = {
        "m.bias_indices": torch.tensor([[0, 1], [40000, 2]]).to(torch.int16),
        "m.bias_values": torch.tensor([3.0, 5.0]),
        "m.bias_size": torch.tensor([2, 50000]).to(torch.int16),
    }
    (entry,) = state_dict.parse(parts).entries
    weight = torch.zeros(2, 50000)
    assert entry.adapter.mismatch((2, 50000)) is None
    entry.adapter.apply_(weight, 2.0, torch.float32)
    assert weight[0, 40000] == 6
    assert weight[1, 2] == 10
    assert weight.count_nonzero() == 2


def test_a_rotation_across_groups_has_no_forward_form():
    """Rows of two groups see different inputs: their weights can be mixed, their outputs are not what that gives."""
    weight = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    assert OFT((torch.ones(4, 4, 4),)).prepared(weight, groups=4) is not None
    assert OFT((torch.ones(2, 8, 8),)).prepared(weight, groups=4) is None
    assert OFT((torch.ones(2, 8, 8),)).prepared(weight, groups=2) is not None
    assert BOFT(torch.ones(1, 4, 4, 4)).prepared(weight, groups=4) is None
    assert BOFT(torch.ones(1, 4, 4, 4)).prepared(weight) is not None


def test_lokr_of_a_column_with_the_steps_of_a_matrix():
    """Contiguous in PyTorch's eyes, and not in its kron's."""
    column = torch.arange(1.0, 9.0).as_strided((4, 1), (1, 2))
    inner = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, -1.0, 5.0]])
    up, down = LoKr((column,), inner).factors(torch.float64)
    assert torch.equal(
        up @ down, torch.kron(column.clone(memory_format=torch.contiguous_format), inner[0] @ inner[1]).double()
    )
