"""Which block a LoRA's module belongs to, from its name alone: for a file whose model is not loaded.

Only the list and the index are read, so every spelling of the layers below does. With the model loaded, its own key map is exact.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .blocks.layout import OTHER, TE, Layout
from .family import is_text_encoder

Place = tuple[str, int]
MIDDLE = "middle_block"

_PREFIX = re.compile(
    r"^(?:(?:unet|transformer)[._](?!blocks[._]))?(?:base_model[._]model[._])?"
    r"(?:lora_unet_+|lora_transformer_|lycoris_|diffusion_model[._]|transformer[._](?!blocks[._])|unet[._]|model[._])*"
)

# diffusers' list -> ComfyUI's, tried in order; the first whose target the layout has.
_DIFFUSERS = (
    ("single_transformer_blocks", ("single_blocks", "single_layers")),
    ("joint_transformer_blocks", ("double_layers",)),
    ("context_embedder_token_refiner_refiner_blocks", ("txt_in_individual_token_refiner_blocks",)),
    ("transformer_blocks", ("double_blocks", "joint_blocks", "blocks")),
    ("text_fusion_layerwise_blocks", ("txtfusion_layerwise_blocks",)),
    ("text_fusion_refiner_blocks", ("txtfusion_refiner_blocks",)),
)
_UNET = re.compile(
    r"(?P<side>down|up)_blocks_(?P<level>\d+)_(?:(?P<kind>attentions|resnets)_(?P<at>\d+)|(?:down|up)samplers_0)(?:_|$)"
)
_ENCODER = re.compile(r"^(?:lora_te(\d?)_|text_encoder(?:_(\d))?[._]|te(\d?)[._])")
_NAMED_ENCODER = re.compile(r"^text_encoders[._]([A-Za-z0-9_]+?)[._]transformer[._]")


def block_of(module: str, layout: Layout) -> str:
    """``IN04``, ``TE:clip_l`` or ``OTHER``: the row of a layout that holds this module.

    A block number that the layout lacks counts as ``OTHER``; ``TE`` alone stands for a text encoder that it lacks.
    """
    if is_text_encoder(module):
        return _encoder(module, layout)
    return _names(layout).get(place_of(module, layout), OTHER)


def place_of(module: str, layout: Layout) -> Place | None:
    """(list, index) as ComfyUI numbers them, whether or not the layout goes as far; None where the name has no block of this kind."""
    name = _PREFIX.sub("", module, count=1).replace(".", "_")
    lists = {path for path, _ in _names(layout)}
    if "input_blocks" in lists and (place := _unet_place(name)):
        return place
    for path in sorted(lists, key=len, reverse=True):
        if match := re.match(rf"{path}_(?:block)?(\d+)_", name + "_"):
            return path, 0 if path == MIDDLE else int(match[1])
    for theirs, ours in _DIFFUSERS:
        if match := re.match(rf"{theirs}_(\d+)_", name + "_"):
            path = next((path for path in ours if path in lists), None)
            return (path, int(match[1])) if path else None
    return None


@lru_cache(maxsize=8)
def _names(layout: Layout) -> dict[Place, str]:
    """Every place of a layout, lists spelled with underscores, and its name."""
    found = {}
    for block in (*layout.blocks, *layout.aux):
        prefix = block.prefix.rstrip(".").replace(".", "_")
        path = prefix if prefix == MIDDLE else re.sub(r"_(?:block)?[0-9]+$", "", prefix)
        found[path, block.index] = block.name
    return found


def _unet_place(name: str) -> Place | None:
    """diffusers' numbering of the UNet: each level has two layers, a third for the sampler going down, three going up."""
    if name.startswith("mid_block_"):
        return MIDDLE, 0
    if name == "conv_in":
        return ("input_blocks", 0)
    match = _UNET.match(name)
    if match is None:
        return None
    level, at = int(match["level"]), int(match["at"] or 2)
    return ("input_blocks", 3 * level + 1 + at) if match["side"] == "down" else ("output_blocks", 3 * level + at)


def _encoder(module: str, layout: Layout) -> str:
    if named := _NAMED_ENCODER.match(module):
        return f"{TE}:{named[1]}" if named[1] in layout.encoders else TE
    match = _ENCODER.match(module)
    if match is None or not layout.encoders:
        return TE if not layout.encoders else f"{TE}:{layout.encoders[0]}"
    number = next((int(group) for group in match.groups() if group), 1)
    return f"{TE}:{layout.encoders[min(number, len(layout.encoders)) - 1]}"
