"""The report names every difference from ComfyUI that a file meets, and none that it does not."""

import pytest
import torch

from strata.lora_math.reading import state_dict
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.report.differences import _BY_FORM, differences
from strata.tests.nodes.helpers import small_models

make = torch.ones
LORA = {"lora_up.weight": make(8, 2), "lora_down.weight": make(2, 6), "alpha": torch.tensor(2.0)}
PEFT = {"lora_B.weight": make(8, 2), "lora_A.weight": make(2, 6)}
ONE = (1, 1, 1)
CASES = {
    "output-axis DoRA": (LORA | {"dora_scale": make(8, 1)}, ["DoRA on the output axis"]),
    "input-axis DoRA": (LORA | {"dora_scale": make(1, 6)}, []),
    "DoRA of PEFT": (PEFT | {"lora_magnitude_vector": make(8)}, ["DoRA on the output axis"]),
    "LoRA and a difference": (LORA | {"diff": make(8, 6)}, ["several changes of one layer"]),
    "bias of PEFT": (PEFT | {"lora_B.bias": make(8)}, ["the bias that PEFT trains"]),
    "kohya's bias": (LORA | {"diff_b": make(8)}, []),
    "plain LoRA": (LORA, []),
    "OFT": ({"oft_blocks": make(2, 4, 4)}, ["OFT turns by strength"]),
    "BOFT": ({"oft_blocks": make(2, 4, 2, 2), "alpha": torch.tensor(0.0)}, ["BOFT's strength counts once"]),
    "IA3": ({"weight": make(8), "on_input": torch.tensor(0)}, ["IA3 is applied"]),
    "T-LoRA": (
        {"p_layer.weight": make(8, 2), "q_layer.weight": make(2, 6), "lambda_layer": make(1, 2)},
        ["T-LoRA runs"],
    ),
    "TC-LoRA": (
        PEFT
        | {f"lora_time_{part}.weight": make(2, 4) for part in ("gamma", "beta")}
        | {f"lora_time_{part}.bias": make(2) for part in ("gamma", "beta")},
        ["TC-LoRA runs"],
    ),
    "OFT of PEFT": ({"oft_R.weight": make(3, 1)}, ["OFT of PEFT and OneTrainer"]),
    "BOFT of PEFT": ({"boft_R": make(1, 3, 2, 2), "boft_s": make(8, 1)}, ["BOFT of PEFT"]),
    "Tucker in 2 dimensions": (
        {"lora_up.weight": make(8, 2, 1, 1), "lora_down.weight": make(2, 6, 1, 1), "lora_mid.weight": make(2, 2, 3, 3)},
        [],
    ),
    "Tucker in 3 dimensions": (
        {
            "lora_up.weight": make(8, 2, *ONE),
            "lora_down.weight": make(2, 6, *ONE),
            "lora_mid.weight": make(2, 2, 3, 3, 3),
        },
        ["Tucker LoRA on 1- and 3-dimensional"],
    ),
    "output-axis DoRA of Tucker in 3 dimensions": (
        {
            "lora_up.weight": make(8, 2, *ONE),
            "lora_down.weight": make(2, 6, *ONE),
            "lora_mid.weight": make(2, 2, 3, 3, 3),
            "dora_scale": make(8, 1, *ONE),
        },
        ["DoRA on the output axis", "Tucker LoRA on 1- and 3-dimensional"],
    ),
    "LoKr": ({"lokr_w1": make(2, 2), "lokr_w2": make(4, 3)}, []),
    "LoKr Tucker": (
        {"lokr_w1": make(2, 2), "lokr_w2_a": make(2, 4), "lokr_w2_b": make(2, 3), "lokr_t2": make(2, 2, 3, 3)},
        ["LoKr's Tucker form"],
    ),
    "LoKr conv1d": ({"lokr_w1": make(2, 2), "lokr_w2": make(4, 3, 3)}, ["LoKr on 1- and 3-dimensional"]),
    "LoHa of OneTrainer": (
        {f"hada_w{n}_{side}": make(*((8, 2) if side == "a" else (2, 6)), 1, 1) for n in "12" for side in "ab"},
        ["LoHa stored as convolutions"],
    ),
    "LoHa": ({f"hada_w{n}_{side}": make(*((8, 2) if side == "a" else (2, 6))) for n in "12" for side in "ab"}, []),
    "sparse remainder": (
        LORA
        | {
            "bias_indices": torch.tensor([[1], [2]]),
            "bias_values": torch.tensor([9.0]),
            "bias_size": torch.tensor([8, 6]),
        },
        ["LyCORIS's sparse remainder"],
    ),
}


@pytest.mark.parametrize(("parts", "expected"), CASES.values(), ids=CASES)
def test_each_difference_is_named(parts, expected):
    contents = state_dict.parse({f"m.{part}": tensor for part, tensor in parts.items()})
    assert contents.entries
    found = differences(contents, ())
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_no_difference_hangs_on_a_form_that_no_adapter_has():
    forms = {
        form
        for parts, _ in CASES.values()
        for entry in state_dict.parse({f"m.{part}": tensor for part, tensor in parts.items()}).entries
        for form in entry.adapter.forms()
    }
    assert _BY_FORM.keys() <= forms


def test_the_report_says_it(lora_folder):
    model = small_models.sd15()
    module = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    name = lora_folder.save("oft.safetensors", {f"{module}.oft_blocks": 0.1 * torch.randn(4, 32, 32)})
    report = StrataLoraLoader.execute(name, 1.0, 1.0, model=model).result[3]
    assert "Unlike ComfyUI's loader: OFT turns by strength" in report
