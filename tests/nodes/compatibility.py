"""Every naming of every family, tried on ComfyUI's own models: what lands where, in this pack and in ComfyUI.

``python tests/nodes/compatibility.py`` writes ``docs/compatibility.md``; ``test_families.py`` asks that the committed file is the same.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests")]
    import conftest  # noqa: F401 - makes the pack and ComfyUI importable
    sys.path[:0] = [str(ROOT / "tests" / "nodes")]

import comfy.lora
import comfy.lora_convert
import comfy.model_patcher
import core_models
import diffusers_names
import torch
from diffusers_names import Rows
from strata.lora_math import convert, family, state_dict
from strata.nodes.comfy import targets as our_targets
from strata.nodes.comfy.fit import match

CPU = torch.device("cpu")
RANK = 4


class Naming(NamedTuple):
    """One way of naming: ``name`` makes a module name of a layer's dotted name; ``suffixes`` those of (up, down); alpha: whether stored."""

    title: str
    name: Callable[[str], str]
    suffixes: tuple[str, str] = (".lora_B.weight", ".lora_A.weight")
    alpha: bool = False


KOHYA = (".lora_up.weight", ".lora_down.weight")
PEFT = (".lora_B.default.weight", ".lora_A.default.weight")


def _flat(prefix: str) -> Callable[[str], str]:
    return lambda layer: prefix + layer.replace(".", "_")


def _dotted(prefix: str) -> Callable[[str], str]:
    return lambda layer: prefix + layer


# The layer's own name, as its authors (and ComfyUI) call it.
NATIVE = (
    Naming("ComfyUI, ai-toolkit, diffusion-pipe: `diffusion_model.X`", _dotted("diffusion_model.")),
    Naming("kohya, musubi-tuner: `lora_unet_X`", _flat("lora_unet_"), KOHYA, True),
    Naming("OneTrainer ORIGINAL, DiffSynth: `X`", _dotted(""), PEFT),
    Naming("PEFT: `base_model.model.X`", _dotted("base_model.model.")),
    Naming("LyCORIS: `lycoris_X`", _flat("lycoris_"), KOHYA, True),
)
# diffusers' name of it, where that differs.
DIFFUSERS = (
    Naming("diffusers, ai-toolkit: `transformer.X`", _dotted("transformer.")),
    Naming("PEFT: `base_model.model.X`", _dotted("base_model.model."), PEFT),
    Naming("ai-toolkit: `diffusion_model.X`", _dotted("diffusion_model.")),
    Naming("DiffSynth: `X`", _dotted(""), PEFT),
    Naming("SimpleTuner, LyCORIS: `lycoris_X`", _flat("lycoris_"), KOHYA, True),
    Naming("OneTrainer: `lora_transformer_X`", _flat("lora_transformer_"), KOHYA, True),
    Naming("kohya, musubi-tuner, OneTrainer: `lora_unet_X`", _flat("lora_unet_"), KOHYA, True),
)
UNET = (
    Naming("kohya, OneTrainer: `lora_unet_X`", _flat("lora_unet_"), KOHYA, True),
    Naming("diffusers: `unet.X.lora.up`", _dotted("unet."), (".lora.up.weight", ".lora.down.weight")),
    Naming("diffusers, PEFT: `unet.X.lora_A`", _dotted("unet.")),
    Naming(
        "diffusers before 0.22: `unet.X.processor.to_q_lora.up`",
        lambda layer: "unet." + layer.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out"),
        ("_lora.up.weight", "_lora.down.weight"),
    ),
    Naming("PEFT: `base_model.model.X`", _dotted("base_model.model.")),
    Naming("PEFT: `unet.base_model.model.X`", _dotted("unet.base_model.model."), PEFT),
    Naming("LyCORIS: `lycoris_X`", _flat("lycoris_"), KOHYA, True),
    Naming("kohya: `oft_unet_X`", _flat("oft_unet_"), KOHYA, True),
)
TENCENT = (
    Naming("kohya, musubi-tuner: `lora_unet_X`", _flat("lora_unet_"), KOHYA, True),
    Naming("diffusion-pipe: `transformer.X`", _dotted("transformer.")),
    Naming("Tencent, DiffSynth: `X`", _dotted("")),
)
WAN_FUN = (Naming("Wan-Fun: `lora_unet__X`", _flat("lora_unet__"), KOHYA, True),)

UNETS = ("SD1.5", "SD2", "SDXL", "SDXL refiner")
CASES = (
    *UNETS,
    "SD3",
    "SD3.5 medium",
    "SD3.5 large",
    "FLUX.1",
    "FLUX.2 klein 4B",
    "FLUX.2 klein 9B",
    "FLUX.2 dev",
    "Chroma",
    "Chroma Radiance",
    "Z-Image",
    "Lumina 2",
    "Qwen-Image",
    "Wan 1.3B",
    "Wan 14B",
    "Wan 14B i2v",
    "Wan 2.2 5B",
    "Wan VACE",
    "Wan Animate",
    "HunyuanVideo",
    "HunyuanVideo 1.5",
    "LTX-Video",
    "LTX-2",
    "HiDream",
    "AuraFlow",
    "PixArt",
    "Mochi",
    "Cosmos 7B",
    "Cosmos Predict2 2B",
    "Cosmos Predict2 14B",
    "Anima",
    "Krea 2",
    "ACE-Step",
    "ACE-Step 1.5",
)


class File(NamedTuple):
    """A LoRA file's tensors (on the meta device), and by key what each ``up``, bias or norm in it must change."""

    model: str
    title: str
    tensors: Mapping[str, torch.Tensor]
    expected: Mapping[str, Rows | Fused]


class Fused(NamedTuple):
    """q, k and v as one layer, on the weights that the model has them in."""

    parts: tuple[Rows, ...]

    @property
    def rows(self) -> torch.Tensor:
        return torch.cat([part.rows for part in self.parts])

    @property
    def key(self) -> str:
        return self.parts[0].key


@cache
def patcher(model: str):
    return comfy.model_patcher.ModelPatcher(core_models.build(model), CPU, CPU)


def native_layers(model: str) -> dict[str, Rows]:
    """Every matrix and convolution by its own name."""
    return {
        key.removesuffix(".weight"): Rows(f"diffusion_model.{key}", torch.arange(shape[0]))
        for key, shape in diffusers_names.weights_of(model).items()
        if key.endswith(".weight") and len(shape) > 1
    }


def files(model: str) -> Iterator[File]:
    """A file in every naming that trainers of this family use."""
    native = native_layers(model)
    groups = [(native, (UNET[0],) if model in UNETS else NATIVE)]
    if model in diffusers_names.KNOWN:
        groups.append((diffusers_names.diffusers_weights(model), UNET if model in UNETS else DIFFUSERS))
    if model.startswith("HunyuanVideo"):
        groups.append((_tencent(native), TENCENT))
    if model.startswith("Wan"):
        groups.append((native, WAN_FUN))
    written = []
    for layers, namings in groups:
        for naming in namings:
            chosen = {layer for layer in layers if "processor" not in naming.title or re.search(r"attn\d\.to_", layer)}
            modules = {naming.name(layer): rows for layer, rows in layers.items() if layer in chosen}
            if modules.keys() not in written:  # a family whose own names are diffusers' has them in one list only
                written.append(modules.keys())
                yield _file(model, naming, modules)
    yield from _specials(model)


def _tencent(native: Mapping[str, Rows]) -> dict[str, Rows]:
    names = diffusers_names.tencent_names([f"{layer}.weight" for layer in native])
    return {names[f"{layer}.weight"].removesuffix(".weight"): rows for layer, rows in native.items()}


def _file(model: str, naming: Naming, modules: Mapping[str, Rows | Fused]) -> File:
    shapes = diffusers_names.weights_of(model)
    tensors: dict[str, torch.Tensor] = {}
    for module, rows in modules.items():
        inputs = shapes[rows.key.removeprefix("diffusion_model.")][1:]
        tensors.update(factors(module, len(rows.rows), inputs, naming))
    return File(model, naming.title, tensors, {module + naming.suffixes[0]: rows for module, rows in modules.items()})


def factors(module: str, outputs: int, inputs: tuple[int, ...], naming: Naming) -> Iterator[tuple[str, torch.Tensor]]:
    one = [1] * (len(inputs) - 1)
    yield module + naming.suffixes[0], torch.empty(outputs, RANK, *one, device="meta")
    yield module + naming.suffixes[1], torch.empty(RANK, *inputs, device="meta")
    if naming.alpha:
        yield f"{module}.alpha", torch.tensor(float(RANK))


def _specials(model: str) -> Iterator[File]:
    """Files that are named by no rule: attention processors of XLabs and USO, Black Forest Labs' control LoRA, fused q, k, v."""
    if model == "FLUX.1":
        streams = {"qkv_lora1": "img_attn.qkv", "proj_lora1": "img_attn.proj", "qkv_lora2": "txt_attn.qkv", "proj_lora2": "txt_attn.proj"}
        double = {f"double_blocks.{i}.processor.{lora}": f"double_blocks.{i}.{layer}" for i in range(19) for lora, layer in streams.items()}
        single = {f"single_blocks.{i}.processor.qkv_lora": f"single_blocks.{i}.linear1" for i in range(38)}
        single |= {f"single_blocks.{i}.processor.proj_lora": f"single_blocks.{i}.linear2" for i in range(38)}
        for title, layers, prefix in (
            ("XLabs, double blocks: `X.processor.qkv_lora1`", double, ""),
            ("XLabs, USO: `X.processor.qkv_lora1`", double | single, ""),
            ("XLabs: `diffusion_model.X.processor.qkv_lora1`", double | single, "diffusion_model."),
        ):
            native = native_layers(model)
            modules = {f"{prefix}{name}": native[layer] for name, layer in layers.items()}
            modules = {m: Rows(r.key, r.rows[: 3 * 3072] if m.endswith("qkv_lora") else r.rows) for m, r in modules.items()}
            yield _file(model, Naming(title, str, (".up.weight", ".down.weight")), modules)
        yield _control(model)
    if model in ("FLUX.1", "Chroma", "Z-Image", "Lumina 2", "SD3", "Qwen-Image", "Wan 14B", "HunyuanVideo"):
        title = "diffusers after `fuse_qkv_projections`: `transformer.X.to_qkv`"
        yield _file(model, Naming(title, str), {f"transformer.{layer}": fused for layer, fused in fused_layers(model).items()})


def _control(model: str) -> File:
    """Black Forest Labs' control LoRA: biases, replaced norms, and an input twice as wide."""
    naming = Naming("Black Forest Labs, control: `X.lora_A`", str)
    file = _file(model, naming, native_layers(model))
    tensors, expected = dict(file.tensors), dict(file.expected)
    tensors["img_in.lora_A.weight"] = torch.empty(RANK, 128, device="meta")
    for key, shape in diffusers_names.weights_of(model).items():
        layer = key.rpartition(".")[0]
        name = f"{layer}.lora_B.bias" if key.endswith(".bias") and f"{layer}.lora_B.weight" in tensors else f"{layer}.scale"
        if name.endswith(".bias") or key.endswith("_norm.weight"):
            tensors[name] = torch.empty(shape, device="meta")
            expected[name] = Rows(f"diffusion_model.{key}", torch.arange(shape[0]))
    return file._replace(tensors=tensors, expected=expected)


@cache
def fused_layers(model: str) -> dict[str, Fused]:
    layers = diffusers_names.diffusers_weights(model)
    found = {}
    for q, k, v, fused in (("to_q", "to_k", "to_v", "to_qkv"), ("add_q_proj", "add_k_proj", "add_v_proj", "to_added_qkv")):
        for layer in layers:
            stem, _, last = layer.rpartition(".")
            if last == q and ".attn2" not in layer:
                found[f"{stem}.{fused}"] = Fused(tuple(layers[f"{stem}.{name}"] for name in (q, k, v)))
    return found


class Outcome(NamedTuple):
    """tensors: in the file; ours: of them on the right weight; core: used by ComfyUI 0.30 on some weight that it fits."""

    tensors: int
    ours: int
    core: int
    family: str | None


def outcome(file: File) -> Outcome:
    tensors = convert.convert(comfy.lora_convert.convert_lora(dict(file.tensors)))
    contents = state_dict.parse(tensors)
    found = our_targets.model_targets(patcher(file.model))
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
    return Outcome(len(file.tensors), right, core_uses(file.tensors, patcher(file.model).model), family.detect(contents.entries))


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
    is_model = hasattr(module, "diffusion_model")
    key_map = (comfy.lora.model_lora_keys_unet if is_model else comfy.lora.model_lora_keys_clip)(module, {})
    logging.disable(logging.WARNING)
    try:
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), key_map, log_missing=False)
    finally:
        logging.disable(logging.NOTSET)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    return sum(_used(key, patch, shapes) for key, patch in patches.items())


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
