"""Files that LyCORIS writes, against LyCORIS's own forward in float64.

Its merge path is no reference: ``get_diff_weight`` of LoHa and LoKr multiplies by the scale a second time.
"""

import lycoris.modules.boft
import lycoris.modules.diag_oft
import lycoris.modules.full
import lycoris.modules.glora
import lycoris.modules.ia3
import lycoris.modules.locon
import lycoris.modules.loha
import lycoris.modules.lokr
import lycoris.modules.norms
import pytest
import torch
from reference_layers import KINDS, by_forward, by_weight, error, make
from torch.nn import GroupNorm, LayerNorm

from strata.lora_math.reading import state_dict

LoCon = lycoris.modules.locon.LoConModule
LoHa = lycoris.modules.loha.LohaModule
LoKr = lycoris.modules.lokr.LokrModule
GLoRA = lycoris.modules.glora.GLoRAModule
IA3 = lycoris.modules.ia3.IA3Module
OFT = lycoris.modules.diag_oft.DiagOFTModule
BOFT = lycoris.modules.boft.ButterflyOFTModule


def train(cls, kind, multiplier=1.0, **options):
    """(what LyCORIS saves, its layer's output, the layer's own output, the layer, the input)."""
    module, x = make(kind, **options.pop("size", {}))
    before = module(x)
    torch.manual_seed(7)
    net = cls("m", module, multiplier, **options)
    for name, parameter in net.named_parameters():
        if name == "rescale" or name == "dora_scale":
            parameter.data.mul_(1 + 0.3 * torch.rand_like(parameter))
        elif name == "scalar":
            parameter.data.fill_(0.7)
        else:
            parameter.data.copy_(torch.randn_like(parameter) * 0.5)
    net.double()
    saved = {f"m.{key}": value.detach().clone() for key, value in net.state_dict().items()}
    net.apply_to()
    after = module(x).detach()
    del module.forward
    return saved, after, before, module, x


def check(saved, after, before, module, x, strength=1.0, name=None, forward=True):
    contents = state_dict.parse(saved)
    assert not contents.leftovers
    if name is not None:
        assert [entry.adapter.name for entry in contents.entries] == [name]
    assert error(by_weight(contents, module, x, strength), after, before) < 1e-6
    if not forward:
        assert by_forward(contents, module, x, strength) is None
        return
    assert error(by_forward(contents, module, x, strength), after, before) < 1e-6
    assert error(by_forward(contents, module, x, torch.tensor(strength)), after, before) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tucker", [False, True])
def test_locon(kind, tucker):
    check(*train(LoCon, kind, lora_dim=4, alpha=3, use_tucker=tucker), name="LoRA")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tucker", [False, True])
def test_loha(kind, tucker):
    check(*train(LoHa, kind, lora_dim=3, alpha=2, use_tucker=tucker), name="LoHa")


def test_loha_of_a_rank_small_enough_for_factors():
    saved, *rest = train(LoHa, "conv2d", lora_dim=2, alpha=1, size={"outputs": 32})
    assert state_dict.parse(saved).entries[0].adapter.low_rank().rank == 4
    check(saved, *rest)


LOKR = {
    "whole": dict(lora_dim=10000, full_matrix=True),
    "whole by size": dict(lora_dim=64, alpha=0.03),
    "right decomposed": dict(lora_dim=2, alpha=3, factor=2),
    "both decomposed": dict(lora_dim=1, alpha=3, factor=4, decompose_both=True),
    "right Tucker": dict(lora_dim=2, alpha=3, factor=2, use_tucker=True),
    "unbalanced": dict(lora_dim=2, alpha=3, factor=2, unbalanced_factorization=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", LOKR)
def test_lokr(kind, form):
    check(*train(LoKr, kind, **LOKR[form]), name="LoKr")


def test_the_forms_of_lokr_are_what_they_say():
    """The test above means little if LyCORIS fell back to whole matrices."""
    adapters = {form: state_dict.parse(train(LoKr, "conv2d", **LOKR[form])[0]).entries[0].adapter for form in LOKR}
    assert {form: (len(adapter.w1), len(adapter.w2)) for form, adapter in adapters.items()} == {
        "whole": (1, 1),
        "whole by size": (1, 1),
        "right decomposed": (1, 2),
        "both decomposed": (2, 2),
        "right Tucker": (1, 3),
        "unbalanced": (1, 2),
    }


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "conv2d_grouped"]
)  # LyCORIS's GLoRA knows no groups
def test_glora(kind):
    saved, after, before, module, x = train(GLoRA, kind, lora_dim=2, alpha=1.5)
    check(saved, after, before, module, x, name="GLoRA")
    low_rank = state_dict.parse(saved).entries[0].adapter.low_rank(module.weight)
    delta = state_dict.parse(saved).entries[0].adapter.delta(module.weight)
    assert torch.allclose(low_rank.dense().reshape(delta.shape), delta, rtol=0, atol=1e-12)
    assert low_rank.rank == 2 * (1 + module.weight[0, 0].numel())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_input", [False, True])
def test_ia3(kind, on_input):
    if on_input and kind == "conv2d_grouped":
        kind = "conv2d"  # LyCORIS cannot train a grouped layer's input
    check(*train(IA3, kind, train_on_input=on_input), name="IA3")


# LyCORIS casts to float32 inside its rotations (``.float().inverse()``) and so cannot run them in float64: see ``rotation``.
ROTATIONS = {
    "free": dict(),
    "constrained": dict(constraint=0.05),
    "rescaled": dict(rescaled=True),
    "constrained and rescaled": dict(constraint=0.05, rescaled=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ROTATIONS)
@pytest.mark.parametrize("cls", [OFT, BOFT])
def test_rotations(cls, kind, form):
    straddles_groups = kind == "conv2d_grouped" and cls is BOFT  # as weights they can be mixed, as outputs they cannot
    check(*rotation(cls, kind, **ROTATIONS[form]), forward=not straddles_groups)


@pytest.mark.parametrize("cls", [OFT, BOFT])
@pytest.mark.parametrize("strength", [0.5, -1.0, 2.0])
def test_rotations_at_other_strengths(cls, strength):
    check(*rotation(cls, "conv2d", multiplier=strength), strength=strength)


def rotation(cls, kind, multiplier=1.0, **options):
    """As ``train``, with LyCORIS building the turned weight in float32 (it casts inside) and the layer running it in float64."""
    module, x = make(kind)
    before = module(x)
    torch.manual_seed(11)
    net = cls("m", module, multiplier, lora_dim=4, **options)
    net.oft_blocks.data.copy_(torch.randn_like(net.oft_blocks) * 0.3)
    if options.get("rescaled"):
        net.rescale.data.mul_(1 + 0.3 * torch.rand_like(net.rescale))
    saved = {f"m.{key}": value.detach().clone() for key, value in net.state_dict().items()}
    twin, _ = make(kind)
    net.org_module[0] = twin.float()
    weight = net.make_weight(multiplier).double().detach()
    after = torch.func.functional_call(module, {"weight": weight}, (x,))
    return saved, after, before, module, x


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv2d_strided", "conv2d_grouped", "conv3d"])
@pytest.mark.parametrize("on_output", [False, True])
@pytest.mark.parametrize("cls", [LoCon, LoHa, LoKr])
def test_dora(cls, kind, on_output):
    check(*train(cls, kind, lora_dim=2, alpha=1, weight_decompose=True, wd_on_out=on_output), name="DoRA")


@pytest.mark.parametrize("strength", [0.5, -1.0, 2.0])
@pytest.mark.parametrize(
    ("cls", "options"),
    [(LoCon, {}), (LoHa, {}), (LoKr, {"factor": 2}), (GLoRA, {}), (IA3, {}), (IA3, {"train_on_input": True})],
)
def test_other_strengths(cls, options, strength):
    check(*train(cls, "conv2d", multiplier=strength, lora_dim=2, alpha=1, **options), strength=strength)


@pytest.mark.parametrize("cls", [LoCon, LoHa, LoKr, GLoRA])
def test_scalar_baked_into_the_file(cls):
    """LyCORIS multiplies it in when it saves, so the file holds none."""
    saved, *rest = train(cls, "linear", lora_dim=2, alpha=1, use_scalar=True)
    assert not any("scalar" in key for key in saved)
    check(saved, *rest)


def test_stored_scalar_multiplies():
    saved, after, before, module, x = train(LoCon, "linear", lora_dim=2, alpha=1, use_scalar=True)
    saved["m.lora_up.weight"] = saved["m.lora_up.weight"] / 0.7
    saved["m.scalar"] = torch.tensor(0.7, dtype=torch.float64)
    check(saved, after, before, module, x)


@pytest.mark.parametrize("cls", [LoCon, LoHa, LoKr])
def test_rank_stabilized(cls):
    """LyCORIS puts the root into the alpha that it stores."""
    check(*train(cls, "linear", lora_dim=2, alpha=3, factor=2, rs_lora=True))


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_full(kind):
    module, x = make(kind)
    before = module(x)
    plain, _ = make(kind)
    torch.manual_seed(3)
    net = lycoris.modules.full.FullModule("m", module)
    net.weight.data.copy_(torch.randn_like(net.weight))
    net.bias.data.copy_(torch.randn_like(net.bias))
    net.apply_to()
    contents = state_dict.parse({f"m.{key}": value for key, value in net.state_dict().items()})
    assert [(entry.parameter, entry.adapter.name) for entry in contents.entries] == [
        ("weight", "diff"),
        ("bias", "diff"),
    ]
    assert error(by_weight(contents, plain, x), module(x), before) < 1e-6


@pytest.mark.parametrize("norm", [LayerNorm(12), GroupNorm(3, 12)])
def test_norms(norm):
    module = norm.double().requires_grad_(False)
    x = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = module(x)
    torch.manual_seed(3)
    net = lycoris.modules.norms.NormModule("m", module).double()
    for parameter in net.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
    contents = state_dict.parse({f"m.{key}": value for key, value in net.state_dict().items()})
    ours = by_weight(contents, module, x)
    net.apply_to()
    after = module(x)
    del module.forward
    assert error(ours, after, before) < 1e-6
