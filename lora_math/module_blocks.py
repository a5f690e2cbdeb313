"""Which block a LoRA's module belongs to, from its name alone: for a file whose model is not loaded.

Only the list and the index are read, so every spelling of the layers below does. With the model loaded, its own key map is exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from . import names
from .blocks.layout import OTHER, TE, Layout
from .families import BESIDE_ENCODERS, ENCODERS

Place = tuple[str, int]
MIDDLE = "middle_block"

# diffusers' list -> ComfyUI's, in underscores, tried in order; the first whose target is there counts.
_DIFFUSERS = (
    ("single_transformer_blocks", ("single_blocks", "single_layers")),
    ("joint_transformer_blocks", ("double_layers",)),
    ("context_embedder_token_refiner_refiner_blocks", ("txt_in_individual_token_refiner_blocks",)),
    ("text_conditioner_blocks", ("llm_adapter_blocks",)),
    ("transformer_blocks", ("double_blocks", "joint_blocks", "blocks")),
    ("text_fusion_layerwise_blocks", ("txtfusion_layerwise_blocks",)),
    ("text_fusion_refiner_blocks", ("txtfusion_refiner_blocks",)),
    ("face_adapter", ("face_adapter_fuser_blocks",)),
    ("layers", ("decoder_layers", "transformer_layers")),
)
_UNET = re.compile(
    r"(?P<side>down|up)_blocks_(?P<level>\d+)_(?:(?P<kind>attentions|resnets)_(?P<at>\d+)|(?:down|up)samplers_0)(?:_|$)"
)
_INDEX = re.compile(r"_(?:block)?(\d{1,6})(?:_|$)")


def block_of(module: str, layout: Layout, shape: tuple[int, int] | None = None) -> str:
    """``IN04``, ``TE:clip_l`` or ``OTHER``: the row of a layout that holds this module.

    A block number that the layout lacks counts as ``OTHER``; ``TE`` alone stands for a text encoder that it lacks. shape: (out, in) of
    the weight, which tells encoders of one kind apart where the name does not.
    """
    name = names.read(module)
    if name.text:
        return _encoder(name, layout, shape or ())
    place = place_in(name.body, layout.flat_lists)
    return OTHER if place is None else layout.flat_places.get(place, OTHER)


def place_of(module: str, layout: Layout) -> Place | None:
    """(list, index) as ComfyUI numbers them, whether or not the layout goes as far; None where the name has no block of this kind.

    Lists are spelled with underscores.
    """
    return place_in(names.model_body(module), layout.flat_lists)


def place_in(body: str, lists: Iterable[str]) -> Place | None:
    """``place_of`` for a module's body and the lists of a model, in underscores, the longest first."""
    if "input_blocks" in lists and (place := _unet_place(body)):
        return place
    for path in lists:
        if body.startswith(path) and (match := _INDEX.match(body, len(path))):
            return path, 0 if path == MIDDLE else int(match[1])
    for theirs, ours in _DIFFUSERS:
        if body.startswith(theirs) and (match := _INDEX.match(body, len(theirs))):
            path = next((path for path in ours if path in lists), None)
            return (path, int(match[1])) if path else None
    return None


def in_underscores(paths: Iterable[str]) -> tuple[str, ...]:
    """Lists as ``place_in`` wants them."""
    return tuple(sorted({path.replace(".", "_") for path in paths}, key=len, reverse=True))


def _unet_place(body: str) -> Place | None:
    """diffusers' numbering of the UNet: each level has two layers, a third for the sampler going down, three going up."""
    if body.startswith("mid_block_"):
        return MIDDLE, 0
    if body == "conv_in":
        return ("input_blocks", 0)
    match = _UNET.match(body)
    if match is None:
        return None
    level, at = int(match["level"]), int(match["at"] or 2)
    return ("input_blocks", 3 * level + 1 + at) if match["side"] == "down" else ("output_blocks", 3 * level + at)


# What the layers of each kind of text encoder are called, by the list that the kind has.
_KINDS = (
    (
        "transformer.text_model.encoder.layers",
        re.compile(r"encoder_layers_|embeddings_|final_layer_norm$|text_projection$"),
    ),
    (
        "transformer.encoder.block",
        re.compile(r"encoder_block_|encoder_final_layer_norm$|shared$|encoder_embed_tokens$"),
    ),
    (
        "transformer.model.layers",
        re.compile(r"layers_|embed_tokens$|norm$|visual_|vision_model_|multi_modal_projector_|lm_head$"),
    ),
)


def _encoder(name: names.ModuleName, layout: Layout, shape: tuple[int, ...]) -> str:
    """As ``Targets.find`` has it: a number counts encoders that are built alike."""
    if name.body.startswith(BESIDE_ENCODERS):
        beside = next(word for word in BESIDE_ENCODERS if name.body.startswith(word))
        return f"{TE}:{beside}"
    if name.encoder is not None:
        named = [encoder for encoder in layout.encoders if encoder.startswith(name.encoder)]
        return f"{TE}:{named[0]}" if named else TE
    alike = _alike(name.body, layout)
    if len(alike) > 1 and name.number is not None:
        alike = alike[name.number - 1 : name.number]
    if len(alike) > 1:
        alike = [encoder for encoder in alike if encoder in ENCODERS and ENCODERS[encoder].width in shape] or alike
    return f"{TE}:{alike[0]}" if alike else TE


def _alike(body: str, layout: Layout) -> list[str]:
    """The layout's encoders that are built such that they have this layer; all of them where its name does not tell."""
    kinds = [path for path, layers in _KINDS if layers.match(body)]
    paths = {block.group[3:]: block.prefix.rsplit(".", 2)[0] for block in layout.text_encoders}
    found = [
        encoder
        for encoder in layout.encoders
        if any(paths.get(encoder, "").endswith(path.removeprefix("transformer.")) for path in kinds)
    ]
    return found or [encoder for encoder in layout.encoders if encoder not in BESIDE_ENCODERS]
