"""What becomes of every naming of every family, in this pack and in ComfyUI, and the table of it for people.

``python tests/nodes/write_compatibility.py`` writes the table; ``test_families.py`` asks that the committed one is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import comfy.lora
import comfy.lora_convert
import comfy.model_patcher
import torch

from strata.lora_math import family
from strata.lora_math.reading import state_dict
from strata.lora_math.reading import xlabs as convert
from strata.nodes.comfy import targets as our_targets
from strata.nodes.fitting.fit import match
from strata.tests.nodes.helpers import core_models, text_encoder_names
from strata.tests.nodes.helpers.diffusers_names import Rows
from strata.tests.nodes.helpers.naming_files import CASES, File, Fused, files, text_files

TABLE = Path(__file__).resolve().parents[3] / "docs" / "compatibility.md"
CPU = torch.device("cpu")


@cache
def patcher(model: str):
    return comfy.model_patcher.ModelPatcher(core_models.build(model), CPU, CPU)


class Outcome(NamedTuple):
    """tensors: in the file; ours: of them on the right weight; core: used by ComfyUI 0.30 on some weight that it fits."""

    tensors: int
    ours: int
    core: int
    family: str | None


def outcome(file: File) -> Outcome:
    """What becomes of a file on its diffusion model."""
    model = patcher(file.model)
    return _outcome(file, our_targets.model_targets(model), model.model)


def text_outcome(file: File) -> Outcome:
    """What becomes of a file on its text encoders."""
    clip = text_encoder_names.clip(file.model)
    return _outcome(file, our_targets.clip_targets(clip), clip.cond_stage_model)


def _outcome(file: File, found: our_targets.Targets, module: torch.nn.Module) -> Outcome:
    tensors = convert.convert(comfy.lora_convert.convert_lora(dict(file.tensors)))
    contents = state_dict.parse(tensors)
    where: dict[int, list] = {}
    entries = {id(entry): entry for entry in contents.entries}
    for target, entry in match(contents.entries, found).pieces:
        where.setdefault(id(entry), []).append(target)
    # Reading a file may give its tensors other names: they are known again by identity.
    in_file = {id(tensor): key for key, tensor in file.tensors.items()}
    right = 0
    for number, targets in where.items():
        keys = [in_file[id(tensors[key])] for key in entries[number].keys if id(tensors[key]) in in_file]
        expected = [file.expected[key] for key in keys if key in file.expected]
        right += len(keys) if len(expected) == 1 and is_right(targets, expected[0], found.shapes) else 0
    return Outcome(len(file.tensors), right, core_uses(file.tensors, module), family.detect(contents.entries))


def is_right(targets: list, expected: Rows | Fused, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether row i of the LoRA's change will be added to the row of the model that it was trained for."""
    parts = list(expected.parts) if isinstance(expected, Fused) else [expected]
    if len({part.key for part in parts}) == 1 and len(targets) == 1:
        parts = [Rows(parts[0].key, expected.rows)]
    if len(targets) != len(parts):
        return False
    start = 0
    for target, part in zip(targets, parts, strict=True):
        length = len(part.rows)
        if target.key != part.key or target.part not in (None, (start, length, len(expected.rows))):
            return False
        if (target.part is None) != (len(parts) == 1) or not _same_rows(target, part.rows, shapes[part.key][0]):
            return False
        start += length
    return True


def _same_rows(target, rows: torch.Tensor, total: int) -> bool:
    here = torch.arange(total)
    if target.rows is not None:
        return torch.equal(target.rows(here)[rows], here)
    offset = target.patch_key[1] if isinstance(target.patch_key, tuple) else None
    return torch.equal(here if offset is None else here.narrow(*offset), rows)


def core_uses(tensors: Mapping[str, torch.Tensor], module: torch.nn.Module) -> int:
    """Tensors of the file that ComfyUI 0.30 applies: what its ``load_lora`` takes and its ``calculate_weight`` does not refuse."""
    key_map, shapes = _known_to_core(module)
    logging.disable(logging.WARNING)
    try:
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), key_map, log_missing=False)
    finally:
        logging.disable(logging.NOTSET)
    return sum(_used(key, patch, shapes) for key, patch in patches.items())


@cache
def _known_to_core(module: torch.nn.Module) -> tuple[Mapping[str, object], Mapping[str, tuple[int, ...]]]:
    """ComfyUI's map from the names in files to a model's weights, and the shapes of those."""
    is_model = hasattr(module, "diffusion_model")
    key_map = (comfy.lora.model_lora_keys_unet if is_model else comfy.lora.model_lora_keys_clip)(module, {})
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    return MappingProxyType(key_map), MappingProxyType(shapes)


def _used(key, patch, shapes: Mapping[str, tuple[int, ...]]) -> int:
    name, offset = (key, None) if isinstance(key, str) else (key[0], key[1])
    shape = shapes.get(name)
    if shape is None or (offset is not None and offset[1] + offset[2] > shape[0]):
        return 0
    if isinstance(patch, tuple):  # a difference, or a weight to set
        return int(tuple(patch[1][0].shape) == shape)
    up, down, alpha, *_, reshaped = patch.weights
    shape = tuple(reshaped or shape)
    rows = shape[0] if offset is None else offset[2]
    return 2 + (alpha is not None) if up.shape[0] == rows and prod(down.shape[1:]) == prod(shape[1:]) else 0


@cache
def outcomes() -> tuple[tuple[File, Outcome], ...]:
    """Every file of every model, without its tensors."""
    return tuple((file._replace(tensors={}, expected={}), outcome(file)) for model in CASES for file in files(model))


@cache
def text_outcomes() -> tuple[tuple[File, Outcome], ...]:
    """Every file of every set of text encoders, without its tensors."""
    return tuple(
        (file._replace(tensors={}, expected={}), text_outcome(file))
        for name in text_encoder_names.SETS
        for file in text_files(name)
    )


_HEAD = """# Which LoRA files work

Made by `python tests/nodes/write_compatibility.py`, checked by `tests/nodes/test_families.py`: for each family a LoRA file in each
naming, with a LoRA on every matrix and convolution, put on ComfyUI's own model. *Strata* counts the tensors that land on the weight they
were trained for, row by row, as diffusers' checkpoint conversion has it; *ComfyUI* those that the `load_lora` of ComfyUI 0.30 uses.
`X` is the layer's name: that of the model's authors, or diffusers' where the two differ (marked d).
"""


def markdown() -> str:
    """``docs/compatibility.md``."""
    return "\n".join(
        [_HEAD, "## Diffusion models", *_sections(outcomes()), "## Text encoders", *_sections(text_outcomes())]
    )


def _sections(results: tuple[tuple[File, Outcome], ...]) -> Iterator[str]:
    models = list(dict.fromkeys(file.model for file, _ in results))
    for model in models:
        yield f"\n### {model}\n\n| Naming | Tensors | Strata | ComfyUI 0.30 |\n| --- | ---: | ---: | ---: |"
        titles = list(dict.fromkeys(file.title for file, _ in results if file.model == model))
        for title in titles:
            some = [result for file, result in results if (file.model, file.title) == (model, title)]
            total, ours, core = (sum(numbers) for numbers in zip(*(result[:3] for result in some), strict=True))
            yield f"| {title} | {total} | {_share(ours, total)} | {_share(core, total)} |"
    yield ""


def _share(used: int, total: int) -> str:
    return "all" if used == total else str(used) if used else "none"
