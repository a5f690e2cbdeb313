"""Where ComfyUI's own loader leaves the trainer, case by case: the trainer's weight, ours, and core's.

Each case holds the trainer's formula in full, so that a core that gets it right one day fails here and the help page can be corrected.
"""

import json

import comfy.lora
import comfy.weight_adapter
import pytest
import torch

from strata.lora_math.reading import state_dict

OUT, IN = 8, 6


def random(*shape, seed=0, spread=0.4):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread


def by_core(tensors, weight, strength=1.0):
    """The weight after core has loaded and applied the file."""
    patches = comfy.lora.load_lora(dict(tensors), {"m": "m.weight"}, log_missing=False)
    listed = [(strength, patches[key], 1.0, None, None) for key in ("m.weight",) if key in patches]
    return comfy.lora.calculate_weight(listed, weight.clone(), "m.weight")


def by_us(tensors, weight, strength=1.0, metadata=None):
    """The weight after we have."""
    result = weight.clone()
    for entry in state_dict.parse(tensors, metadata).entries:
        if entry.parameter == "weight":
            assert entry.adapter.mismatch(tuple(weight.shape)) is None
            result = entry.adapter.apply_(result, strength, torch.float32)
    return result


def close(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-5)


def cayley(blocks, limit=None):
    q = blocks - blocks.transpose(-1, -2)
    if limit is not None and q.norm() > limit:
        q = q * limit / q.norm()
    eye = torch.eye(q.shape[-1])
    return (eye + q) @ torch.linalg.inv(eye - q)


def turn(turns, weight):
    """R^T W."""
    return torch.block_diag(*turns).T @ weight


def test_a_plain_lora_is_the_same_in_both():
    """The yardstick: nothing below comes from how this file compares."""
    weight = random(OUT, IN)
    tensors = {
        "m.lora_up.weight": random(OUT, 2, seed=1),
        "m.lora_down.weight": random(2, IN, seed=2),
        "m.alpha": torch.tensor(3.0),
    }
    trained = weight + 0.7 * 1.5 * tensors["m.lora_up.weight"] @ tensors["m.lora_down.weight"]
    assert close(by_us(tensors, weight, 0.7), trained)
    assert close(by_core(tensors, weight, 0.7), trained)


@pytest.mark.parametrize("strength", [0.5, -1.0, 2.0])
def test_oft_strength_counts_twice_and_loses_its_sign(strength):
    weight, blocks = random(OUT, IN), random(2, 4, 4, seed=1)
    change = turn(cayley(blocks), weight) - weight
    tensors = {"m.oft_blocks": blocks}
    assert close(by_us(tensors, weight, strength), weight + strength * change)
    assert close(by_core(tensors, weight, strength), weight + strength**2 * change)


def test_oft_rescale_is_ignored():
    weight, blocks, rescale = random(OUT, IN), random(2, 4, 4, seed=1), 1 + random(OUT, 1, seed=2)
    tensors = {"m.oft_blocks": blocks, "m.rescale": rescale}
    turned = turn(cayley(blocks), weight)
    assert close(by_us(tensors, weight), rescale * turned)
    assert close(by_core(tensors, weight), turned)


def test_oft_constraint_is_not_multiplied_by_the_outputs():
    weight, blocks = random(OUT, IN), random(2, 4, 4, seed=1)
    tensors = {"m.oft_blocks": blocks, "m.alpha": torch.tensor(0.1)}
    assert close(by_us(tensors, weight), turn(cayley(blocks, 0.1 * OUT), weight))
    assert close(by_core(tensors, weight), turn(cayley(blocks, 0.1), weight))


def butterfly(turns, weight, strength):
    """LyCORIS ``functional/boft.py``: blocks of 2 at distance 1, then 2, every stage drawn towards the identity."""
    result = weight.clone()
    for stage, blocks in enumerate(turns):
        blocks = strength * blocks + (1 - strength) * torch.eye(2)
        apart = 2**stage
        pairs = [(i, i + apart) for i in range(OUT) if not i & apart]
        before = result.clone()
        for block, (first, second) in zip(blocks, pairs, strict=True):
            result[first] = block[0, 0] * before[first] + block[0, 1] * before[second]
            result[second] = block[1, 0] * before[first] + block[1, 1] * before[second]
    return result


def test_boft_strength_is_multiplied_in_once_more():
    weight, blocks = random(OUT, IN), random(2, 4, 2, 2, seed=1)
    trained = butterfly(cayley(blocks), weight, 0.5)
    tensors = {"m.oft_blocks": blocks, "m.alpha": torch.tensor(0.0)}
    assert close(by_us(tensors, weight, 0.5), trained)
    assert close(by_core(tensors, weight, 0.5), weight + 0.5 * (trained - weight))


def test_boft_without_alpha_does_nothing():
    weight, blocks = random(OUT, IN), random(2, 4, 2, 2, seed=1)
    assert close(by_us({"m.oft_blocks": blocks}, weight), butterfly(cayley(blocks), weight, 1.0))
    assert close(by_core({"m.oft_blocks": blocks}, weight), weight)


def dora_parts(weight, seed=1):
    up, down = random(weight.shape[0], 2, seed=seed), random(2, weight[0].numel(), seed=seed + 1)
    tensors = {"m.lora_up.weight": up, "m.lora_down.weight": down, "m.alpha": torch.tensor(2.0)}
    return tensors, weight + (up @ down).reshape(weight.shape)


def test_dora_on_the_output_axis_takes_the_norm_of_the_wrong_weight():
    weight, magnitude = random(OUT, IN), 1 + random(OUT, 1, seed=3)
    tensors, direction = dora_parts(weight)
    tensors["m.dora_scale"] = magnitude
    assert close(by_us(tensors, weight), magnitude * direction / direction.norm(dim=1, keepdim=True))
    assert close(by_core(tensors, weight), magnitude * direction / weight.norm(dim=1, keepdim=True))


def test_dora_on_the_input_axis_is_the_same_in_both():
    weight, magnitude = random(OUT, IN), 1 + random(1, IN, seed=3)
    tensors, direction = dora_parts(weight)
    tensors["m.dora_scale"] = magnitude
    trained = weight + 0.6 * (magnitude * direction / direction.norm(dim=0, keepdim=True) - weight)
    assert close(by_us(tensors, weight, 0.6), trained)
    assert close(by_core(tensors, weight, 0.6), trained)


@pytest.mark.parametrize("inputs", [IN, OUT])
def test_one_dimensional_magnitudes_go_along_the_wrong_axis(inputs):
    """Nothing happens where the weight is not square; where it is, rows are scaled as columns."""
    weight, magnitude = random(OUT, inputs), 1 + random(OUT, seed=3)
    tensors, direction = dora_parts(weight)
    tensors["m.dora_scale"] = magnitude
    trained = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    assert close(by_us(tensors, weight), trained)
    assert not close(by_core(tensors, weight), trained)


def test_magnitudes_of_peft_are_not_read():
    weight, magnitude = random(OUT, IN), 1 + random(OUT, seed=3)
    _, direction = dora_parts(weight)
    tensors = {"m.lora_B.weight": random(OUT, 2, seed=1), "m.lora_A.weight": random(2, IN, seed=2)}
    tensors["m.lora_magnitude_vector"] = magnitude
    assert close(by_us(tensors, weight), magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True))
    assert close(by_core(tensors, weight), direction)


def test_lokr_tucker_does_nothing():
    weight = random(OUT, IN, 3, 3)
    w1, a, b, core = random(2, 3, seed=1), random(2, 4, seed=2), random(2, 2, seed=3), random(2, 2, 3, 3, seed=4)
    right = torch.einsum("pqhw,pi,qj->ijhw", core, a, b)
    trained = weight + torch.einsum("ac,bdhw->abcdhw", w1, right).reshape(weight.shape)
    tensors = {"m.lokr_w1": w1, "m.lokr_w2_a": a, "m.lokr_w2_b": b, "m.lokr_t2": core, "m.alpha": torch.tensor(2.0)}
    assert close(by_us(tensors, weight), trained)
    assert close(by_core(tensors, weight), weight)


@pytest.mark.parametrize("kernel", [(3,), (1, 3, 2)])
def test_lokr_of_conv1d_and_conv3d_mixes_up_its_axes(kernel):
    weight, w1, w2 = random(OUT, IN, *kernel), random(2, 3, seed=1), random(4, 2, *kernel, seed=2)
    trained = weight + torch.einsum("ac,bd...->abcd...", w1, w2).reshape(weight.shape)
    tensors = {"m.lokr_w1": w1, "m.lokr_w2": w2}
    assert close(by_us(tensors, weight), trained)
    assert not close(by_core(tensors, weight), trained)


def test_loha_stored_as_convolutions_is_not_applied():
    weight = random(OUT, IN, 1, 1)
    ups, downs = [random(OUT, 2, 1, 1, seed=s) for s in (1, 2)], [random(2, IN, 1, 1, seed=s) for s in (3, 4)]
    halves = [torch.einsum("orhw,rihw->oihw", up, down) for up, down in zip(ups, downs, strict=True)]
    tensors = {"m.hada_w1_a": ups[0], "m.hada_w1_b": downs[0], "m.hada_w2_a": ups[1], "m.hada_w2_b": downs[1]}
    assert close(by_us(tensors, weight), weight + halves[0] * halves[1])
    with pytest.raises(RuntimeError):
        by_core(tensors, weight)


@pytest.mark.parametrize("kernel", [(3,), (1, 3, 2)])
def test_tucker_lora_of_conv1d_and_conv3d_is_not_applied(kernel):
    weight, up, down, core = (
        random(OUT, IN, *kernel),
        random(OUT, 2, seed=1),
        random(2, IN, seed=2),
        random(2, 2, *kernel, seed=3),
    )
    one = [1] * len(kernel)
    tensors = {
        "m.lora_up.weight": up.reshape(OUT, 2, *one),
        "m.lora_down.weight": down.reshape(2, IN, *one),
        "m.lora_mid.weight": core,
    }
    assert close(by_us(tensors, weight), weight + torch.einsum("op,pq...,qi->oi...", up, core, down))
    with pytest.raises((IndexError, RuntimeError)):
        by_core(tensors, weight)


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 64 / 16), (True, 64 / 4)])
def test_alpha_of_peft_is_not_read(stabilized, scale):
    """diffusers keeps it in the header, as JSON."""
    up, down, weight = random(OUT, 16, seed=1), random(16, IN, seed=2), random(OUT, IN)
    tensors = {"m.lora_B.weight": up, "m.lora_A.weight": down}
    header = json.dumps({"transformer.r": 16, "transformer.lora_alpha": 64, "transformer.use_rslora": stabilized})
    assert torch.allclose(
        by_us(tensors, weight, 1.0, {"lora_adapter_metadata": header}), weight + scale * up @ down, atol=1e-4
    )
    assert close(by_core(tensors, weight), weight + up @ down)


def test_ia3_is_unknown():
    weight, w = random(OUT, IN), random(OUT, seed=1)
    tensors = {"m.weight": w, "m.on_input": torch.tensor(0)}
    assert close(by_us(tensors, weight, 0.5), (1 + 0.5 * w)[:, None] * weight)
    assert close(by_core(tensors, weight, 0.5), weight)


def test_a_difference_beside_a_lora_displaces_it():
    weight, diff = random(OUT, IN), random(OUT, IN, seed=5)
    tensors, with_lora = dora_parts(weight)
    tensors["m.diff"] = diff
    assert close(by_us(tensors, weight), with_lora + diff)
    assert close(by_core(tensors, weight), weight + diff)


def test_the_sparse_residue_of_lycoris_is_not_read():
    weight = random(OUT, IN)
    tensors, with_lora = dora_parts(weight)
    tensors |= {
        "m.bias_indices": torch.tensor([[1], [2]]),
        "m.bias_values": torch.tensor([9.0]),
        "m.bias_size": torch.tensor([OUT, IN]),
    }
    trained = with_lora.clone()
    trained[1, 2] += 9
    assert close(by_us(tensors, weight), trained)
    assert close(by_core(tensors, weight), with_lora)


def test_t_lora_is_unknown():
    weight = random(OUT, IN)
    tensors = {"p_layer.weight": random(OUT, 2), "q_layer.weight": random(2, IN), "lambda_layer": random(1, 2)}
    assert close(by_core({f"m.{name}": tensor for name, tensor in tensors.items()}, weight), weight)


def test_rotations_of_peft_and_onetrainer_are_unknown():
    weight, vectors = random(OUT, IN), random(3, 1, seed=1)
    q = torch.zeros(3, 2, 2)
    q[:, 0, 1], q[:, 1, 0] = vectors[:, 0], -vectors[:, 0]
    turns = torch.eye(2) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
    tensors = {"m.oft_R.weight": vectors}
    assert close(by_us(tensors, weight), weight @ torch.block_diag(*turns).T)
    assert close(by_core(tensors, weight), weight)
