"""LoRA files in every naming that trainers of a family write, with what each of their tensors must change.

Tensors lie on the meta device: what a file does with them depends on names and shapes alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

import torch

from strata.tests.nodes.helpers import diffusers_names, text_encoder_names
from strata.tests.nodes.helpers.diffusers_names import Rows

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
    Naming("diffusers, ai-toolkit: `transformer.X` (d)", _dotted("transformer.")),
    Naming("PEFT: `base_model.model.X` (d)", _dotted("base_model.model."), PEFT),
    Naming("ai-toolkit: `diffusion_model.X` (d)", _dotted("diffusion_model.")),
    Naming("DiffSynth: `X` (d)", _dotted(""), PEFT),
    Naming("SimpleTuner, LyCORIS: `lycoris_X` (d)", _flat("lycoris_"), KOHYA, True),
    Naming("OneTrainer: `lora_transformer_X` (d)", _flat("lora_transformer_"), KOHYA, True),
    Naming("kohya, musubi-tuner, OneTrainer: `lora_unet_X` (d)", _flat("lora_unet_"), KOHYA, True),
)
SGM = (
    Naming("kohya, OneTrainer KOHYA: `lora_unet_input_blocks_X`", _flat("lora_unet_"), KOHYA, True),
    Naming("ComfyUI: `diffusion_model.input_blocks.X`", _dotted("diffusion_model.")),
)
UNET = (
    Naming("kohya, OneTrainer LEGACY: `lora_unet_X` (d)", _flat("lora_unet_"), KOHYA, True),
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
    groups = [(native, SGM if model in UNETS else NATIVE)]
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
            file = _file(model, naming, modules)
            if file.tensors.keys() not in written:  # a family whose own names are diffusers' has them in one list only
                written.append(file.tensors.keys())
                yield file
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
        streams = {
            "qkv_lora1": "img_attn.qkv",
            "proj_lora1": "img_attn.proj",
            "qkv_lora2": "txt_attn.qkv",
            "proj_lora2": "txt_attn.proj",
        }
        double = {
            f"double_blocks.{i}.processor.{lora}": f"double_blocks.{i}.{layer}"
            for i in range(19)
            for lora, layer in streams.items()
        }
        single = {f"single_blocks.{i}.processor.qkv_lora": f"single_blocks.{i}.linear1" for i in range(38)}
        single |= {f"single_blocks.{i}.processor.proj_lora": f"single_blocks.{i}.linear2" for i in range(38)}
        for title, layers, prefix in (
            ("XLabs, double blocks: `X.processor.qkv_lora1`", double, ""),
            ("XLabs, USO: `X.processor.qkv_lora1`", double | single, ""),
            ("XLabs: `diffusion_model.X.processor.qkv_lora1`", double | single, "diffusion_model."),
        ):
            native = native_layers(model)
            modules = {f"{prefix}{name}": native[layer] for name, layer in layers.items()}
            modules = {
                m: Rows(r.key, r.rows[: 3 * 3072] if m.endswith("qkv_lora") else r.rows) for m, r in modules.items()
            }
            yield _file(model, Naming(title, str, (".up.weight", ".down.weight")), modules)
        yield _control(model)
    if model in ("FLUX.1", "Chroma", "Z-Image", "Lumina 2", "SD3", "Qwen-Image", "Wan 14B", "HunyuanVideo"):
        title = "diffusers after `fuse_qkv_projections`: `transformer.X.to_qkv`"
        yield _file(
            model, Naming(title, str), {f"transformer.{layer}": fused for layer, fused in fused_layers(model).items()}
        )


def _control(model: str) -> File:
    """Black Forest Labs' control LoRA: biases, replaced norms, and an input twice as wide."""
    naming = Naming("Black Forest Labs, control: `X.lora_A`", str)
    file = _file(model, naming, native_layers(model))
    tensors, expected = dict(file.tensors), dict(file.expected)
    tensors["img_in.lora_A.weight"] = torch.empty(RANK, 128, device="meta")
    for key, shape in diffusers_names.weights_of(model).items():
        layer = key.rpartition(".")[0]
        name = (
            f"{layer}.lora_B.bias"
            if key.endswith(".bias") and f"{layer}.lora_B.weight" in tensors
            else f"{layer}.scale"
        )
        if name.endswith(".bias") or key.endswith("_norm.weight"):
            tensors[name] = torch.empty(shape, device="meta")
            expected[name] = Rows(f"diffusion_model.{key}", torch.arange(shape[0]))
    return file._replace(tensors=tensors, expected=expected)


@cache
def fused_layers(model: str) -> dict[str, Fused]:
    layers = diffusers_names.diffusers_weights(model)
    found = {}
    for q, k, v, fused in (
        ("to_q", "to_k", "to_v", "to_qkv"),
        ("add_q_proj", "add_k_proj", "add_v_proj", "to_added_qkv"),
    ):
        for layer in layers:
            stem, _, last = layer.rpartition(".")
            if last == q and ".attn2" not in layer:
                found[f"{stem}.{fused}"] = Fused(tuple(layers[f"{stem}.{name}"] for name in (q, k, v)))
    return found


def text_files(name: str) -> Iterator[File]:
    """A file in every naming of a set of text encoders."""
    shapes = {key: value.shape for key, value in text_encoder_names.clip(name).cond_stage_model.state_dict().items()}

    def make(title: str, modules: Mapping[str, Rows], suffix: str) -> File:
        naming = Naming(
            title,
            str,
            (suffix, suffix.replace("up", "down").replace("lora_B", "lora_A")),
            suffix.endswith("lora_up.weight"),
        )
        tensors: dict[str, torch.Tensor] = {}
        for module, rows in modules.items():
            tensors.update(factors(module, len(rows.rows), shapes[rows.key][1:], naming))
        return File(name, title, tensors, {module + suffix: rows for module, rows in modules.items()})

    yield from text_encoder_names.text_files(name, make)
