"""Files that PEFT saves, with their adapter_config.json, against PEFT's own forward in float64."""

import json

import peft
import pytest
import safetensors.torch
import torch
from peft.tuners.boft.layer import BOFTLayer
from reference_layers import by_forward, by_weight, error, make

from strata.lora_math.reading import state_dict


class Model(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def train(tmp_path, config, kind, spread=0.3, **size):
    """(tensors, adapter_config, PEFT's output, the layer's own, the layer, the input)."""
    module, x = make(kind, **size)
    plain, _ = make(kind, **size)
    before = plain(x)
    torch.manual_seed(5)
    model = peft.get_peft_model(Model(module), config).double().eval()
    for name, parameter in model.named_parameters():
        if "base_layer" not in name and "ranknum" not in name:
            parameter.data += torch.randn_like(parameter) * spread
    after = model(x).detach()
    model.save_pretrained(tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    return saved, json.loads((tmp_path / "adapter_config.json").read_text()), after, before, plain, x


def check(saved, config, after, before, module, x, forward=True):
    contents = state_dict.parse(saved, config=config)
    assert not contents.leftovers
    assert {entry.module for entry in contents.entries} == {"base_model.model.layer"}
    assert error(by_weight(contents, module, x), after, before) < 1e-6
    if forward:
        assert error(by_forward(contents, module, x), after, before) < 1e-6
    else:
        assert by_forward(contents, module, x) is None


CONVS = ["conv1d", "conv2d", "conv2d_1x1", "conv3d"]  # PEFT's LoRA of a dilated convolution is not dilated, and fails


@pytest.mark.parametrize("kind", ["linear", *CONVS])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}])
def test_lora(tmp_path, kind, options):
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], init_lora_weights=False, **options)
    check(*train(tmp_path, config, kind))


@pytest.mark.parametrize("options", [{"alpha_pattern": {"layer": 9}}, {"rank_pattern": {"layer": 2}}])
def test_patterns(tmp_path, options):
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], init_lora_weights=False, **options)
    check(*train(tmp_path, config, "linear"))


def test_the_name_of_a_peft_adapter_is_no_part_of_the_module():
    """``model.state_dict()`` keeps the adapter's name that ``save_pretrained`` takes out."""
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["layer"], init_lora_weights=False, use_dora=True)
    module, x = make("linear")
    model = peft.get_peft_model(Model(module), config, adapter_name="style")
    tensors = {key: value.detach() for key, value in model.double().state_dict().items() if "lora_" in key}
    contents = state_dict.parse(tensors)
    assert [entry.module for entry in contents.entries] == ["base_model.model.layer"]
    assert not contents.leftovers
    plain, _ = make("linear")
    assert error(by_weight(contents, plain, x), model(x).detach(), plain(x)) < 1e-6


def test_adalora(tmp_path):
    # PEFT divides by rank + 0.00001, no doubt against a division by zero: 6e-7 of the scale at this rank.
    config = peft.AdaLoraConfig(init_r=16, target_r=16, lora_alpha=6, target_modules=["layer"], total_step=10)
    check(*train(tmp_path, config, "linear", inputs=32, outputs=24))


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "conv2d_1x1", "conv2d_grouped"])
@pytest.mark.parametrize("tucker", [False, True])
def test_loha(tmp_path, kind, tucker):
    config = peft.LoHaConfig(r=3, alpha=5, target_modules=["layer"], use_effective_conv2d=tucker, init_weights=False)
    check(*train(tmp_path, config, kind))


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv2d_1x1", "conv2d_grouped"])
@pytest.mark.parametrize(
    "options", [{}, {"use_effective_conv2d": True}, {"decompose_both": True, "decompose_factor": 4}]
)
@pytest.mark.parametrize("rank", [1, 32])
def test_lokr(tmp_path, kind, options, rank):
    """Rank 32 stores both matrices whole, and PEFT scales them by alpha / rank all the same."""
    config = peft.LoKrConfig(r=rank, alpha=5, target_modules=["layer"], init_weights=False, **options)
    check(*train(tmp_path, config, kind))


@pytest.mark.parametrize(("rank", "whole"), [(1, False), (32, True)])
def test_lokr_of_conv1d(tmp_path, rank, whole):
    """With a whole w2 PEFT trains something that is no Kronecker product, so only the weight itself can be changed."""
    config = peft.LoKrConfig(r=rank, alpha=5, target_modules=["layer"], init_weights=False)
    check(*train(tmp_path, config, "conv1d"), forward=not whole)


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv2d_grouped", "conv3d"])
@pytest.mark.parametrize("size", [{}, {"inputs": 16, "outputs": 16}])
@pytest.mark.parametrize("feedforward", [[], ["layer"]])
@pytest.mark.parametrize("bias", [False, True])
def test_ia3(tmp_path, kind, size, feedforward, bias):
    """On the output side PEFT scales the layer's whole output, the bias included."""
    config = peft.IA3Config(target_modules=["layer"], feedforward_modules=feedforward, fan_in_fan_out=False)
    check(*train(tmp_path, config, kind, bias=bias, **size))


@pytest.mark.parametrize("feedforward", [[], ["layer"]])
def test_ia3_of_a_linear_layer_needs_no_config(tmp_path, feedforward):
    config = peft.IA3Config(target_modules=["layer"], feedforward_modules=feedforward)
    saved, _, *rest = train(tmp_path, config, "linear", inputs=16, outputs=16)
    check(saved, None, *rest)


OFT = {
    "series": {},
    "two terms": {"num_cayley_neumann_terms": 2},
    "three terms": {"num_cayley_neumann_terms": 3},
    "four terms": {"num_cayley_neumann_terms": 4},
    "seven terms": {"num_cayley_neumann_terms": 7},
    "exact": {"use_cayley_neumann": False},
    "shared": {"block_share": True},
    "constrained": {"coft": True, "eps": 0.5},
}


@pytest.mark.parametrize("kind", ["linear", "conv2d_1x1"])
@pytest.mark.parametrize("form", OFT)
def test_oft(tmp_path, kind, form):
    config = peft.OFTConfig(oft_block_size=4, target_modules=["layer"], **OFT[form])
    check(*train(tmp_path, config, kind))


def test_oft_without_a_config_is_the_series_that_both_trainers_default_to(tmp_path):
    """The exact form turns the other way round, so this is no matter of digits."""
    saved, _, *rest = train(tmp_path, peft.OFTConfig(oft_block_size=4, target_modules=["layer"]), "linear")
    check(saved, None, *rest)


def test_oft_of_a_kernel_is_what_peft_merges(tmp_path):
    module, x = make("conv2d")
    plain, _ = make("conv2d")
    torch.manual_seed(5)
    model = peft.get_peft_model(Model(module), peft.OFTConfig(oft_block_size=4, target_modules=["layer"])).double()
    for name, parameter in model.named_parameters():
        if "oft_R" in name:
            parameter.data += torch.randn_like(parameter) * 0.3
    model.save_pretrained(tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    after = model.merge_and_unload()(x).detach()
    check(saved, json.loads((tmp_path / "adapter_config.json").read_text()), after, plain(x), plain, x, forward=False)


# PEFT compiles a CUDA extension for more than one butterfly stage; without it it trains one.
@pytest.mark.parametrize(("kind", "forward"), [("linear", True), ("conv2d_1x1", True), ("conv2d", False)])
def test_boft(tmp_path, kind, forward):
    config = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, target_modules=["layer"])
    check(*train(tmp_path, config, kind), forward=forward)


@pytest.mark.parametrize("kind", ["linear", "conv2d_1x1"])
def test_boft_of_several_stages(kind):
    """R built as PEFT's ``get_delta_weight`` builds it, from PEFT's own permutations, with matrices of full size."""
    module, x = make(kind, inputs=16)
    torch.manual_seed(5)
    stages, count, size = 3, 4, 4
    blocks = torch.randn(stages, count, size, size, dtype=torch.float64) * 0.3
    s = torch.rand(16, 1, dtype=torch.float64) + 0.5
    turn = torch.eye(16, dtype=torch.float64)
    for stage in range(stages):
        order = BOFTLayer.block_butterfly_perm(None, 16, count // 2**stage, size // 2, stages - 1)
        permutation = BOFTLayer.perm2mat(None, order).double()
        rotation = torch.block_diag(*BOFTLayer.cayley_batch(None, blocks[stage]))
        turn = permutation @ rotation @ permutation.T @ turn
    weight = ((turn @ module.weight.flatten(1).T).T * s).reshape(module.weight.shape)
    after = torch.func.functional_call(module, {"weight": weight}, (x,))
    saved = {"base_model.model.layer.boft_R": blocks, "base_model.model.layer.boft_s": s}
    check(saved, None, after, module(x), module, x)
