"""Which numbered lists of modules are blocks, what they are called, and in which order they run.

Names come from tables for the lists that are known and from one rule for the lists that are not, so that a
family that appears tomorrow has a layout too. A list's name depends on its path alone: it never changes with
the rest of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Main numbering, in execution order. Two paths may share letters where no model has both.
MAIN = {
    "input_blocks": "IN",
    "middle_block": "M",
    "output_blocks": "OUT",
    "down_blocks": "DOWN",
    "up_blocks": "UP",
    "joint_blocks": "J",
    "double_blocks": "D",
    "double_stream_blocks": "D",
    "double_stream_layers": "D",
    "double_layers": "D",
    "single_blocks": "S",
    "single_stream_blocks": "S",
    "single_stream_layers": "S",
    "single_layers": "S",
    "patch_blocks": "P",
    "pixel_blocks": "PX",
    "transformer_blocks": "T",
    "visual_transformer_blocks": "T",
    "layers": "L",
    "decoder.layers": "L",
    "transformer.layers": "L",
    "language_model.layers": "L",
    "blocks": "B",
}

# Lists beside the main numbering, in execution order (context before noise, whatever the state dict's order
# is).
AUX = {
    "context_processor.layers": "CP",
    "distilled_guidance_layer.layers": "DG",
    "txt_in.individual_token_refiner.blocks": "TR",
    "token_refiner.blocks": "TR",
    "llm_adapter.blocks": "LA",
    "txtfusion.layerwise_blocks": "FL",
    "txtfusion.refiner_blocks": "FR",
    "text_transformer_blocks": "TT",
    "context_refiner": "CR",
    "siglip_refiner": "SR",
    "ref_image_refiner": "RR",
    "noise_refiner": "NR",
    "visual.blocks": "VB",
    "video_embeddings_connector.transformer_1d_blocks": "VC",
    "audio_embeddings_connector.transformer_1d_blocks": "AC",
    "lyric_encoder.encoders": "LE",
    "encoder.lyric_encoder.layers": "LE",
    "encoder.timbre_encoder.layers": "TB",
    "tokenizer.attention_pooler.layers": "TP",
    "detokenizer.layers": "DT",
    "proj_in.early_conv_layers": "PC",
    "control_adapter.residual_blocks": "CA",
    "music_encoder": "ME",
    "vace_blocks": "V",
    "face_adapter.fuser_blocks": "FA",
    "audio_injector.injector": "AI",
    "audio_injector.injector_adain_layers": "AN",
    "music_injector.injector": "MI",
    "nerf_blocks": "NB",
}

COMPONENTS = ("attn", "cross", "mlp", "mod", "norm", "conv", "proj", "fused", "a2v", "v2a")
STREAMS = ("img", "txt", "video", "audio")
FILTERS = COMPONENTS + STREAMS
# Words of the grammar, which no block is called by.
RESERVED = {"TE", "OTHER", "DEFAULT", "EVEN", "ODD", *(word.upper() for word in FILTERS)}
KNOWN_LETTERS = {*MAIN.values(), *AUX.values()}

_LIST_NOUN = r"[A-Za-z0-9_]*(?:blocks|layers|refiner|middle_block|encoder\.block|injector|encoders|music_encoder)"
_BY_NAME = re.compile(rf"(?P<path>(?:[A-Za-z_]\w*\.)*?{_LIST_NOUN})\.(?:block)?(?P<index>[0-9]+)\.")
_BY_STRUCTURE = re.compile(r"(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.(?P<index>[0-9]+)\.")
_HELPER = re.compile(r"refiner|adapter|injector|connector|encoder|embed|control|token|text|audio|vace|nerf|pos_|proj")
# Sequential MLPs, time embedders and projections hold fewer weights per element than any transformer or
# residual block.
_WEIGHTS_PER_BLOCK = 4


def find_lists(names: Iterable[str]) -> dict[str, set[int]]:
    """Block lists among weight names without ``diffusion_model.``: path -> indices, in order of appearance.

    First by name; then, among what is left, any ``<path>.<n>.`` whose elements hold four ``.weight`` tensors
    or more.
    """
    lists: dict[str, set[int]] = {}
    unnamed: dict[str, dict[int, int]] = {}
    for name in names:
        if match := _BY_NAME.match(name):
            lists.setdefault(match["path"], set()).add(int(match["index"]))
        elif match := _BY_STRUCTURE.match(name):
            weights = unnamed.setdefault(match["path"], {})
            weights[int(match["index"])] = weights.get(int(match["index"]), 0) + name.endswith(".weight")
    for path, weights in unnamed.items():
        if len(weights) > 1 and sum(weights.values()) >= _WEIGHTS_PER_BLOCK * len(weights):
            lists.setdefault(path, set()).update(weights)
    return lists


def split_main(lists: dict[str, set[int]]) -> tuple[list[str], list[str]]:
    """(main paths, auxiliary paths), each in execution order as far as it is known."""
    unknown = [path for path in lists if path not in MAIN and path not in AUX]
    new_main = [path for path in unknown if "." not in path and not _HELPER.search(path)]
    main = [path for path in MAIN if path in lists] + new_main
    if not main and unknown:
        main = [max(unknown, key=lambda path: len(lists[path]))]
    elif not main and lists:
        main = [max(lists, key=lambda path: len(lists[path]))]
    aux = [path for path in AUX if path in lists] + unknown
    return main, [path for path in aux if path not in main]


def letters(paths: Iterable[str]) -> dict[str, str]:
    """Each list's letters. Unknown lists: the initials of their path, or all of it where initials say too
    little.
    """
    named: dict[str, str] = {}
    for path in paths:
        name = MAIN.get(path) or AUX.get(path)
        if name is None or name in named.values():
            words = re.findall(r"[A-Za-z]+", path)
            name = "".join(word[0] for word in words).upper()
            spelled = "".join(words).upper()
            if len(words) < 2 or name in KNOWN_LETTERS | RESERVED or name in named.values():
                name = spelled
            while name in named.values() or name in RESERVED:
                name += "X"
        named[path] = name
    return named
