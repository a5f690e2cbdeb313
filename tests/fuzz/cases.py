"""One case of the fuzzer by its number: a file, what lies beside it, and how it is applied. The same number is the same case forever."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import broken_bytes
import broken_pickles
import comfy.lora
import odd_state_dicts
import torch

from strata.tests.nodes.helpers import lora_makers

STEMS = ("x", "a b (1)", "\u7d75\u6587\u5b57 \U0001f600", "n" * 243, "..x", "x.safetensors")
STRENGTHS = (1.0, 1.0, 0.6, -1.0, 0.0, 2.0, 100.0, 1e-6)


@dataclass(frozen=True)
class Case:
    """files: name -> contents, the LoRA's first; family: the model it is applied to."""

    kind: str
    files: Mapping[str, bytes]
    family: str
    strengths: tuple[float, float]
    apply: str
    twice: bool = field(default=False)

    @property
    def name(self) -> str:
        return next(iter(self.files))


class Source:
    """Makes cases from the layer names of real models. models: family -> (MODEL, CLIP or None)."""

    def __init__(self, models: Mapping[str, tuple]):
        self.families = list(models)
        self.weights = {family: _weights(*pair) for family, pair in models.items()}
        self.whole = {family: _some(lora_makers.full_lora(*pair), 60) for family, pair in models.items()}

    def case(self, seed: int | str) -> Case:
        return self.from_random(Random(f"strata {seed}"))

    def from_random(self, rng: Random) -> Case:
        family = rng.choice(self.families)
        make = rng.choice((self._bytes, self._bytes, self._tensors, self._tensors, self._pickle))
        kind, ending, content = make(rng, family)
        name = rng.choice(STEMS if rng.random() < 0.2 else STEMS[:1]) + ending
        files = {name: content}
        if rng.random() < 0.15:
            files.update(_sidecars(rng, name))
        apply = "live" if rng.random() < 0.15 else "patch"
        strengths = (rng.choice(STRENGTHS), rng.choice(STRENGTHS))
        return Case(kind, files, family, strengths, apply, rng.random() < 0.15)

    def sound(self, rng: Random, family: str) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
        """The tensors and header of a file as a trainer writes it."""
        return self.whole[family], rng.choice((None, {"ss_network_dim": "4", "ss_base_model_version": "sd_v1"}))

    def _bytes(self, rng: Random, family: str) -> tuple[str, str, bytes]:
        content = broken_bytes.pack(*self.sound(rng, family))
        damage = rng.choice(broken_bytes.DAMAGES)
        return damage.__name__, ".safetensors", damage(rng, content)

    def _tensors(self, rng: Random, family: str) -> tuple[str, str, bytes]:
        tensors = odd_state_dicts.draw(rng, self.weights[family])
        modules = sorted({key.split(".")[0] for key in tensors})
        metadata = odd_state_dicts.draw_metadata(rng, modules) if rng.random() < 0.4 else None
        return "state dict", ".safetensors", broken_bytes.pack(tensors, metadata)

    def _pickle(self, rng: Random, family: str) -> tuple[str, str, bytes]:
        make = rng.choice(broken_pickles.PICKLES)
        content = make(rng, _some(self.whole[family], 6))
        return f"{make.__name__} pickle", rng.choice((".pt", ".bin", ".ckpt", ".safetensors")), content


def _weights(model, clip) -> dict[str, tuple[int, ...]]:
    """Module name -> shape, for whole weights and for parts of them, norms included."""
    shapes = lora_makers.shapes(model.model)
    found = _named(comfy.lora.model_lora_keys_unet(model.model, {}), shapes)
    if clip is not None:
        shapes = lora_makers.shapes(clip.cond_stage_model)
        found |= _named(comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {}), shapes)
    return found


def _named(names: Mapping, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, key in names.items():
        shape = list(shapes.get(key if isinstance(key, str) else key[0], ()))
        if shape and not isinstance(key, str) and key[1] is not None:
            shape[key[1][0]] = key[1][2]
        if shape:
            found[name] = tuple(shape)
    return found


def _some(tensors: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Every n-th module, whole."""
    modules = list(dict.fromkeys(key.split(".")[0] for key in tensors))
    kept = set(modules[:: max(1, 3 * len(modules) // count)])
    return {key: tensor for key, tensor in tensors.items() if key.split(".")[0] in kept}


def _sidecars(rng: Random, name: str) -> dict[str, bytes]:
    stem = name.rpartition(".")[0]
    texts = (
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps({"activation text": "a,\ud800, b", "trainedWords": [3, None, {"word": ["x"], "user": 1}]}).encode(),
        json.dumps({"trainedWords": "x" * 100_000, "civitai": {"trainedWords": [["y"]]}}).encode(),
        json.dumps({"peft_type": "LOKR", "r": 1e400, "lora_alpha": 10**400, "alpha_pattern": {"(" * 300: 1}}).encode(),
        json.dumps(
            {"peft_type": "OFT", "num_cayley_neumann_terms": float("nan"), "rank_pattern": {"x": -1e400}}
        ).encode(),
        json.dumps({"peft_type": "IA3", "feedforward_modules": ["q", 3], "r": "8"}).encode(),
    )
    endings = [
        f"{stem}.json",
        f"{stem}.civitai.info",
        f"{name}.rgthree-info.json",
        f"{stem}.metadata.json",
        f"{stem}.txt",
    ]
    names = [beside for beside in (*endings, "adapter_config.json") if len(beside.encode()) <= 255]
    return {rng.choice(names): rng.choice(texts) for _ in range(2)}
