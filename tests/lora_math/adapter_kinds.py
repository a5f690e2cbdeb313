"""An adapter of every kind, for layers of every shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from strata.lora_math.adapters import (
    BOFT,
    IA3,
    OFT,
    Diff,
    DoRA,
    GLoRA,
    LoHa,
    LoKr,
    LoRA,
    PeftBOFT,
    PeftOFT,
    SetWeight,
    Sparse,
)

OUT, IN, RANK = 16, 12, 3
SHAPES = {
    "linear": (OUT, IN),
    "conv1d": (OUT, IN, 3),
    "conv2d_1x1": (OUT, IN, 1, 1),
    "conv2d": (OUT, IN, 3, 3),
    "conv3d": (OUT, IN, 1, 3, 2),
}


SKEW = 6  # entries above the diagonal of a 4x4 block


def build(kind: str, layer: str, seed: int = 0):
    """An adapter of one kind for one layer shape."""
    generator = torch.Generator().manual_seed(seed)

    def r(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator) * 0.4

    shape = SHAPES[layer]
    columns = torch.Size(shape[1:]).numel()
    kernel = shape[2:]
    lora = LoRA(r(OUT, RANK), r(RANK, columns), None, 0.7)
    makers = {
        "LoRA": lambda: lora,
        "LoRA stored as the layer": lambda: LoRA(r(OUT, RANK, *[1] * len(kernel)), r(RANK, IN, *kernel), None, 0.7),
        "LoRA Tucker": lambda: LoRA(r(OUT, RANK), r(RANK, IN), r(RANK, RANK, *kernel), 0.7),
        "LoHa": lambda: LoHa(r(OUT, 2), r(2, columns), r(OUT, 2), r(2, columns), scale=0.7),
        "LoHa Tucker": lambda: LoHa(r(2, OUT), r(2, IN), r(2, OUT), r(2, IN), r(2, 2, *kernel), r(2, 2, *kernel), 0.7),
        "LoKr whole": lambda: LoKr((r(4, 3),), (r(4, 4, *kernel),), 0.7),
        "LoKr decomposed": lambda: LoKr((r(4, 1), r(1, 3)), (r(4, 2), r(2, columns // 3)), 0.7),
        "LoKr Tucker": lambda: LoKr((r(4, 3),), (r(2, 4), r(2, 4), r(2, 2, *kernel)), 0.7),
        "GLoRA": lambda: GLoRA(r(IN, RANK), r(RANK, IN), r(OUT, RANK), r(RANK, columns), 0.7),
        "OFT": lambda: OFT((r(4, 4, 4),), None, 0.05),
        "OFT of several runs": lambda: OFT((r(2, 4, 4), r(1, 8, 8)), None, 0.0),
        "OFT rescaled": lambda: OFT((r(4, 4, 4),), 1 + r(OUT), 0.0),
        "BOFT": lambda: BOFT(r(2, 4, 4, 4), 1 + r(OUT), 0.0),
        "PEFT OFT": lambda: PeftOFT(r(columns // 4, SKEW), 5),
        "PEFT OFT exact": lambda: PeftOFT(r(1, SKEW), 0),
        "PEFT BOFT": lambda: PeftBOFT(r(1, columns // 4, 4, 4), 1 + r(OUT)),
        "IA3 output": lambda: IA3(r(OUT), False),
        "IA3 input": lambda: IA3(r(IN), True),
        "sparse": lambda: Sparse(torch.tensor([[0, 3, 15], [1, 0, columns - 1]]), r(3), (OUT, columns)),
        "diff": lambda: Diff(r(*shape), 0.7),
        "set": lambda: SetWeight(r(*shape)),
        "DoRA output": lambda: DoRA(lora, 1 + r(OUT), 0),
        "DoRA input": lambda: DoRA(lora, 1 + r(IN), 1),
        "DoRA of LoKr": lambda: DoRA(LoKr((r(4, 3),), (r(4, 4, *kernel),), 0.7), 1 + r(OUT), 0),
    }
    return makers[kind]()


ALL = [
    *(
        "LoRA",
        "LoRA stored as the layer",
        "LoRA Tucker",
        "LoHa",
        "LoHa Tucker",
        "LoKr whole",
        "LoKr decomposed",
        "LoKr Tucker",
    ),
    *("GLoRA", "OFT", "OFT of several runs", "OFT rescaled", "BOFT", "PEFT OFT", "PEFT OFT exact", "PEFT BOFT"),
    *("IA3 output", "IA3 input", "sparse", "diff", "set", "DoRA output", "DoRA input", "DoRA of LoKr"),
]


LINEAR = [kind for kind in ALL if kind not in ("OFT rescaled", "BOFT", "PEFT BOFT", "set")]
FACTORED = ["LoRA", "LoRA stored as the layer", "LoRA Tucker", "LoHa", "LoHa Tucker", "LoKr decomposed"]
every_adapter = pytest.mark.parametrize("kind", ALL)
every_shape = pytest.mark.parametrize("layer", SHAPES)
quick = settings(max_examples=10)


def weight_of(layer: str, dtype=torch.float64):
    return torch.randn(SHAPES[layer], dtype=torch.float64, generator=torch.Generator().manual_seed(9)).to(dtype)
