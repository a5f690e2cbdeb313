"""What a person chooses from when LoRAs become one file.

The words alone: a program can list them without loading what works with them.
"""

from __future__ import annotations

from typing import Literal

import torch

# Ways of merging, as ``algebra.merge`` describes them.
Method = Literal[
    "sum",
    "average",
    "normalize",
    "orthogonalize",
    "slerp",
    "knots ties",
    "knots dare",
    "ties",
    "dare",
    "della",
    "magnitude",
]
ELEMENTWISE: tuple[Method, ...] = ("ties", "dare", "della", "magnitude")
METHODS: tuple[Method, ...] = (
    *("sum", "average", "normalize", "orthogonalize", "slerp", "knots ties", "knots dare"),
    *ELEMENTWISE,
)
# What ``algebra.budget`` measures a result by.
Kind = Literal["exact", "rank", "energy", "error", "size"]
KINDS: tuple[Kind, ...] = ("exact", "rank", "energy", "error", "size")
# Of the numbers in the file.
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Whose names of the layers a file has (``writing.layouts``).
BEST, AS_SOURCE, COMFYUI, KOHYA_NAMES, DIFFUSERS = "best", "as source", "comfyui", "kohya", "diffusers"
LAYOUTS = (BEST, AS_SOURCE, COMFYUI, KOHYA_NAMES, DIFFUSERS)
