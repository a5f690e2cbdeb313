"""The trained toy on a running server: pictures of the workflow "Try it without any download", with its values changed."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .prompts import LOADER, changed, without_loader
from .server import ROOT, ComfyServer
from .workflow import Prompt, nodes_of, to_prompt

WORKFLOW = ROOT / "example_workflows" / "Try it without any download.json"


def on_the_toy() -> list[Path]:
    """The example workflows that run on the toy, which comes with the source only."""
    found = sorted(WORKFLOW.parent.glob("*.json"))
    return [path for path in found if "strata_toy_flux.safetensors" in path.read_text(encoding="utf-8")]


@dataclass(frozen=True)
class Row:
    """A LoRA of the toy and what is drawn with it."""

    lora: str
    words: str
    title: str
    made: str | None = None  # a file of the server's own instead

    @property
    def file(self) -> str:
        return self.made or f"strata_toy_{self.lora}.safetensors"


class ServedToy:
    """Draws with the workflow on a running server, and keeps every picture as a file."""

    def __init__(self, server: ComfyServer, out: Path):
        self.server, self.out = server, out
        self.prompt = to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.object_info())

    def draw(self, prompt: Prompt, name: str) -> tuple[Image.Image, dict[str, Any]]:
        """(the picture, what the nodes show: class -> their output)."""
        entry = self.server.run(prompt)
        png = self.server.image(entry)
        (self.out / f"{name}.png").write_bytes(png)
        shown = {prompt[node]["class_type"]: output for node, output in entry["outputs"].items()}
        return Image.open(io.BytesIO(png)).convert("RGB"), shown

    def asked(self, words: str) -> Prompt:
        return changed(self.prompt, "CLIPTextEncode", text=words)

    def alone(self, row: Row) -> Image.Image:
        """Without our node."""
        return self.draw(without_loader(self.asked(row.words)), f"{row.words}_alone")[0]

    def at(self, row: Row, strength: float) -> Image.Image:
        prompt = changed(
            self.asked(row.words), LOADER, lora_name=row.file, strength_model=strength, strength_clip=strength
        )
        of = row.lora if row.made is None else Path(row.made).stem
        return self.draw(prompt, f"{row.words}_{of}_{strength:.2f}")[0]

    def with_blocks(self, row: Row, weights: str) -> tuple[Image.Image, str]:
        """(the picture at strength 1 with these block weights, the weights as the node gives them)."""
        prompt = changed(self.asked(row.words), LOADER, lora_name=row.file, strength_model=1.0, strength_clip=1.0)
        values = {"layout": "auto", "preset": "none", "weights": weights, "seed": 0, "invert": False}
        prompt["blocks"] = {"class_type": "StrataLoraBlockWeights", "inputs": values}
        prompt = changed(prompt, LOADER, block_weights=["blocks", 0])
        picture, shown = self.draw(prompt, f"{row.words}_{row.lora}_{_as_name(weights)}")
        return picture, shown["StrataLoraBlockWeights"]["strata_weights"][0]

    def over_time(
        self, row: Row, text: str, positive: float = 1.0, negative: float = 1.0, cfg: float = 1.0
    ) -> Image.Image:
        """With a strength over time, as a text, and over the prompts."""
        prompt = changed(self.asked(row.words), LOADER, lora_name=row.file, strength_model=1.0, strength_clip=0.0)
        (loader,) = nodes_of(prompt, LOADER)
        _follow(prompt, loader, text, positive, negative)
        told = f"{text} {positive:g} {negative:g} {cfg:g}"
        return self.draw(changed(prompt, "KSampler", cfg=cfg), f"{row.words}_{row.lora}_{_as_name(told)}")[0]

    def together(self, one: Row, other: Row, *over_time: str) -> Image.Image:
        """With two LoRAs, each with its strength over time; the words are those of the first one."""
        prompt, *loaders = self._with_two(one, other)
        for loader, text in zip(loaders, over_time, strict=True):
            _follow(prompt, loader, text)
        return self.draw(prompt, f"{one.words}_{one.lora}_{other.lora}_{_as_name(' '.join(over_time))}")[0]

    def on_a_pair(self, row: Row, high: float, low: float) -> Image.Image:
        """With its file and that of its other half, by a row of a stack: the toy's model twice, each for half of the steps."""
        prompt = self.asked(row.words)
        (loader,), (sampler,) = nodes_of(prompt, LOADER), nodes_of(prompt, "KSampler")
        wires = {name: prompt[loader]["inputs"][name] for name in ("model", "clip")}
        rows = f"<lora:{Path(row.file).stem}:{high:g};{low:g}>"
        # Its outputs begin as those of the loader do; its last one is the low-noise model.
        prompt[loader] = {
            "class_type": "StrataLoraStack",
            "inputs": {**wires, "model_low": wires["model"], "rows": rows},
        }
        inputs = {**prompt[sampler]["inputs"]}
        half = inputs["steps"] // 2
        inputs |= {"noise_seed": inputs.pop("seed")}
        del inputs["denoise"]
        first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": half, "return_with_leftover_noise": "enable"}
        second = {
            "add_noise": "disable",
            "start_at_step": half,
            "end_at_step": 10000,
            "return_with_leftover_noise": "disable",
        }
        second |= {"model": [loader, 6], "latent_image": ["first", 0]}
        prompt["first"] = {"class_type": "KSamplerAdvanced", "inputs": {**inputs, **first}}
        prompt[sampler] = {"class_type": "KSamplerAdvanced", "inputs": {**inputs, **second}}
        return self.draw(prompt, f"{row.words}_{row.lora}_{high:g}_{low:g}")[0]

    def with_ranks(self, row: Row, count: int) -> Row:
        """The same with so many rank columns of a T-LoRA's file, all the time."""
        folder = self.server.base / "models" / "loras"
        with safe_open(folder / row.file, "pt") as file:
            about = file.metadata()
        # So high a power that no other column comes before the last of the noise is gone.
        args = {**json.loads(about["ss_network_args"]), "tlora_min_rank": str(count), "tlora_alpha": "1000"}
        made = f"{Path(row.file).stem}_ranks_{count}.safetensors"
        save_file(load_file(folder / row.file), folder / made, {**about, "ss_network_args": json.dumps(args)})
        return replace(row, made=made)

    def by_masks(self, left: Row, right: Row) -> Image.Image:
        """With a LoRA in each half of the picture, by a mask each, in one run of the model; the words are those of the left one."""
        prompt, one, other = self._with_two(left, right)
        for key, value, width in (("black", 0.0, 128), ("white", 1.0, 64)):
            prompt[key] = {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": 128}}
        inputs = {"destination": ["black", 0], "source": ["white", 0], "x": 64, "y": 0, "operation": "add"}
        prompt["right half"] = {"class_type": "MaskComposite", "inputs": inputs}
        prompt["left half"] = {"class_type": "InvertMask", "inputs": {"mask": ["right half", 0]}}
        for loader, half in ((one, "left half"), (other, "right half")):
            prompt[loader]["inputs"]["mask"] = [half, 0]
        return self.draw(prompt, f"{left.words}_{left.lora}_{right.lora}_by_masks")[0]

    def _with_two(self, one: Row, other: Row) -> tuple[Prompt, str, str]:
        """(the prompt with a loader for each, the ids of the two); text encoders stay as they are."""
        prompt = changed(self.asked(one.words), LOADER, lora_name=other.file, strength_model=1.0, strength_clip=0.0)
        (loader,) = nodes_of(prompt, LOADER)
        prompt["before"] = {"class_type": LOADER, "inputs": {**prompt[loader]["inputs"], "lora_name": one.file}}
        prompt[loader]["inputs"] |= {"model": ["before", 0], "clip": ["before", 1]}
        return prompt, "before", loader

    def saved(self, row: Row, weights: str = "default=1", **settings: Any) -> Row:
        """The same with a file that Save LoRA makes of the LoRA with these block weights."""
        prompt = changed(self.asked(row.words), LOADER, lora_name=row.file, strength_model=1.0, strength_clip=1.0)
        (loader,) = nodes_of(prompt, LOADER)
        wires = {name: prompt[loader]["inputs"][name] for name in ("model", "clip")}
        values = {"layout": "auto", "preset": "none", "weights": weights, "seed": 0, "invert": False}
        made = {"method": "sum", "shrink": "exact", "amount": 32.0, "filename_prefix": "strata_toy_made", **settings}
        prompt = {
            "blocks": {"class_type": "StrataLoraBlockWeights", "inputs": values},
            "loader": {"class_type": LOADER, "inputs": {**prompt[loader]["inputs"], "block_weights": ["blocks", 0]}},
            "save": {"class_type": "StrataLoraSave", "inputs": {**made, **wires, "lora_stack": ["loader", 4]}},
            **{key: node for key, node in prompt.items() if key in {source for source, _ in wires.values()}},
        }
        entry = self.server.run(prompt)
        (name,) = entry["outputs"]["save"]["strata_lora"]
        return replace(row, made=name)

    def merged(self, one: Row, other: Row) -> Image.Image:
        """The picture of both LoRAs in one file."""
        stack = {}
        for key, row, before in (("one", one, None), ("other", other, "one")):
            values = {"lora_name": row.file, "strength_model": 1.0, "strength_clip": 1.0}
            stack[key] = {"class_type": LOADER, "inputs": {**values, **({"lora_stack": [before, 4]} if before else {})}}
        values = {"method": "sum", "shrink": "exact", "amount": 32.0, "filename_prefix": "strata_toy_merged"}
        stack["save"] = {"class_type": "StrataLoraSave", "inputs": {**values, "lora_stack": ["other", 4]}}
        (name,) = self.server.run(stack)["outputs"]["save"]["strata_lora"]
        return self.at(replace(one, made=name), 1.0)

    def inspected(self, row: Row) -> Image.Image:
        """What Inspect LoRA draws of its file."""
        values = {"lora_name": row.file, "theme": "light"}
        prompt = {
            "look": {"class_type": "StrataLoraInspect", "inputs": values},
            "save": {"class_type": "PreviewImage", "inputs": {"images": ["look", 0]}},
        }
        return self.draw(prompt, f"{row.lora}_inspected")[0]

    def swept(self, row: Row, **values: Any) -> tuple[Image.Image, str]:
        """(the labelled grid that LoRA Sweep draws with its file, the report)."""
        (sampler,), (decoder,) = nodes_of(self.prompt, "KSampler"), nodes_of(self.prompt, "VAEDecode")
        (loader,) = nodes_of(self.prompt, LOADER)
        own = self.prompt[sampler]["inputs"]
        wires = {name: self.prompt[loader]["inputs"][name] for name in ("model", "clip")}
        wires |= {"vae": self.prompt[decoder]["inputs"]["vae"], "latent_image": own["latent_image"]}
        plain = {name: own[name] for name in ("seed", "steps", "cfg", "sampler_name", "scheduler")}
        axes = {f"{letter}_{part}": value for letter in "xyz" for part, value in (("axis", "none"), ("values", ""))}
        asked = {"positive": row.words, "negative": "", "lora_name": row.file, **axes, **values}
        before = {key: node for key, node in self.prompt.items() if key in {source for source, _ in wires.values()}}
        prompt = {"sweep": {"class_type": "StrataSweep", "inputs": {**wires, **plain, **asked}}, **before}
        shown = self.server.run(prompt)["outputs"]["sweep"]
        (file,) = shown["strata_sweep"][0]["grid"]
        png = self.server.get(f"/view?{urlencode(file)}")
        return Image.open(io.BytesIO(png)).convert("RGB"), shown["strata_report"][0]

    def from_start(self, row: Row, percent: float) -> Image.Image:
        """The picture with the LoRA at 0 until ``percent`` (0..1) of the sampling and at 1 from there on."""
        prompt = changed(self.asked(row.words), LOADER, lora_name=row.file, strength_model=1.0, strength_clip=0.0)
        for key, before, values in (("off", None, (0.0, 0.0)), ("on", "off", (1.0, percent))):
            inputs: dict[str, Any] = dict(zip(("strength_mult", "start_percent"), values, strict=True))
            if before:
                inputs["prev_hook_kf"] = [before, 0]
            prompt[key] = {"class_type": "CreateHookKeyframe", "inputs": inputs}
        return self.draw(changed(prompt, LOADER, keyframes=["on", 0]), f"{row.words}_{row.lora}_from_{percent:.2f}")[0]


def _follow(prompt: Prompt, loader: str, text: str, positive: float = 1.0, negative: float = 1.0) -> None:
    """Gives a loader a strength over time."""
    inputs = {"strength": text, "positive": positive, "negative": negative}
    prompt[f"{loader} over time"] = {"class_type": "StrataLoraSchedule", "inputs": inputs}
    prompt[loader]["inputs"]["keyframes"] = [f"{loader} over time", 0]


def _as_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)
