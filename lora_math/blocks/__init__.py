"""Block weights: the blocks of a model, weights for them as a line of text, and named presets. Pure: no torch, no ComfyUI."""

from .builtin import FAMILIES, builtin_layout
from .errors import BlockTextError
from .layout import Block, Layout, Location, layout_of

__all__ = ["FAMILIES", "Block", "BlockTextError", "Layout", "Location", "builtin_layout", "layout_of"]
