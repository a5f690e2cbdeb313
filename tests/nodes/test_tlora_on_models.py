"""T-LoRA files on ComfyUI's models, against a model that is patched anew at every step with what LyCORIS's formula gives there."""

from __future__ import annotations

import os

import folder_paths
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from strata.lora_math.adapters import Diff
from strata.lora_math.errors import StrataError
from strata.nodes.comfy import beginnings
from strata.nodes.comfy.live import loras_of
from strata.nodes.comfy.live_time import Clock
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.save import StrataLoraSave
from strata.nodes.stack import StackEntry
from strata.tests.nodes.helpers import lora_makers, sampling
from strata.tests.nodes.test_live_time import assert_same, reference, sample

RANK, ALPHA = 6, 3.0


@pytest.fixture(autouse=True)
def user(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("user")
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(folder))
    beginnings._known.clear()
    return folder / "default" / "strata" / "tlora"


@pytest.fixture(scope="module")
def models():
    yield from sampling.each_once(lambda model, _: model)


# By which names, and of which layers: of FLUX one that is whole, and a third of one that ComfyUI has as one.
NAMES = {
    "SD1.5": lambda model: lora_makers.unet_names(model, "lora_unet_", "_to_"),
    "FLUX.1": lambda model: {
        **{k: v for k, v in lora_makers.unet_names(model, "lycoris_").items() if k.endswith(("_to_q", "_to_out_0"))},
    },
}


def trained(model, family, slice="principal", seed=0):
    """(the file's tensors, patch key -> what LyCORIS's forward adds to the weight at a timestep), after a training from ``slice``."""
    # Whatever ran before may have left the model patched.
    sampling.unload()
    generator = torch.Generator().manual_seed(seed)
    tensors, changes = {}, {}
    for module, key in NAMES[family](model).items():
        name, part = (key, None) if isinstance(key, str) else (key[0], key[1])
        weight = model.model.state_dict()[name].double()
        weight = weight if part is None else weight.narrow(*part)
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        start = {"principal": 0, "last": len(s) - RANK, "middle": (len(s) - RANK) // 2}[slice]
        p0, s0, q0 = u[:, start : start + RANK], s[start : start + RANK], v[start : start + RANK]
        near = lambda x: x + 0.3 * x.abs().mean() * torch.randn(x.shape, generator=generator)  # noqa: E731
        p, s1, q = (
            near(p0).float(),
            (near(s0) + s.max() * torch.rand(RANK, generator=generator)).float(),
            near(q0).float(),
        )
        tensors |= {f"{module}.p_layer.weight": p, f"{module}.q_layer.weight": q}
        tensors |= {f"{module}.lambda_layer": s1[None], f"{module}.alpha": torch.tensor(ALPHA)}
        changes[key] = (p.double(), s1.double(), q.double(), p0, s0, q0)

    def at(timestep: float) -> dict:
        rank = min(int((1000 - timestep) / 1000 * (RANK - 1)) + 1, RANK)
        m = (torch.arange(RANK) < rank).double()
        found = {}
        for key, (p, s1, q, p0, s0, q0) in changes.items():
            delta = ALPHA / RANK * ((p * (s1 * m)) @ q - (p0 * (s0 * m)) @ q0)
            found[key] = [(1.0, Diff(delta))]
        return found

    return tensors, at


def load(model, name, strength=1.0, **settings):
    return StrataLoraLoader.execute(name, strength, 0.0, model=model, **settings).result


@pytest.mark.parametrize(
    ("family", "slice", "apply"),
    [
        ("SD1.5", "principal", "auto"),
        ("SD1.5", "last", "patch"),
        ("FLUX.1", "middle", "live"),
        ("FLUX.1", "last", "auto"),
    ],
)
def test_at_every_step(models, lora_folder, family, slice, apply):
    model = models(family)
    tensors, at = trained(model, family, slice)
    name = lora_folder.save("t.safetensors", tensors)
    sampling_ = model.get_model_object("model_sampling")
    timestep = lambda s: 1000 * s if family == "FLUX.1" else float(sampling_.timestep(torch.tensor(s)))  # noqa: E731
    strength = 30.0
    changed, *_, report, _ = load(model, name, strength, apply=apply)
    assert (
        "T-LoRA: of 6 rank columns 1 acts at the most noise (the trainers' default: the file does not say), and more the less noise is left"
        in report
    )
    expected = reference(model, family, lambda *_: strength, lambda sigma: at(timestep(sigma)))
    plain = sample(model, family)
    whole = reference(model, family, lambda *_: strength, at(0.0))
    assert (whole - expected).norm() > 1e-2 * (expected - plain).norm(), "the mask does next to nothing"
    assert_same(sample(changed, family), expected, plain)
    assert torch.equal(sample(model, family), plain)


@pytest.mark.parametrize("family", ["SD1.5", "FLUX.1"])
def test_the_timestep_is_the_trainers_at_each_noise(models, family):
    """Whole steps from 999 to 0 by ComfyUI's own table, or 1000 times the noise of a flow model."""
    base = models(family).model
    sampling_ = base.model_sampling
    clock = Clock([None], base)
    for percent in (0.0, 0.001, 0.25, 0.4, 0.4994, 0.501, 0.75, 0.999, 1.0):
        sigma = torch.tensor(float(sampling_.percent_to_sigma(percent)))
        clock.strengths({"sigmas": sigma[None], "sample_sigmas": torch.linspace(1.0, 0.0, 5)})
        expected = 1000 * float(sigma) if family == "FLUX.1" else float(sampling_.timestep(sigma))
        assert clock.timestep == pytest.approx(expected, abs=1e-3)


def test_a_lora_before_it_does_not_move_where_it_began(models, lora_folder):
    model = models("SD1.5")
    tensors, _ = trained(model, "SD1.5")
    name = lora_folder.save("t.safetensors", tensors)
    other = lora_folder.save("plain.safetensors", lora_makers.full_lora(model, alpha=64.0, dtype=torch.float32))
    alone = load(model, name)[0]
    beginnings._known.clear()
    both = load(load(model, other, apply="patch")[0], name)[0]
    assert len(both.patches) and torch.isfinite(sample(both, "SD1.5")).all()
    found = [beginnings._known[model.model]]
    assert len(found[0]) == len(NAMES["SD1.5"](model))
    assert not torch.equal(sample(alone, "SD1.5"), sample(both, "SD1.5"))


def test_what_was_found_is_kept(models, lora_folder, monkeypatch, user):
    model, found = models("SD1.5"), []
    tensors, _ = trained(model, "SD1.5")
    name = lora_folder.save("t.safetensors", tensors)
    directions = beginnings.directions
    monkeypatch.setattr(beginnings, "directions", lambda *args: found.append(1) or directions(*args))
    first = sample(load(model, name)[0], "SD1.5")
    count = len(NAMES["SD1.5"](model))
    assert len(found) == count
    load(model, name, 0.3)
    assert len(found) == count
    beginnings._known.clear()
    assert torch.equal(sample(load(model, name)[0], "SD1.5"), first)
    assert len(found) == count, "it is read from the disk"
    (file,) = user.iterdir()
    file.write_bytes(b"not a file of ours")
    beginnings._known.clear()
    assert torch.equal(sample(load(model, name)[0], "SD1.5"), first)
    assert len(found) == 2 * count
    # Numbers of the right size that are not this weight's: nothing of them is used, and what is right takes their place.
    for spoil in (
        torch.randn_like,
        # As many directions, at right angles to each other, of another weight.
        lambda kept: torch.linalg.qr(torch.randn_like(kept).T).Q.T.contiguous(),
        torch.zeros_like,
        lambda kept: kept.to(torch.int32),
        lambda kept: kept.half(),
    ):
        tensors = load_file(file)
        save_file({key: spoil(tensor) for key, tensor in tensors.items()}, file)
        beginnings._known.clear()
        before = len(found)
        assert torch.equal(sample(load(model, name)[0], "SD1.5"), first)
        assert len(found) == before + count
    beginnings._known.clear()
    assert torch.equal(sample(load(model, name)[0], "SD1.5"), first)
    assert len(found) == before + count, "it was mended on the disk"


def test_the_oldest_go_where_they_are_too_many(monkeypatch, tmp_path):
    for age, letter in enumerate("abcd"):
        (tmp_path / letter).write_bytes(bytes(10))
        os.utime(tmp_path / letter, ns=(0, 1000 - age))
    monkeypatch.setattr(beginnings, "MAX_BYTES", 25)
    # The one that was just written stays, however old its time says that it is.
    beginnings._tidy(str(tmp_path), str(tmp_path / "d"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]


def test_a_full_disk_is_no_fault_of_the_lora(models, lora_folder, monkeypatch, user):
    def full(*_, **__):
        raise SafetensorError("No space left on device")

    model = models("SD1.5")
    name = lora_folder.save("t.safetensors", trained(model, "SD1.5")[0])
    monkeypatch.setattr(beginnings, "save_file", full)
    beginnings._known.clear()
    assert len(loras_of(load(model, name)[0])) == 1
    assert not list(user.iterdir())


def test_it_can_be_stopped_and_goes_on(models, lora_folder, monkeypatch, user):
    model, found = models("SD1.5"), []
    tensors, _ = trained(model, "SD1.5")
    name = lora_folder.save("t.safetensors", tensors)
    directions, count = beginnings.directions, len(NAMES["SD1.5"](model))

    class Stopped(BaseException):
        pass

    def stop_at_three(*args):
        if len(found) == 3:
            raise Stopped
        found.append(1)
        return directions(*args)

    monkeypatch.setattr(beginnings, "directions", stop_at_three)
    with pytest.raises(Stopped):
        load(model, name)
    assert len(list(user.iterdir())) == 1
    monkeypatch.setattr(beginnings, "directions", lambda *args: found.append(1) or directions(*args))
    load(model, name)
    assert len(found) == count


def test_another_models_file_is_refused(models, lora_folder):
    model = models("SD1.5")
    tensors, _ = trained(model, "SD1.5")
    generator = torch.Generator().manual_seed(9)
    for key, tensor in tensors.items():
        if "_layer.weight" in key:
            tensors[key] = torch.randn(tensor.shape, generator=generator)
    name = lora_folder.save("t.safetensors", tensors)
    with pytest.raises(
        StrataError, match=r"t\.safetensors: diffusion_model\..*not trained from this model's weights.*Use the model"
    ):
        load(model, name)
    out, _, _, report, _ = load(model, name, on_problem="warn")
    assert out is model and "not trained from this model's weights" in report


def test_where_it_cannot_run_it_is_refused_by_name(models, lora_folder, monkeypatch):
    model = models("SD1.5")
    tensors, _ = trained(model, "SD1.5")
    name = lora_folder.save("t.safetensors", tensors)
    with pytest.raises(StrataError, match="T-LoRA"):
        StrataLoraSave.execute("sum", "exact", 1.0, "x", lora_stack=[StackEntry(name, 1.0, 1.0)], model=model)
    changed = load(model, name)[0]
    from strata.nodes.comfy.live import into_patches

    with pytest.raises(StrataError, match="for a T-LoRA or TC-LoRA, load it after the merge"):
        into_patches(changed.clone())
    monkeypatch.setattr("strata.nodes.apply_lora.live.is_compiled", lambda *_: True)
    with pytest.raises(StrataError, match=r"t\.safetensors is a T-LoRA.*torch\.compile"):
        load(model, name)
    monkeypatch.undo()
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(lora_folder.path / "user"))
    monkeypatch.setattr("strata.nodes.comfy.live_layers.layers_of", lambda _: {})
    with pytest.raises(StrataError, match=r"t\.safetensors is a T-LoRA.*can only be patched"):
        load(model, name)
