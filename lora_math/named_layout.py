"""The layout of blocks that a LoRA's own names ask for: for a file whose model is not loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from . import families
from .blocks import FAMILIES, Layout, builtin_layout, layout_of
from .blocks.builtin import resized
from .blocks.layout import MODEL_PREFIX
from .family import is_text_encoder
from .module_blocks import place_of
from .reading.state_dict import Entry

# A block number beyond this is a damaged name, not a deep model.
MAX_DEPTH = 200


def layout_by_names(entries: Sequence[Entry], possible: Sequence[str]) -> Layout | None:
    """The family's layout, in the depth that the layers' width tells and their names need; None where nothing tells.

    possible: the families that the file can be for, the likeliest first: where there are several, they share their layers' names, and so
    far also their layout.
    """
    entries = [entry for entry in entries if not is_text_encoder(entry.module)]
    family = next(iter(possible), None)
    if family not in FAMILIES:
        found = layout_of(MODEL_PREFIX + entry.module.removeprefix(MODEL_PREFIX) + ".weight" for entry in entries)
        return found if found.blocks else None
    widths = Counter(shape[1] for entry in entries if (shape := entry.adapter.matrix_shape))
    known = families.FAMILIES[family].depths
    layout = builtin_layout(family, next((width for width, _ in widths.most_common() if width in known), None))
    letters = {
        block.prefix[:-1].rsplit(".", 1)[0].replace(".", "_"): block.group for block in (*layout.blocks, *layout.aux)
    }
    deepest = dict(layout.counts)
    for entry in entries:
        place = place_of(entry.module, layout)
        if place is not None and place[0] in letters and place[1] < MAX_DEPTH:
            deepest[letters[place[0]]] = max(deepest[letters[place[0]]], place[1] + 1)
    return layout if deepest == layout.counts else resized(layout, deepest)
