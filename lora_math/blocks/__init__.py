"""The blocks of a model, weights for them as one line of text, and named presets. No torch, no ComfyUI."""

from .builtin import FAMILIES, builtin_layout
from .errors import BlockTextError
from .layout import Block, Layout, Location, layout_of
from .preset_saving import delete_preset, save_preset
from .presets import Preset, load_presets, read_presets, texts
from .text import parse
from .weights import BlockWeights, ResolvedWeights, Rule, format_weights

format = format_weights

__all__ = [
    "FAMILIES",
    "Block",
    "BlockTextError",
    "BlockWeights",
    "Layout",
    "Location",
    "Preset",
    "ResolvedWeights",
    "Rule",
    "builtin_layout",
    "delete_preset",
    "format",
    "format_weights",
    "layout_of",
    "load_presets",
    "parse",
    "read_presets",
    "save_preset",
    "texts",
]
