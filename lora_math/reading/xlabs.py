"""Files whose key names say something other than what they mean, brought to names that the rest of the pack reads.

Only what no single key shows: which layer a processor of XLabs belongs to depends on the block around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# XLabs x-flux and USO hang their LoRAs on attention processors, numbered 1 for the image and 2 for the text stream.
_PROCESSOR = re.compile(
    r"^(?P<block>(?:diffusion_model\.|transformer\.)?(?:double|single)_blocks\.\d+)\.processor\."
    r"(?P<kind>qkv|proj)_lora(?P<stream>[12]?)\.(?P<factor>down|up)\.weight$"
)
_LAYERS = {
    ("qkv", "1"): "img_attn.qkv",
    ("proj", "1"): "img_attn.proj",
    ("qkv", "2"): "txt_attn.qkv",
    ("proj", "2"): "txt_attn.proj",
    # The rows of linear1 that make q, k and v.
    ("qkv", ""): "linear1_qkv",
    ("proj", ""): "linear2",
}


def convert(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same tensors under names that ``state_dict.parse`` and the targets know; ``tensors`` itself when nothing has to change.

    A file with double or single blocks alone is converted too (ComfyUI 0.30 asks for both).
    """
    renamed = {key: new for key in tensors if (new := _flux_processor(key)) is not None}
    return {renamed.get(key, key): tensor for key, tensor in tensors.items()} if renamed else tensors


def _flux_processor(key: str) -> str | None:
    match = _PROCESSOR.match(key)
    if match is None or ("double" in match["block"]) != bool(match["stream"]):
        return None
    return f"{match['block']}.{_LAYERS[match['kind'], match['stream']]}.lora_{match['factor']}.weight"
