"""Trainers' bugs that a file carries, and what undoes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from torch import Tensor

from ..adapters.stored import Parts

SPLIT_QKV_NOTE = (
    "Trained with kohya's split_qkv: {count} fused layers hold 3 or 4 LoRAs in one, but their alpha is that of a single one. "
    "They are applied 3 or 4 times as strongly as other loaders do, which is how they were trained."
)

_SPLIT_QKV_MODULES = ("networks.lora_flux", "networks.lora_hunyuan_image")


def is_split_qkv(metadata: Mapping[str, str]) -> bool:
    """Whether sd-scripts trained the file with ``split_qkv=True``, by its own header."""
    if metadata.get("ss_network_module") not in _SPLIT_QKV_MODULES:
        return False
    try:
        arguments = json.loads(metadata.get("ss_network_args", "{}"))
    except (ValueError, RecursionError):
        return False
    return isinstance(arguments, dict) and str(arguments.get("split_qkv")) == "True"


def split_qkv_parts(module: str, parts: Parts) -> int:
    """How many LoRAs sd-scripts joined into this one, 1 where it joined none.

    ``networks/lora_flux.py``: q, k, v (and the mlp of ``linear1``) are trained apart, each with alpha / rank. ``state_dict`` stacks the
    downs and puts the ups on a block diagonal, so the rank triples or quadruples, and stores alpha as it was. Checked against the zeros
    around that diagonal: a file that was resized or merged since has lost them, and its alpha is right.
    """
    up, down = parts.get("lora_up"), parts.get("lora_down")
    if up is None or down is None or up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
        return 1
    if re.search(r"double_blocks_\d+_(img|txt)_attn_qkv$", module):
        heights = [1, 1, 1]
    elif re.search(r"single_blocks_\d+_linear1$", module):
        heights = [1, 1, 1, 4]
    else:
        return 1
    count = len(heights)
    unit, rest = divmod(up.shape[0], sum(heights))
    if rest or up.shape[1] % count or not up.any() or not _block_diagonal(up, [unit * n for n in heights]):
        return 1
    return count


def _block_diagonal(up: Tensor, heights: list[int]) -> bool:
    rank = up.shape[1] // len(heights)
    runs = enumerate(up.split(heights))
    return not any(rows[:, : i * rank].any() or rows[:, (i + 1) * rank :].any() for i, rows in runs)
