"""The smallest real models of two families, in the number types that people run: what the fuzzer's files are applied to."""

from __future__ import annotations

import torch

from strata.tests.nodes.helpers import small_models

TINY_UNET = {
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
}


def models() -> dict[str, tuple]:
    """family -> (MODEL, CLIP or None)"""
    return {
        "SD1.5": (small_models.sd15(torch.float16, **TINY_UNET), small_models.sd15_clip()),
        "FLUX.1": (small_models.flux(torch.bfloat16, depth=1, depth_single_blocks=1), None),
    }
