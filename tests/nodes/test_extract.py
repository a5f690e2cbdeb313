"""Extract LoRA: what was patched onto a model comes back as a file that ComfyUI's own loader puts on again."""

from __future__ import annotations

import json
import os

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import safetensors
import safetensors.torch
import torch

from strata.benchmarks.machine import peak_memory
from strata.lora_math.algebra.budget import Budget
from strata.lora_math.algebra.extract import extract
from strata.lora_math.algebra.sketch import OVERSAMPLED
from strata.lora_math.command_line import main
from strata.lora_math.errors import StrataError
from strata.lora_math.reading import state_dict
from strata.lora_math.reading.checkpoints import CHUNK, open_checkpoint, pairs
from strata.lora_math.reading.files import read_lora_file
from strata.nodes.extract import StrataLoraExtract
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import lora_makers, small_models
from strata.tests.nodes.helpers.saved_loras import assert_same, by_core, weights


def extract_node(**settings):
    given = {"rank": 4, "shrink": "exact", "amount": 0.0, "filename_prefix": "made", "precision": "fp32"} | settings
    return StrataLoraExtract.execute(**given).result


def test_a_patched_model_gives_its_lora_back(lora_folder, output):
    model = small_models.flux()
    tensors = lora_makers.kohya(
        lora_makers.unet_names(model, "lora_unet_"), lora_makers.shapes(model.model), rank=4, dtype=torch.float32
    )
    name = lora_folder.save("one.safetensors", tensors)
    patched = StrataLoraLoader.execute(name, 0.7, 0.0, model=model).result[0]
    saved, _, report = extract_node(model=patched, base_model=model)
    assert_same(patched, by_core(model, None, saved)[0], model, 2e-4)  # float32 weights were subtracted
    assert "rank 4" in report.splitlines()[0]
    smaller, _, report = extract_node(model=patched, base_model=model, shrink="rank", amount=2)
    core, own, mine = weights(by_core(model, None, smaller)[0]), model.model.state_dict(), weights(patched)
    norm = sum(float((w - own[k]).double().square().sum()) for k, w in mine.items()) ** 0.5
    lost = sum(float((core[k] - w).double().square().sum()) for k, w in mine.items()) ** 0.5
    assert f"error {100 * lost / norm:.2g} %" in report.splitlines()[0]


def test_live_loras_are_part_of_the_difference(lora_folder, output):
    model = small_models.sd15()
    names = [
        lora_folder.save(
            f"{seed}.safetensors",
            lora_makers.kohya(
                lora_makers.unet_names(model, "lora_unet_"),
                lora_makers.shapes(model.model),
                rank=2,
                dtype=torch.float32,
                seed=seed,
            ),
        )
        for seed in (1, 2)
    ]

    def with_both(base, ways):
        for name, way in zip(names, ways, strict=True):
            base = StrataLoraLoader.execute(name, 0.7, 0.0, model=base, apply=way).result[0]
        return base

    patched = with_both(model, ("patch", "patch"))
    for ways in (("patch", "live"), ("live", "live")):
        saved = extract_node(model=with_both(model, ways), base_model=model)[0]
        assert_same(patched, by_core(model, None, saved)[0], model, 2e-4)
    # In the base too: what is left is the other one.
    live_base = StrataLoraLoader.execute(names[0], 0.7, 0.0, model=model, apply="live").result[0]
    saved = extract_node(model=patched, base_model=live_base)[0]
    other = StrataLoraLoader.execute(names[1], 0.7, 0.0, model=model).result[0]
    assert_same(other, by_core(model, None, saved)[0], model, 2e-4)
    masked = StrataLoraLoader.execute(names[0], 1.0, 0.0, model=model, mask=torch.ones(1, 8, 8)).result[0]
    with pytest.raises(StrataError, match="by its mask"):
        extract_node(model=masked, base_model=model)


def test_norms_biases_and_text_encoders_go_along(lora_folder, output):
    clip, tuned = small_models.sd15_clip(), small_models.sd15_clip()
    changed = {}
    for key, parameter in tuned.cond_stage_model.named_parameters():
        if "layers.1." in key:
            parameter.data.add_(0.25)
            changed[key] = parameter.data.clone()
    saved, found, _ = extract_node(clip=tuned, base_clip=clip, rank=8)
    assert any(key.endswith(".diff_b") for key in found) and any(
        key.endswith(".lora_up.weight") or key.endswith(".lora_B.weight") for key in found
    )
    core = weights(by_core(None, clip, saved)[1].patcher)
    assert set(core) == set(changed)
    for key, value in changed.items():
        assert torch.allclose(core[key], value, rtol=0, atol=1e-4), key


def open_clip(width: int, layers: int) -> dict[str, torch.Tensor]:
    """A text encoder in OpenCLIP's spelling, as SDXL and SD2 checkpoints have it."""
    made = {
        "positional_embedding": torch.randn(9, width),
        "text_projection": torch.randn(width, width),
        "token_embedding.weight": torch.randn(50, width),
        "ln_final.weight": torch.randn(width),
        "ln_final.bias": torch.randn(width),
        "logit_scale": torch.tensor(4.6),
    }
    for n in range(layers):
        block = f"transformer.resblocks.{n}."
        made |= {
            f"{block}attn.in_proj_weight": torch.randn(3 * width, width),
            f"{block}attn.in_proj_bias": torch.randn(3 * width),
            f"{block}attn.out_proj.weight": torch.randn(width, width),
            f"{block}attn.out_proj.bias": torch.randn(width),
            f"{block}ln_1.weight": torch.randn(width),
            f"{block}ln_2.bias": torch.randn(width),
            f"{block}mlp.c_fc.weight": torch.randn(4 * width, width),
            f"{block}mlp.c_proj.weight": torch.randn(width, 4 * width),
        }
    return made


def test_the_command_line_extracts_text_encoders_under_the_names_that_core_gives_them(tmp_path):
    """SDXL's two, one of them in OpenCLIP's spelling, which core takes apart when it loads a checkpoint."""
    prefix, inner = "conditioner.embedders.1.model.", "conditioner.embedders.0.transformer.text_model.encoder.layers.0."
    base = {prefix + key: value for key, value in open_clip(24, 2).items()}
    base |= {
        f"{inner}mlp.fc1.weight": torch.randn(40, 10),
        "model.diffusion_model.out.2.weight": torch.randn(4, 8, 3, 3),
    }
    tuned = {key: value + 0.1 * torch.randn(value.shape) for key, value in base.items()}
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("base", "tuned", "lora")]
    for path, tensors in zip(paths, (base, tuned), strict=False):
        safetensors.torch.save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    assert main(["extract", *paths[:2], "--out", paths[2], "--largest-rank", "60", "--type", "fp32"]) == 0
    found = {(e.module, e.parameter): e.adapter for e in state_dict.parse(read_lora_file(paths[2]).tensors).entries}
    converted = [comfy.utils.clip_text_transformers_convert(dict(of), prefix, "") for of in (base, tuned)]
    expected = {
        f"text_encoders.clip_g.transformer.{key}": converted[1][key] - value
        for key, value in converted[0].items()
        if not key.startswith(("conditioner.", "model.")) and key.endswith((".weight", ".bias"))
    }
    for key, name in ((f"{inner}mlp.fc1.weight", "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"),
                      ("model.diffusion_model.out.2.weight", "diffusion_model.out.2.weight")):  # fmt: skip
        expected[name] = tuned[key] - base[key]
    assert {f"{module}.{parameter}" for module, parameter in found} == set(expected)
    assert len(expected) > 25
    for key, delta in expected.items():
        module, _, parameter = key.rpartition(".")
        got = found[module, parameter].delta(torch.zeros(delta.shape))
        assert torch.allclose(got.float(), delta, rtol=0, atol=2e-5), key


def test_the_command_line_takes_a_text_encoder_alone(tmp_path):
    key = "text_model.encoder.layers.0.mlp.fc1.weight"
    base = {"text_model.embeddings.token_embedding.weight": torch.ones(5, 1280), key: torch.randn(8, 8)}
    tuned = base | {key: base[key] + 1}
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("base", "tuned", "lora")]
    for path, tensors in zip(paths, (base, tuned), strict=False):
        safetensors.torch.save_file(tensors, path)
    assert main(["extract", *paths[:2], "--out", paths[2]]) == 0
    (entry,) = state_dict.parse(read_lora_file(paths[2]).tensors).entries
    assert entry.module == "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_more_than_two_weights_are_held_above_the_models(dtype, tmp_path):
    """Of files: the largest weight twice in float32, its sketch, and the pieces in which a file is read."""
    shapes = {"big": (2048, 1536), "small": (64, 48)}
    base = {f"diffusion_model.{name}.weight": torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    tuned = {key: value + torch.randn(value.shape).to(dtype) for key, value in base.items()}
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("base", "tuned")]
    for path, tensors in zip(paths, (base, tuned), strict=True):
        safetensors.torch.save_file(tensors, path)
    largest, thin = 2048 * 1536 * 4, (2048 + 1536) * (8 + OVERSAMPLED) * 4
    with open_checkpoint(paths[0]) as one, open_checkpoint(paths[1]) as other:
        peak = peak_memory(lambda: extract(list(pairs(one, other)), 8, Budget(), torch.float16))
    assert 2 * largest <= peak <= 2 * largest + 6 * thin + CHUNK


@pytest.mark.parametrize("shrink, amount", [("exact", 0.0), ("size", 0.05)])
def test_pressing_stop_leaves_nothing(shrink, amount, lora_folder, output, monkeypatch):
    model = small_models.flux()
    tensors = lora_makers.kohya(lora_makers.unet_names(model, "lora_unet_"), lora_makers.shapes(model.model))
    name = lora_folder.save("one.safetensors", tensors)
    patched = StrataLoraLoader.execute(name, 0.7, 0.0, model=model).result[0]
    calls, stop_at = 0, 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", stop)
    settings = {"model": patched, "base_model": model, "shrink": shrink, "amount": amount}
    extract_node(**settings)
    total, folder = calls, output / "loras"
    before = set(os.listdir(folder))
    for moment in (1, 2, total // 2, total - 2, total - 1, total):
        calls, stop_at = 0, moment
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            extract_node(**settings)
        assert calls == moment, "stopped at once"
        assert set(os.listdir(folder)) == before


@pytest.mark.parametrize("shrink, amount, allowed", [("error", 10.0, 0.1), ("energy", 99.0, 0.1)])
def test_an_error_is_of_the_whole_difference(shrink, amount, allowed, lora_folder, output):
    """Also of what lies beyond the largest rank; where that alone is too much, the report says so."""
    model = small_models.flux()
    tensors = lora_makers.kohya(
        lora_makers.unet_names(model, "lora_unet_"), lora_makers.shapes(model.model), rank=8, dtype=torch.float32
    )
    patched = StrataLoraLoader.execute(lora_folder.save("one.safetensors", tensors), 0.7, 0.0, model=model).result[0]
    settings = {"model": patched, "base_model": model, "shrink": shrink, "amount": amount}
    for rank, is_enough in ((8, True), (4, False)):
        saved, _, report = extract_node(rank=rank, **settings)
        core, own, mine = weights(by_core(model, None, saved)[0]), model.model.state_dict(), weights(patched)
        norm = sum(float((w - own[k]).double().square().sum()) for k, w in mine.items()) ** 0.5
        lost = sum(float((core.get(k, own[k]) - w).double().square().sum()) for k, w in mine.items()) ** 0.5
        assert (lost / norm <= allowed * 1.001) == is_enough
        assert (
            "The error is larger than was asked for (10 %): no layer may have more than rank 4" in report
        ) != is_enough


def test_a_size_is_kept_and_used(lora_folder, output):
    model = small_models.flux()
    tensors = lora_makers.kohya(lora_makers.unet_names(model, "lora_unet_"), lora_makers.shapes(model.model), rank=8)
    patched = StrataLoraLoader.execute(lora_folder.save("one.safetensors", tensors), 0.7, 0.0, model=model).result[0]
    errors = []
    for amount in (0.06, 0.12):
        saved, *_ = extract_node(
            model=patched, base_model=model, rank=8, shrink="size", amount=amount, precision="fp16"
        )
        path = folder_paths.get_full_path_or_raise("loras", saved)
        assert 0.8 * amount * 1e6 < os.path.getsize(path) <= amount * 1e6
        with safetensors.safe_open(path, "pt") as file:
            errors.append(json.loads(file.metadata()["strata.recipe"])["error"])
    assert errors[0] > errors[1] > 0


@pytest.mark.parametrize(
    "connected, says",
    [
        ((), "Nothing is connected"),
        (("model",), "Connect base_model too"),
        (("base_model",), "Connect model too"),
        (("model", "base_model"), "nothing to extract"),
    ],
)
def test_faults_are_sentences(connected, says, lora_folder, output):
    with pytest.raises(StrataError, match=says):
        extract_node(**dict.fromkeys(connected, small_models.flux()))


def test_models_of_two_families_are_refused(lora_folder, output):
    with pytest.raises(StrataError, match="different families"):
        extract_node(model=small_models.flux(), base_model=small_models.flux(hidden_size=48, axes_dim=[4, 10, 10]))
