"""Copies of LoRA files, found through what the picker asks: planted ones, hostile files, passes that are stopped, lost, asked for twice."""

from __future__ import annotations

import os
import pathlib
import threading
import time

import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from strata.lora_math import command_line
from strata.lora_math.inspecting import library as contents_of
from strata.lora_math.reading import contents
from strata.nodes.comfy import user_files
from strata.nodes.library import contents as contents_module
from strata.nodes.library import search as search_module
from strata.nodes.library.contents import Content, Likeness, pack, unpack
from strata.nodes.library.copies import copies
from strata.nodes.library.index import Known
from strata.nodes.library.search import Question, compare_contents, search
from strata.tests.nodes.helpers import lora_makers, small_models

# The same layers as SGM and as diffusers call them.
LAYERS = {
    f"input_blocks_{block}_1_transformer_blocks_{at}_attn1_to_{part}": f"down_blocks.{down}.attentions.{place}."
    f"transformer_blocks.{at}.attn1.processor.to_{part}_lora"
    for block, down, place in ((4, 1, 0), (5, 1, 1))
    for at in (0, 1)
    for part in "qkv"
}


def lora(seed: int, rank: int = 8) -> dict[str, torch.Tensor]:
    """With singular values that fall, as trained ones do."""
    make = torch.Generator().manual_seed(seed)
    found = {}
    for layer in LAYERS:
        up = torch.randn(640, rank, generator=make) * 0.4 ** torch.arange(rank)
        found[f"lora_unet_{layer}.lora_up.weight"] = up.half()
        found[f"lora_unet_{layer}.lora_down.weight"] = torch.randn(rank, 640, generator=make).half()
        found[f"lora_unet_{layer}.alpha"] = torch.tensor(float(rank)).half()
    return found


def as_diffusers(tensors) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in tensors.items():
        layer, _, role = key.removeprefix("lora_unet_").partition(".")
        if role != "alpha":
            found[f"unet.{LAYERS[layer]}.{role.removeprefix('lora_')}"] = tensor
    return found


@pytest.fixture
def fresh(start_library):
    """Contents, beside an index, as after a start of ComfyUI."""
    return lambda: start_library()[1]


@pytest.fixture
def folder(lora_folder):
    """Two LoRAs that have nothing to do with each other, and copies of the first."""
    path = lora_folder.path
    (path / "sub").mkdir()
    for seed in (0, 1):
        save_file(lora(seed), path / f"{seed}.safetensors")
    save_file(lora(0), path / "sub" / "renamed.safetensors", {"ss_output_name": "x", "ss_steps": "100"})
    save_file(as_diffusers(lora(0)), path / "diffusers.safetensors")
    whole = {key: tensor.to(torch.bfloat16) for key, tensor in lora(0).items()}
    save_file(whole, path / "saved as bf16.safetensors")
    resize = ["resize", path / "0.safetensors", "--rank", 3, "--out", path / "resized.safetensors"]
    assert command_line.main([str(one) for one in resize]) == 0
    save_file({"x": torch.ones(2)}, path / "nothing.safetensors")
    broken = lora(2)
    next(iter(broken.values()))[0, 0] = float("nan")
    save_file(broken, path / "nan.safetensors")
    (path / "page.safetensors").write_bytes(b"<html>")
    (path / "empty.safetensors").write_bytes(b"")
    os.mkfifo(path / "pipe.safetensors")
    folder_paths.filename_list_cache.pop("loras", None)
    return path


def learned():
    search_module.INDEX.learn()
    assert search_module.INDEX.wait(60)


def compared(contents):
    learned()
    compare_contents(True)
    assert contents.wait(120)
    assert contents.state()["problem"] == ""


def shown(**question):
    return {row["name"]: row for row in search(Question(count=100, **question))["rows"]}


COPIES = {
    "0.safetensors",
    "diffusers.safetensors",
    "resized.safetensors",
    "saved as bf16.safetensors",
    "sub/renamed.safetensors",
}


def test_planted_copies_are_found_and_strangers_are_not(folder, fresh):
    contents = fresh()
    compared(contents)
    found = {name: row["copy"] for name, row in shown(shown="copies").items()}
    assert set(found) == COPIES
    assert all(copy["first"] == "0.safetensors" and copy["count"] == len(COPIES) for copy in found.values())
    assert found["sub/renamed.safetensors"]["how"] == "data"
    assert {found[name]["how"] for name in COPIES - {"0.safetensors", "sub/renamed.safetensors"}} == {"content"}
    assert found["saved as bf16.safetensors"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert found["saved as bf16.safetensors"]["scale"] == pytest.approx(1, abs=1e-2)
    whole, small = (energy(lora(0), rank) for rank in (8, 3))
    assert found["resized.safetensors"]["cosine"] ** 2 == pytest.approx(small / whole, abs=1e-3)
    # Of two dialects no layer has the same name: it is told by the fingerprints, and how strong it is, is not.
    assert found["diffusers.safetensors"]["cosine"] == pytest.approx(1, abs=1e-3)
    assert found["diffusers.safetensors"]["scale"] is None
    unusable = shown(shown="unusable")
    assert set(unusable) == {f"{name}.safetensors" for name in ("empty", "nan", "nothing", "page")}
    assert "NaN" in unusable["nan.safetensors"]["problem"], "what only the pass over the contents sees"


def energy(tensors, rank):
    found = 0.0
    for key, up in tensors.items():
        if key.endswith("up.weight"):
            whole = up.double() @ tensors[key.replace("up.w", "down.w")].double()
            found += float(torch.linalg.svdvals(whole)[:rank].square().sum())
    return found


def test_before_anything_is_read_headers_tell_what_they_know(folder, fresh, monkeypatch):
    fresh()
    digest = "ab" * 32
    save_file(lora(3), folder / "a.safetensors", {"sshs_model_hash": digest})
    save_file(lora(3), folder / "b.safetensors", {"modelspec.hash_sha256": f"0x{digest.upper()}"})
    # A tool that shrinks a file and copies its header: the hash is that of another file.
    save_file(lora(3, rank=4), folder / "c.safetensors", {"sshs_model_hash": digest})
    save_file(lora(3), folder / "d.safetensors", {"sshs_model_hash": "no hash"})
    folder_paths.filename_list_cache.pop("loras", None)
    monkeypatch.setattr(contents, "read_tensors", lambda *_: pytest.fail("a file was read"))
    learned()
    assert set(shown(shown="copies")) == {"a.safetensors", "b.safetensors"}
    assert search(Question())["contents"]["known"] == 0


def test_families_sizes_and_orders_by_size(folder, lora_folder, fresh):
    fresh()
    for name, model in (("xl", small_models.sdxl()), ("xl2", small_models.sdxl()), ("flux", small_models.flux())):
        lora_folder.save(f"{name}.safetensors", lora_makers.full_lora(model, seed=1, rank=1))
    with open(folder / "xl2.safetensors", "r+b") as file:  # as if it were large: nothing behind the header is read
        file.truncate(60 << 20)
    folder_paths.filename_list_cache.pop("loras", None)
    learned()
    answer = search(Question(count=100, sort="size"))
    sizes = [os.path.getsize(folder / row["name"]) for row in answer["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert dict(answer["families"]) == {"SDXL": 1, "FLUX.1": 1, "?": 7}
    assert set(shown(family="SDXL")) == {"xl.safetensors"}
    assert set(shown(family="?")) == COPIES | {"1.safetensors", "nan.safetensors"}
    assert set(shown(size="middle")) == {"xl2.safetensors"}
    # Nothing is known of what is no file.
    assert set(shown(size="small")) == set(shown()) - {"xl2.safetensors", "pipe.safetensors"}
    assert shown(size="large") == {}
    unusable = shown(shown="unusable")
    assert set(unusable) == {f"{name}.safetensors" for name in ("empty", "nothing", "page", "xl2")}
    assert unusable["nothing.safetensors"]["problem"] == "It holds no LoRA that is known here."


def test_a_later_pass_reads_nothing_and_a_changed_file_alone(folder, fresh, monkeypatch):
    compared(fresh())
    before = {name: row["copy"] for name, row in shown(shown="copies").items()}
    read = []
    real = contents_of.look_at
    monkeypatch.setattr(
        contents_of, "look_at", lambda path, tick: read.append(os.path.basename(path)) or real(path, tick)
    )
    opened = []
    entries = contents_of.entries_of
    monkeypatch.setattr(contents_of, "entries_of", lambda path: opened.append(os.path.basename(path)) or entries(path))
    # Another start of ComfyUI.
    compared(fresh())
    assert (read, opened) == ([], [])
    assert {name: row["copy"] for name, row in shown(shown="copies").items()} == before
    save_file(lora(4), folder / "resized.safetensors")
    (folder / "sub" / "renamed.safetensors").unlink()
    folder_paths.filename_list_cache.pop("loras", None)
    learned()
    assert "resized.safetensors" not in shown(shown="copies"), "what was found of the file before it changed is nothing"
    compared(fresh())
    assert read == ["resized.safetensors"]
    assert set(shown(shown="copies")) == COPIES - {"resized.safetensors", "sub/renamed.safetensors"}


def test_a_pass_that_is_stopped_goes_on_where_it_was(folder, fresh, monkeypatch):
    contents = fresh()
    learned()
    real, read = contents_of.look_at, []

    def stopping(path, tick):
        found = real(path, tick)
        read.append(path)
        if len(read) == 3:
            contents.stop()
        return found

    monkeypatch.setattr(contents_of, "look_at", stopping)
    compare_contents(True)
    assert contents.wait(60)
    assert len(read) == 3
    assert contents.state()["stage"] == ""
    first = list(read)
    again = fresh()
    read.clear()
    monkeypatch.setattr(contents_of, "look_at", lambda path, tick: read.append(path) or real(path, tick))
    compared(again)
    assert not set(read) & set(first)
    assert set(shown(shown="copies")) == COPIES


def test_an_index_that_is_deleted_in_between_is_made_anew(folder, fresh):
    contents = fresh()
    compared(contents)
    path = pathlib.Path(user_files.user_file(contents_module.FILE))
    path.unlink()
    compare_contents(True)
    assert contents.wait(60)
    assert path.exists(), "what the process knows is written again"
    path.unlink()
    compared(fresh())
    assert set(shown(shown="copies")) == COPIES


def test_two_that_ask_at_once_are_one_pass(folder, fresh, monkeypatch):
    contents = fresh()
    learned()
    read, real = [], contents_of.look_at
    monkeypatch.setattr(contents_of, "look_at", lambda path, tick: read.append(path) or real(path, tick))
    gate = threading.Barrier(8)
    threads = [threading.Thread(target=lambda: (gate.wait(), compare_contents(True))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents.wait(60)
    assert len(read) == len(set(read)) > 0
    assert threading.active_count() < 100


def test_nothing_is_read_while_a_prompt_runs(folder, fresh, monkeypatch):
    contents = fresh()
    learned()
    busy, read, real = [True], [], contents_of.look_at
    monkeypatch.setattr(contents_module, "is_busy", lambda: busy[0])
    monkeypatch.setattr(contents_module, "WAIT", 0.01)
    monkeypatch.setattr(
        contents_of, "look_at", lambda path, tick: real(path, tick) if read.append(path) is None else None
    )
    compare_contents(True)
    time.sleep(0.3)
    assert len(read) <= 2  # one may fail before its first piece of work, as an empty file does
    assert contents.state()["waiting"]
    assert contents.state()["done"] <= 1
    busy[0] = False
    assert contents.wait(60)
    assert set(shown(shown="copies")) == COPIES


def test_one_that_waits_can_be_stopped(folder, fresh, monkeypatch):
    contents = fresh()
    learned()
    monkeypatch.setattr(contents_module, "is_busy", lambda: True)
    compare_contents(True)
    compare_contents(False)
    assert contents.wait(5)


def test_what_is_asked_for_right_after_a_stop_is_done(folder, fresh, monkeypatch):
    contents = fresh()
    learned()
    real, reading, go = contents_of.look_at, threading.Event(), threading.Event()

    def held(path, tick):
        reading.set()
        assert go.wait(60)
        return real(path, tick)

    monkeypatch.setattr(contents_of, "look_at", held)
    compare_contents(True)
    assert reading.wait(60)
    compare_contents(False)
    compare_contents(True)
    assert contents.state()["stage"] == "read"
    go.set()
    assert contents.wait(60)
    assert set(shown(shown="copies")) == COPIES


def test_the_last_word_is_a_stop(folder, fresh, monkeypatch):
    contents = fresh()
    learned()
    reading, go, read = threading.Event(), threading.Event(), []

    def held(path, tick):
        read.append(path)
        reading.set()
        assert go.wait(60)
        tick()

    monkeypatch.setattr(contents_of, "look_at", held)
    compare_contents(True)
    assert reading.wait(60)
    for on in (False, True, False):
        compare_contents(on)
    go.set()
    assert contents.wait(60)
    assert len(read) == 1


@pytest.mark.parametrize("piece", ["look_at", "compared"])
def test_one_file_that_trips_the_pass_is_left_out_and_tried_again(folder, fresh, monkeypatch, piece):
    contents = fresh()
    learned()
    real, tripped = getattr(contents_of, piece), []

    def tripping(*given):
        if not tripped:
            tripped.append(given[0])
            raise RuntimeError("unforeseen")
        return real(*given)

    monkeypatch.setattr(contents_of, piece, tripping)
    compare_contents(True)
    assert contents.wait(60)
    said = search(Question())["contents"]["problem"]
    assert ".safetensors: RuntimeError: unforeseen" in said
    if piece == "look_at":
        assert os.path.basename(tripped[0]) in said
        assert os.path.basename(tripped[0]) not in shown(shown="unusable")
    assert len(shown(shown="copies")) >= len(COPIES) - 1
    compared(contents)
    assert set(shown(shown="copies")) == COPIES


def test_a_failure_is_said_and_the_next_pass_works(folder, fresh, monkeypatch):
    contents = fresh()
    learned()
    with monkeypatch.context() as broken:
        broken.setattr(contents_of, "alike", lambda prints: 1 / 0)
        compare_contents(True)
        assert contents.wait(60)
        assert "ZeroDivisionError" in search(Question())["contents"]["problem"]
    compared(contents)
    assert set(shown(shown="copies")) == COPIES


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        {"version": 1},
        {"files": 3, "pairs": 3},
        {"files": {"a": [1, 2, "x"]}, "pairs": []},
        {"files": {"a": [1, 2, "x", "not base64", ""]}, "pairs": []},
        {"files": {"a": ["1", 2, "x", "", ""], "b": [1, 2, 3, "", ""]}, "pairs": [["a", "b", 1.0, 1.0]]},
        {"files": {"a": [1, 2, "", "", ""]}, "pairs": [[1], ["a"], None, ["a", "a", "x", None]]},
    ],
)
def test_what_does_not_look_like_what_was_kept_is_nothing(kept):
    if isinstance(kept, dict) and "files" in kept:
        kept["version"] = contents_module._version()
    assert contents_module.read(kept) == ({}, {})


def test_a_fingerprint_is_kept_as_it_was():
    vector = torch.randn(contents_of.PROBES, generator=torch.Generator().manual_seed(0)).double()
    vector /= vector.norm()
    again = unpack([pack(vector.tolist())])[0].double()
    assert float(again @ vector) == pytest.approx(1, abs=1e-6)
    row = [5, 6, "ab", pack(vector.tolist()), ""]
    read, _ = contents_module.read({"version": contents_module._version(), "files": {"p": row}, "pairs": []})
    assert read == {"p": Content(*row)}


def test_who_belongs_together_does_not_depend_on_the_order_of_the_pairs():
    names = [f"{n}" for n in range(9)]
    known = {name: (f"/{name}", Known(1, 1)) for name in names}
    content = {f"/{name}": Content(1, 1, name) for name in names}
    pairs = [(0, 4), (4, 8), (8, 2), (3, 5), (6, 7)]
    for order in (pairs, pairs[::-1], [(b, a) for a, b in pairs]):
        found = copies(known, content, {(f"/{a}", f"/{b}"): Likeness(0.99, 2.0) for a, b in order})
        groups = {frozenset(n for n in found if found[n].group == g) for g in {c.group for c in found.values()}}
        assert groups == {frozenset("0482"), frozenset("35"), frozenset("67")}
    assert found["4"].likeness == Likeness(0.99, 0.5), "the pair was compared the other way round"
    assert found["8"].likeness is None, "they are the same by way of a third one"
    assert copies(known, content, {("/0", "/1"): Likeness(0.97, 1.0)}) == {}
    assert copies(known, {**content, "/0": Content(2, 1, "0")}, {("/0", "/1"): Likeness(1.0, 1.0)}) == {}


def test_an_unread_copy_joins_one_that_was_read():
    known = {"a": ("/a", Known(1, 1, hash="f" * 64, data=10)), "b": ("/b", Known(1, 1, data=10))}
    assert set(copies(known, {"/b": Content(1, 1, "f" * 64)}, {})) == {"a", "b"}


def test_scores_of_epochs_do_not_become_a_comparison_of_everything_with_everything():
    vector = torch.ones(contents_of.PROBES)
    prints = vector + 0.2 * torch.randn(400, contents_of.PROBES, generator=torch.Generator().manual_seed(1))
    prints /= prints.norm(dim=1, keepdim=True)
    prints[399] = prints[7]
    found = list(contents_of.alike(prints))
    assert len(found) <= 400 * contents_of.MOST_ALIKE
    assert {other for at, other, near in found if at == 399 and near > 0.9999} == {7}
    dense = prints @ prints.T
    for at, other, near in found:
        assert other < at
        assert near == pytest.approx(float(dense[at, other]), abs=1e-5)


def test_copies_of_copies_load_alike(folder):
    """The planted ones are what they are said to be: the same change, layer by layer."""
    first, other = load_file(folder / "0.safetensors"), load_file(folder / "diffusers.safetensors")
    for layer, name in LAYERS.items():
        change = (
            first[f"lora_unet_{layer}.lora_up.weight"].float() @ first[f"lora_unet_{layer}.lora_down.weight"].float()
        )
        same = other[f"unet.{name}.up.weight"].float() @ other[f"unet.{name}.down.weight"].float()
        assert torch.equal(change, same)
