"""A folder of LoRAs: copies are found by their data and by what they do, and only new files are read again."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from strata.lora_math import command_line
from strata.lora_math.adapters import LoKr, LoRA
from strata.lora_math.errors import StrataError
from strata.lora_math.inspecting import library
from strata.lora_math.inspecting.library import fingerprint, look_through, read_index, write_index
from strata.lora_math.reading.state_dict import Entry

SHAPES = ((48, 32), (32, 48), (64, 64), (48, 32))


def lora(seed: int, rank: int = 6) -> dict[str, torch.Tensor]:
    """With singular values that fall, as trained ones do."""
    make = torch.Generator().manual_seed(seed)
    found = {}
    for at, (out, columns) in enumerate(SHAPES):
        fall = 0.4 ** torch.arange(rank)
        found[f"lora_unet_input_blocks_{at}_1_proj_in.lora_up.weight"] = torch.randn(out, rank, generator=make) * fall
        found[f"lora_unet_input_blocks_{at}_1_proj_in.lora_down.weight"] = torch.randn(rank, columns, generator=make)
        found[f"lora_unet_input_blocks_{at}_1_proj_in.alpha"] = torch.tensor(float(rank))
    return found


def run(*arguments) -> int:
    return command_line.main([str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path):
    """Four LoRAs that have nothing to do with each other, and five copies of the first."""
    loras = tmp_path / "loras"
    (loras / "sub").mkdir(parents=True)
    for seed in range(4):
        save_file(lora(seed), loras / f"{seed}.safetensors")
    save_file(load_file(loras / "0.safetensors"), loras / "sub" / "renamed header.safetensors", {"ss_output_name": "x"})
    assert run("resize", loras / "0.safetensors", "--rank", 3, "--out", loras / "resized.safetensors") == 0
    assert (
        run(
            "convert", loras / "0.safetensors", "--style", "peft", "--type", "bf16", "--out", loras / "peft.safetensors"
        )
        == 0
    )
    stronger = {key: tensor * 2 if "alpha" in key else tensor for key, tensor in lora(0).items()}
    save_file(stronger, loras / "stronger.safetensors")
    (loras / "broken.safetensors").write_bytes(b"<html>")
    save_file({"x": torch.ones(2)}, loras / "other.safetensors")
    return loras


def test_copies_are_found_and_strangers_are_not(folder):
    found = look_through(str(folder))
    assert found.same_data == (("0.safetensors", os.path.join("sub", "renamed header.safetensors")),)
    copies = {"0.safetensors", "resized.safetensors", "peft.safetensors", "stronger.safetensors"}
    pairs = {frozenset((pair.first, pair.second)): pair for pair in found.same_content}
    assert set(pairs) == {frozenset((a, b)) for a in copies for b in copies if a != b}
    stronger = pairs[frozenset(("0.safetensors", "stronger.safetensors"))]
    assert stronger.cosine == pytest.approx(1) and stronger.scale == pytest.approx(2)
    resized = pairs[frozenset(("0.safetensors", "resized.safetensors"))]
    kept = sum(dense_energy(lora(0), 3)) / sum(dense_energy(lora(0), 6))
    assert resized.cosine**2 == pytest.approx(kept, abs=1e-3)
    problems = {path for path, file in found.files.items() if file.problem}
    assert problems == {"broken.safetensors", "other.safetensors"}


def dense_energy(tensors, rank):
    for key, up in tensors.items():
        if key.endswith("up.weight"):
            yield float(torch.linalg.svdvals(up @ tensors[key.replace("up.w", "down.w")])[:rank].square().sum())


def test_a_fingerprint_does_not_see_gauge_names_algorithm_or_strength():
    make = torch.Generator().manual_seed(1)
    left, right = torch.randn(4, 4, generator=make), torch.randn(12, 8, generator=make)
    lokr = LoKr((left,), (right,), 0.3)
    u, s, vh = torch.linalg.svd(lokr.delta(torch.empty(48, 32)).double(), full_matrices=False)
    mix = torch.randn(len(s), len(s), generator=make, dtype=torch.float64)
    plain = LoRA(u @ mix, torch.linalg.solve(mix, s[:, None] * vh), None, 5.0)
    first, second = (fingerprint([Entry(name, "weight", a, ())]) for name, a in (("a", lokr), ("other.name", plain)))
    cosine = float(first @ second / first.norm() / second.norm())
    assert cosine == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_read_again_is_left_out_of_the_pairs(folder, monkeypatch):
    real, seen = library.look_at, []

    def vanishing(path, tick):
        seen.append(path)
        found = real(path, tick)
        if path.endswith("resized.safetensors"):
            os.unlink(path)
        return found

    monkeypatch.setattr(library, "look_at", vanishing)
    assert all(
        "resized.safetensors" not in (pair.first, pair.second) for pair in look_through(str(folder)).same_content
    )
    assert seen


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_an_alpha_that_nothing_reads_makes_no_file_unusable(tmp_path, value):
    save_file(lora(0) | {"other.alpha": torch.tensor(value)}, tmp_path / "alpha.safetensors")
    save_file(lora(0), tmp_path / "plain.safetensors")
    save_file(lora(0) | {"other.diff": torch.tensor([value])}, tmp_path / "broken.safetensors")
    found = look_through(str(tmp_path))
    assert found.files["alpha.safetensors"].problem == ""
    assert found.files["alpha.safetensors"].fingerprint == found.files["plain.safetensors"].fingerprint != ()
    assert "other.diff" in found.files["broken.safetensors"].problem
    merged = ["merge", f"{tmp_path / 'alpha.safetensors'}:1", f"{tmp_path / 'plain.safetensors'}:1"]
    assert run(*merged, "--out", tmp_path / "merged.safetensors") == 0


def test_only_new_and_changed_files_are_read_again(folder, tmp_path):
    kept = tmp_path / "known.json"
    first = look_through(str(folder))
    write_index(str(kept), first.files)
    read = []
    again = look_through(str(folder), read_index(str(kept)), read.append)
    assert dict(again.files) == dict(first.files)
    assert [path for path in read if " and " not in path] == []
    os.utime(folder / "1.safetensors", ns=(5, 5))
    shutil.copy(folder / "2.safetensors", folder / "copy.safetensors")
    os.unlink(folder / "3.safetensors")
    read.clear()
    changed = look_through(str(folder), read_index(str(kept)), read.append)
    assert sorted(path for path in read if " and " not in path) == ["1.safetensors", "copy.safetensors"]
    assert "3.safetensors" not in changed.files
    assert ("2.safetensors", "copy.safetensors") in changed.same_data


@pytest.mark.parametrize(
    "text",
    [
        '{"version": [0, "2.0"], "files": 5}',
        '{"version": VERSION, "files": {"a": 5, "b": {"size": "x"}}}',
        '{"version": VERSION, "files": {"a": {"size": 1, "modified": 1, "family": "\\ud800", "data": "", "fingerprint": [], '
        '"problem": ""}}}',
    ],
)
def test_an_index_of_another_version_or_with_strange_rows_is_nothing(tmp_path, text):
    path = tmp_path / "known.json"
    path.write_text(text.replace("VERSION", json.dumps([library.VERSION, torch.__version__])))
    assert read_index(str(path)) == {}
    assert read_index(str(tmp_path / "gone.json")) == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 5}', "[" * 100_000, "\0", "my notes"])
def test_a_file_that_is_no_index_is_never_written_over(folder, tmp_path, text, capsys):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    assert run("library", folder, "--index", path) == 1
    assert "is no index of a library" in capsys.readouterr().err
    assert path.read_text() == text


def test_a_damaged_file_and_its_copy_do_not_end_the_listing(tmp_path, capsys):
    for name, scale in (("one", 1.0), ("copy", 2.0)):
        tensors = lora(0)
        next(iter(tensors.values()))[0, 0] = float("nan")
        tensors["lora_unet_input_blocks_1_1_proj_in.alpha"] *= scale
        save_file(tensors, tmp_path / f"{name}.safetensors")
    save_file(lora(1), tmp_path / "sound.safetensors")
    assert run("library", tmp_path) == 0
    told = capsys.readouterr().out
    assert "Not usable: one.safetensors: 1 tensors hold NaN or infinity" in told
    assert "Not usable: sound" not in told


def test_the_command_says_what_is_there(folder, tmp_path, capsys):
    capsys.readouterr()
    assert run("library", folder, "--index", tmp_path / "known.json") == 0
    told = capsys.readouterr().out
    assert told.startswith("10 files, ")
    assert "Same data: 0.safetensors, sub" in told
    assert "Same content: 0.safetensors, stronger.safetensors (cosine 1.0000, the second 2 x as strong)" in told
    assert "Not usable: other.safetensors: it holds no LoRA that is known here" in told
    assert (tmp_path / "known.json").exists()
    assert run("library", tmp_path / "gone") == 1
    assert "is no folder" in capsys.readouterr().err


def test_an_index_that_cannot_be_written_is_said(folder, tmp_path):
    with pytest.raises(StrataError, match=r"known\.json was not written"):
        write_index(str(tmp_path / "gone" / "known.json"), {})


def test_inspect_says_the_rank_that_is_needed(folder, capsys):
    capsys.readouterr()
    assert run("inspect", folder / "0.safetensors") == 0
    told = capsys.readouterr().out
    energies = [sum(dense_energy(lora(0), rank)) for rank in range(7)]
    needed = next(rank for rank in range(7) if energies[rank] >= 0.99 * energies[6])
    assert f"rank {needed} in each layer keeps 99 % of the energy" in told
