"""What a sweep costs: ten strengths of one LoRA beside ten samplings without any node, core's loader, and a reload for each cell, as packs
of X/Y plots do it; and what a hundred cells hold in memory."""

from __future__ import annotations

import gc
import os
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.utils
import folder_paths
import safetensors.torch
import torch

from strata.devtools.model_cache import toy_models
from strata.devtools.toy.studio import Studio
from strata.nodes.comfy.drawing import Way
from strata.nodes.lora_sweep import StrataSweep
from strata.nodes.stack import StackEntry
from strata.nodes.sweep.plan import Settings
from strata.nodes.sweep.run import Artist, Counts

from . import machine, models
from .results import table

STRENGTHS = tuple(at / 10 for at in range(1, 11))
# Pixels / 8: small pictures, where what a LoRA costs weighs most.
SIZE = 16
STEPS = 1


def sweep(quick: bool) -> str:
    # First: the peak of a process never falls.
    held, rows = _held(20 if quick else 100), []
    for name in ("SD1.5", "FLUX"):
        times = _timed(name)
        alone = times["alone"]
        shown = [str(machine.ratio(times[which], alone)) for which in ("live", "patch", "core", "reload")]
        rows.append((name, f"{alone.median:.1f} s", *shown))
    notes = (
        f"Ten strengths of a LoRA of rank 16 on every layer of attention, {STEPS} step of Euler each at {8 * SIZE} x {8 * SIZE} pixels;",
        "encoding, decoding and saving, which are the same for all, are left out. Ratios to the ten samplings without a LoRA, of one",
        "round. Reload: the file is read and the model patched for each cell, as packs of X/Y plots do it.",
    )
    heads = ("", "ten samplings alone", "sweep, live", "sweep, patch", "core's loader", "reload")
    return table("Sweeps", heads, rows, *notes, held)


def _timed(name: str) -> dict[str, machine.Times]:
    model = models.build(name, torch.float32)
    channels, context, pooled = models.MODELS[name][2:]
    extra = {} if pooled is None else {"pooled_output": torch.randn(1, pooled)}
    prompt = [[torch.randn(1, *context), extra]]
    latent = {"samples": torch.zeros(1, channels, SIZE, SIZE)}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        known = folder_paths.folder_names_and_paths["loras"]
        folder_paths.folder_names_and_paths["loras"] = ([folder], known[1])
        folder_paths.filename_list_cache.pop("loras", None)
        file = os.path.join(folder, "a.safetensors")
        safetensors.torch.save_file(_lora(model), file)
        key_map = comfy.lora.model_lora_keys_unet(model.model, {})
        loaded = comfy.lora.load_lora(comfy.utils.load_torch_file(file), key_map)
        way = Way("euler", "simple", 1.0, latent, _NoVae())
        row = StackEntry("a.safetensors", 1.0, 0.0)
        plain = Settings((row,), "", "", 1, STEPS, 1.0)

        def alone() -> None:
            for _ in STRENGTHS:
                _sampled(model, prompt, latent)

        def core(patches=loaded) -> None:
            for strength in STRENGTHS:
                patched = model.clone()
                patched.add_patches(patches, strength)
                _sampled(patched, prompt, latent)

        def reload() -> None:
            for strength in STRENGTHS:
                patched = model.clone()
                patched.add_patches(comfy.lora.load_lora(comfy.utils.load_torch_file(file), key_map), strength)
                _sampled(patched, prompt, latent)

        def swept(apply: str) -> None:
            artist = _Sampling(model, None, way, apply, None, Counts())
            artist.prompt = prompt
            for strength in STRENGTHS:
                artist.draw(replace(plain, rows=(StackEntry("a.safetensors", strength, 0.0),)), lambda *_: None)

        found = machine.alternate(
            1, alone=alone, live=lambda: swept("live"), patch=lambda: swept("patch"), core=core, reload=reload
        )
        folder_paths.folder_names_and_paths["loras"] = known
    comfy.model_management.unload_all_models()
    gc.collect()
    return found


def _sampled(model, prompt, latent) -> None:
    noise = comfy.sample.prepare_noise(latent["samples"], 1)
    comfy.sample.sample(
        model, noise, STEPS, 1.0, "euler", "simple", prompt, prompt, latent["samples"], disable_pbar=True, seed=1
    )


def _lora(model) -> dict[str, torch.Tensor]:
    """Rank 16 on the layers that trainers choose: attention and what lies beside it, by ComfyUI's own names."""
    make, found = torch.Generator().manual_seed(0), {}
    for key, weight in model.model.state_dict().items():
        chosen = any(part in key for part in ("attn", "_blocks.", "linear"))
        if chosen and key.endswith(".weight") and weight.dim() == 2 and min(weight.shape) >= 64:
            name = key.removesuffix(".weight")
            found[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], 16, generator=make).mul_(0.01)
            found[f"{name}.lora_down.weight"] = torch.randn(16, weight.shape[1], generator=make).mul_(0.01)
    return found


class _NoVae:
    def decode(self, latent):
        return torch.zeros(len(latent), 8, 8, 3)


class _Sampling(Artist):
    """Draws with a prompt that is encoded already."""

    prompt: list

    def _prompt(self, settings, text):
        return self.prompt


def _held(count: int) -> str:
    """Peak memory of the process after ten cells and after all of them, on the toy."""
    folder = toy_models(print)
    known = folder_paths.folder_names_and_paths["loras"]
    folder_paths.folder_names_and_paths["loras"] = ([str(folder / "loras")], known[1])
    folder_paths.filename_list_cache.pop("loras", None)
    before = folder_paths.get_output_directory()
    studio, prompt = Studio.open(folder), {"9": {"class_type": "StrataSweep", "inputs": {}}}
    hidden = type("Hidden", (), {"prompt": prompt, "unique_id": "9", "extra_pnginfo": None})
    node = type("StrataSweep", (StrataSweep,), {"hidden": hidden})
    peaks = []
    with tempfile.TemporaryDirectory() as out, torch.inference_mode():
        folder_paths.set_output_directory(out)
        for cells in (10, 10, count):
            node.execute(
                vae=studio.vae, latent_image={"samples": torch.zeros(1, 16, 16, 16)}, model=studio.model, clip=studio.clip,
                lora_name="strata_toy_picture_book.safetensors", x_axis="strength model", x_values=f"0-1[{cells // 2}]",
                y_axis="seed", y_values="1, 2", positive="fox", steps=1, cfg=1.0, compare_with="nothing", resume=False,
                cell_size=32, filename_prefix=f"{len(peaks)}/x",
            )  # fmt: skip
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        assert len(list(Path(out).rglob("x_0*.png"))) == 20 + count
    folder_paths.set_output_directory(before)
    folder_paths.folder_names_and_paths["loras"] = known
    return f"Peak memory of the process: {peaks[1]:.0f} MB after 20 cells on the toy, {peaks[2]:.0f} MB after {count} more."
