"""Formats whose trainers are no libraries: what kohya's sd-scripts and OneTrainer compute, written out with full-size matrices."""

import math

import pytest
import torch
from reference_layers import by_forward, by_weight, error, make, run
from torch import Tensor

from strata.lora_math.reading import state_dict


def full_turn(blocks: Tensor, alpha: float, out: int, multiplier: float = 1.0) -> Tensor:
    """sd-scripts ``networks/oft.py``, ``get_weight``, as one [out, out] matrix."""
    q = blocks - blocks.transpose(1, 2)
    norm = torch.linalg.vector_norm(q)
    if norm > alpha * out:
        q = q / norm * (alpha * out)
    eye = torch.eye(blocks.shape[1], dtype=torch.float64)
    turns = (eye + q) @ torch.linalg.inv(eye - q)
    return torch.block_diag(*(multiplier * (turns - eye) + eye))


def check(saved, after, module, x, strength=1.0, metadata=None):
    contents = state_dict.parse(saved, metadata)
    assert not contents.leftovers
    assert error(by_weight(contents, module, x, strength), after, module(x)) < 1e-6
    assert error(by_forward(contents, module, x, strength), after, module(x)) < 1e-6


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
@pytest.mark.parametrize("alpha", [10.0, 0.01])
@pytest.mark.parametrize("multiplier", [1.0, -0.5])
def test_kohya_oft(kind, alpha, multiplier):
    module, x = make(kind)
    blocks = torch.randn(4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.3
    weight = torch.einsum("nm,n...->m...", full_turn(blocks, alpha, 16, multiplier), module.weight)
    saved = {"oft_unet_m.oft_blocks": blocks, "oft_unet_m.alpha": torch.tensor(alpha)}
    check(saved, run(module, weight, None, x), module, x, strength=multiplier)


def test_kohya_oft_of_flux():
    """``oft_flux.py`` turns q, k, v and the mlp each on its own, with a limit and a block size of its own."""
    module, x = make("linear", outputs=28)
    dims, generator = (4, 4, 4, 16), torch.Generator().manual_seed(1)
    blocks = [torch.randn(2, dim // 2, dim // 2, dtype=torch.float64, generator=generator) * 0.4 for dim in dims]
    turn = torch.block_diag(*(full_turn(block, 0.05, dim) for block, dim in zip(blocks, dims, strict=True)))
    after = run(module, turn.T @ module.weight, None, x)
    saved = {f"oft_unet_m.oft_blocks.{i}": block for i, block in enumerate(blocks)} | {
        "oft_unet_m.alpha": torch.tensor(0.05)
    }
    check(saved, after, module, x)


@pytest.mark.parametrize("kind", ["linear", "conv2d_1x1", "conv2d"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_onetrainer_oft(kind, shared, scaled):
    """``LoRAModule.py``, ``OFTModule.forward``: linear layers turn their input, convolutions their weight, which is the other direction."""
    module, x = make(kind)
    columns, size = module.weight[0].numel(), 4
    vectors = (
        torch.randn(
            1 if shared else columns // size, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        * 0.3
    )
    q = torch.zeros(len(vectors), size, size, dtype=torch.float64)
    for block, vector in zip(q, vectors, strict=True):
        for (row, column), value in zip(((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), vector.tolist(), strict=True):
            block[row, column], block[column, row] = value, -value
    q = q / (2 * math.sqrt(3)) if scaled else q
    turns = torch.eye(size, dtype=torch.float64) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
    turn = torch.block_diag(*(turns.expand(columns // size, -1, -1)))
    weight = (module.weight.flatten(1) @ (turn.T if kind == "linear" else turn)).reshape(module.weight.shape)
    saved = {"lora_unet_m.oft_R.weight": vectors} | (
        {"lora_unet_m.oft_R.scaled_oft": torch.tensor(True)} if scaled else {}
    )
    contents = state_dict.parse(saved)
    after = run(module, weight, None, x)
    assert not contents.leftovers
    assert error(by_weight(contents, module, x), after, module(x)) < 1e-6
    if kind == "conv2d":
        assert by_forward(contents, module, x) is None
    else:
        assert error(by_forward(contents, module, x), after, module(x)) < 1e-6


def test_onetrainer_loha_of_a_1x1_convolution():
    """OneTrainer stores LoHa's factors as convolution weights, four axes each; ComfyUI 0.30 cannot read those."""
    module, x = make("conv2d_1x1")
    generator = torch.Generator().manual_seed(1)
    ups = [torch.randn(16, 2, 1, 1, dtype=torch.float64, generator=generator) for _ in range(2)]
    downs = [torch.randn(2, 12, 1, 1, dtype=torch.float64, generator=generator) for _ in range(2)]
    halves = [torch.einsum("orhw,rihw->oihw", up, down) for up, down in zip(ups, downs, strict=True)]
    after = run(module, module.weight + halves[0] * halves[1] * 3 / 2, None, x)
    saved = {"m.hada_w1_a": ups[0], "m.hada_w1_b": downs[0], "m.hada_w2_a": ups[1], "m.hada_w2_b": downs[1]}
    check(saved | {"m.alpha": torch.tensor(3.0)}, after, module, x)


SPLIT = {"ss_network_module": "networks.lora_flux", "ss_network_args": '{"train_blocks": "all", "split_qkv": "True"}'}


def joined(dims, rank, inputs=12):
    """(state dict, weight change) as ``lora_flux.py`` trains separate LoRAs and then joins them, with alpha 2."""
    generator = torch.Generator().manual_seed(1)
    downs = [torch.randn(rank, inputs, dtype=torch.float64, generator=generator) for _ in dims]
    ups = [torch.randn(dim, rank, dtype=torch.float64, generator=generator) for dim in dims]
    change = torch.cat([up @ down * (2 / rank) for up, down in zip(ups, downs, strict=True)])
    return {
        ".lora_down.weight": torch.cat(downs),
        ".lora_up.weight": torch.block_diag(*ups),
        ".alpha": torch.tensor(2.0),
    }, change


@pytest.mark.parametrize(
    ("module", "dims"),
    [("lora_unet_double_blocks_3_img_attn_qkv", (4, 4, 4)), ("lora_unet_single_blocks_7_linear1", (4, 4, 4, 16))],
)
def test_split_qkv_is_applied_as_it_was_trained(module, dims):
    saved, change = joined(dims, rank=2)
    contents = state_dict.parse({module + suffix: tensor for suffix, tensor in saved.items()}, SPLIT)
    assert torch.allclose(contents.entries[0].adapter.delta(change), change, rtol=0, atol=1e-12)
    assert len(contents.notes) == 1
    assert "split_qkv" in contents.notes[0]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {**SPLIT, "ss_network_args": '{"split_qkv": "False"}'},
        {**SPLIT, "ss_network_args": "not JSON"},
        {**SPLIT, "ss_network_module": "networks.lora"},
    ],
)
def test_other_files_keep_their_alpha(metadata):
    saved, change = joined((4, 4, 4), rank=2)
    name = "lora_unet_double_blocks_3_img_attn_qkv"
    contents = state_dict.parse({name + suffix: tensor for suffix, tensor in saved.items()}, metadata)
    assert torch.allclose(contents.entries[0].adapter.delta(change), change / 3, rtol=0, atol=1e-12)
    assert contents.notes == ()


@pytest.mark.parametrize("entry", [(0, 2), (4, 0)])
def test_split_qkv_that_was_resized_since_keeps_its_alpha(entry):
    """A resized file still carries the trainer's arguments, but its ups are dense and its alpha was set for the new rank."""
    saved, _ = joined((4, 4, 4), rank=2)
    saved[".lora_up.weight"][entry] = 0.01
    name = "lora_unet_double_blocks_3_img_attn_qkv"
    contents = state_dict.parse({name + suffix: tensor for suffix, tensor in saved.items()}, SPLIT)
    assert contents.entries[0].adapter.scale == 2 / 6
    assert contents.notes == ()
