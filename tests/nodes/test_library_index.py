"""The picker's index and search, on real files: what is learned from headers and sidecars, kept, and found again."""

from __future__ import annotations

import json
import os
import pathlib
import threading

import folder_paths
import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.lora_math.reading import contents, files
from strata.lora_math.reading.header import TensorPlace
from strata.lora_math.reading.recommended import Recommended, recommended
from strata.nodes.comfy import library, user_files
from strata.nodes.library import index as index_module
from strata.nodes.library import search as search_module
from strata.nodes.library.index import Known, LoraIndex, family_of
from strata.nodes.library.search import Nearness, Question, mark, search
from strata.nodes.rows.sets import delete_set, read_sets, save_set
from strata.nodes.rows.words import described
from strata.tests.nodes.helpers import lora_makers, small_models


@pytest.fixture
def index(start_library):
    return start_library()[0]


@pytest.fixture
def folder(lora_folder):
    """Three families, with sidecars."""
    for name, model, header in (
        (
            "style/Ink Wash.safetensors",
            small_models.sd15(),
            {"modelspec.title": "Sumi-e", "modelspec.trigger_phrase": "ohwx ink"},
        ),
        ("xl/oil.safetensors", small_models.sdxl(), {"modelspec.lora_default_weight": "0.7"}),
        ("flux.safetensors", small_models.flux(), {"modelspec.architecture": "flux-1-dev/lora"}),
    ):
        lora_folder.save(name, lora_makers.full_lora(model, seed=1, rank=1), header)
    (lora_folder.path / "style" / "Ink Wash.preview.png").write_bytes(b"x")
    (lora_folder.path / "broken.safetensors").write_bytes(b"<html>")
    folder_paths.filename_list_cache.pop("loras", None)
    return lora_folder


def learned(index):
    index.learn()
    assert index.wait(60)
    assert index.waiting == 0


def names(**question):
    return [row["name"] for row in search(Question(**question))["rows"]]


def test_what_is_learned_is_what_the_loader_finds(folder, index):
    learned(index)
    for name in ("style/Ink Wash.safetensors", "xl/oil.safetensors", "flux.safetensors"):
        known = index.of(str(folder.path / name))
        opened = library.open_lora(name, str(folder.path / name))
        assert known.family == opened.family
        assert (known.size, known.modified) == opened.key[1:3]
    assert index.of(str(folder.path / "style/Ink Wash.safetensors")).words == ("ohwx ink",)
    assert index.of(str(folder.path / "xl/oil.safetensors")).strength == 0.7
    assert "it is a web page" in index.of(str(folder.path / "broken.safetensors")).problem


def test_tensors_are_not_read(folder, index, monkeypatch):
    monkeypatch.setattr(contents, "read_tensors", lambda *_: pytest.fail("a file was read"))
    learned(index)
    assert len(index.all()) == 4


def test_a_file_is_learned_once_and_again_when_it_changes(folder, index, monkeypatch):
    learned(index)
    looked = []
    original = index_module.look_at
    monkeypatch.setattr(index_module, "look_at", lambda path: looked.append(os.path.basename(path)) or original(path))
    learned(index)
    again = LoraIndex()  # another start of the server
    again.learn()
    assert again.wait(60)
    assert looked == []
    assert again.all() == index.all()
    folder.save("flux.safetensors", lora_makers.full_lora(small_models.sd15(), seed=1, rank=1))
    (folder.path / "xl" / "oil.safetensors").unlink()
    folder_paths.filename_list_cache.pop("loras", None)
    learned(again)
    assert looked == ["flux.safetensors"]
    assert again.of(str(folder.path / "flux.safetensors")).family == "SD1.5"
    assert again.of(str(folder.path / "xl/oil.safetensors")) is None


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "[1",
        "[]",
        '{"version": 9, "files": {"a": []}}',
        '{"version": 3, "files": {"a": [1]}}',
        '{"version": 3, "files": {"a": ["x", 1, null, "", [], null, null, null, "", "", 0, null]}}',
        '{"version": 3, "files": {"a": [1, 1, 3, null, ["x", 4], "y", null, 2, "", null, 7, 5]}}',
        "\x00",
    ],
)
def test_a_broken_index_is_made_anew(folder, index, kept):
    os.makedirs(os.path.dirname(user_files.user_file(index_module.FILE)))
    with open(user_files.user_file(index_module.FILE), "w") as file:
        file.write(kept)
    learned(index)
    assert len(index.all()) == 4
    assert user_files.read_json(index_module.FILE)["version"] == index_module.VERSION


def test_search(folder, index):
    learned(index)
    assert names() == ["broken.safetensors", "flux.safetensors", "style/Ink Wash.safetensors", "xl/oil.safetensors"]
    assert names(words="INK style") == ["style/Ink Wash.safetensors"]
    assert names(words="ohwx") == names(words="sumi-e") == names(words="sd1.5") == ["style/Ink Wash.safetensors"]
    assert names(words="ink nothing") == []
    assert names(folder="xl") == ["xl/oil.safetensors"]
    assert names(folder="x") == []
    assert search(Question(words="ink", folder="xl"))["elsewhere"] == 1, "what other folders have is told"
    assert search(Question(words="ink"))["elsewhere"] == 0
    assert names(fits="SDXL") == ["broken.safetensors", "xl/oil.safetensors"], "what nothing is known of may fit"
    assert names(fits="Chroma") == ["broken.safetensors", "flux.safetensors"]
    assert names(start=1, count=2) == ["flux.safetensors", "style/Ink Wash.safetensors"]
    assert search(Question(words="oil"))["total"] == 1
    assert search(Question())["folders"] == ["style", "xl"]
    row = search(Question(words="ink"))["rows"][0]
    assert row["preview"] == {"folder": 0, "file": "style/Ink Wash.safetensors"}
    assert row["tag"] == "<lora:style/Ink Wash"


def test_search_before_anything_is_learned_knows_the_names(folder, index, monkeypatch):
    monkeypatch.setattr(index_module.LoraIndex, "learn", lambda self: None)
    assert names(words="oil") == ["xl/oil.safetensors"]


def test_a_file_that_is_chosen_before_it_was_learned_is_looked_at_then(folder, index, monkeypatch):
    monkeypatch.setattr(index_module.LoraIndex, "learn", lambda self: None)
    assert "strength" not in search(Question(words="oil"))["rows"][0]
    assert search_module.found_row("xl/oil.safetensors")["strength"] == 0.7
    assert search_module.found_row("xl/oil.safetensors")["tag"] == "<lora:xl/oil"


def test_orders(folder, index):
    for at, name in enumerate(("xl/oil", "flux", "style/Ink Wash", "broken")):
        os.utime(folder.path / f"{name}.safetensors", (1000 - at, 1000 - at))
    learned(index)
    assert names(sort="date") == [f"{n}.safetensors" for n in ("xl/oil", "flux", "style/Ink Wash", "broken")]
    mark("flux.safetensors", used=True)
    mark("xl/oil.safetensors", used=True)
    assert names(sort="recent")[:2] == ["xl/oil.safetensors", "flux.safetensors"]
    mark("flux.safetensors", favourite=True)
    assert names(favourites=True) == ["flux.safetensors"]
    mark("flux.safetensors", favourite=False)
    assert names(favourites=True) == []


def test_marks_from_many_threads_are_all_kept(user):
    threads = [threading.Thread(target=mark, args=(f"{n}.safetensors", True)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(user_files.read_json(search_module.FILE)["favourites"]) == sorted(
        f"{n}.safetensors" for n in range(30)
    )


def test_sets_are_kept_and_a_broken_file_is_not_lost(user):
    path = user_files.user_file("lora_sets.json")
    save_set("Portraits", "<lora:a:1>")
    save_set("faces", "<lora:b:1>")
    save_set("Portraits", "<lora:c:1>")
    assert read_sets() == [{"name": "faces", "rows": "<lora:b:1>"}, {"name": "Portraits", "rows": "<lora:c:1>"}]
    delete_set("faces")
    with open(path, "w") as file:
        file.write("{broken")
    assert read_sets() == []
    save_set("new", "x")
    assert [one["name"] for one in read_sets()] == ["new"]
    assert pathlib.Path(f"{path}.broken").read_text() == "{broken"
    with open(path, "w") as file:
        file.write("{broken again")
    save_set("newer", "x")
    assert pathlib.Path(f"{path}.broken").read_text() == "{broken"
    assert pathlib.Path(f"{path}.broken2").read_text() == "{broken again"


def test_a_set_can_be_replaced_where_there_is_room_for_no_more(user, monkeypatch):
    monkeypatch.setattr("strata.nodes.rows.sets.MAX_SETS", 2)
    for name in ("a", "b", "a"):
        save_set(name, f"<lora:{name}:1>")
    with pytest.raises(StrataError, match="There are 2 sets already"):
        save_set("c", "<lora:c:1>")
    assert [one["name"] for one in read_sets()] == ["a", "b"]


def test_half_characters_are_kept_and_more_than_is_read_is_not_written(user, monkeypatch):
    save_set("\ud800", "<lora:a\udcff:1>")
    assert read_sets() == [{"name": "\ud800", "rows": "<lora:a\udcff:1>"}]
    monkeypatch.setattr(user_files, "MAX_BYTES", 2000)
    with pytest.raises(StrataError, match="it would become larger than"):
        save_set("big", "x" * 3000)
    assert [one["name"] for one in read_sets()] == ["\ud800"]


def test_a_file_that_cannot_be_opened_is_left_alone(user, monkeypatch):
    save_set("mine", "<lora:a:1>")
    path = user_files.user_file("lora_sets.json")
    with monkeypatch.context() as refusing:
        real = open
        refuse = lambda where, *more, **named: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))  # noqa: E731
        refusing.setattr("builtins.open", lambda where, *a, **k: (refuse if where == path else real)(where, *a, **k))
        with pytest.raises(StrataError, match=r"lora_sets\.json cannot be written: Permission denied"):
            save_set("other", "<lora:b:1>")
    assert [one["name"] for one in read_sets()] == ["mine"]


def test_near_names():
    library = ["style/ink_wash_v2.safetensors", "ink.safetensors", "oil_v2.safetensors", "faces/anna.safetensors"]
    assert Nearness(library).near("style\\Ink Wash v1.safetensors")[0] == "style/ink_wash_v2.safetensors"
    assert Nearness(library).near("zzz") == []


def test_rows_for_the_page(folder, index):
    learned(index)
    found = described(
        "off <lora:xl/oil:0.5:lbw=OUT*=1> // n\n<lora:inkwash ink:1>\npick <lora:style/*:1>\n<lora:a:1>, words <lora:b:2>"
    )
    first, missing, pick, prompt = found["rows"]
    assert (first["head"], first["model"], first["tail"], first["file"]) == (
        "<lora:xl/oil",
        0.5,
        ":lbw=OUT*=1",
        "xl/oil.safetensors",
    )
    assert (first["family"], first["strength"], first["on"], first["note"]) == ("SDXL", 0.7, False, "n")
    assert missing["file"] is None
    assert [one["name"] for one in missing["near"]] == ["style/Ink Wash.safetensors"]
    assert pick["count"] == 1
    assert prompt["lines"] == ["<lora:a:1>", "<lora:b:2>"]
    assert found["prompt"] == "<lora:inkwash ink:1>\npick <lora:style/*:1>\n<lora:a:1>\n<lora:b:2>"


def test_family_of_a_header_that_claims_much_holds_nothing(folder):
    """A tensor of a terabyte is a shape."""
    place = TensorPlace(torch.float16, (1 << 20, 1 << 20), 0, 0)
    names = {f"lora_unet_input_blocks_4_1_proj_in.lora_{part}.weight": place for part in ("up", "down")}
    assert family_of(files.Header({}, names)) in (None, "SD1.5", "SD2", "SDXL")


@pytest.mark.parametrize(
    ("sidecar", "text", "wanted"),
    [
        ("a.json", {"preferred weight": 0.6}, Recommended(0.6)),
        ("a.json", {"preferred weight": 0}, Recommended()),
        (
            "a.metadata.json",
            {"usage_tips": '{"strength": 0.8, "strength_min": 1.2, "strength_max": 0.4}'},
            Recommended(0.8, 0.4, 1.2),
        ),
        ("a.metadata.json", {"usage_tips": "{broken"}, Recommended()),
        ("a.safetensors.rgthree-info.json", {"strengthMin": -1, "strengthMax": "1.5"}, Recommended(None, -1, 1.5)),
        ("a.json", {"preferred weight": "1e999"}, Recommended()),
        ("a.json", {"preferred weight": True}, Recommended()),
        ("a.json", [], Recommended()),
    ],
)
def test_recommended_strengths(tmp_path, sidecar, text, wanted):
    (tmp_path / sidecar).write_text(json.dumps(text))
    assert recommended(str(tmp_path / "a.safetensors"), {}) == wanted


def test_the_owner_comes_before_the_author(tmp_path):
    (tmp_path / "a.json").write_text('{"preferred weight": 0.6}')
    assert recommended(str(tmp_path / "a.safetensors"), {"modelspec.lora_default_weight": "0.9"}).strength == 0.6
    assert recommended(str(tmp_path / "b.safetensors"), {"modelspec.lora_default_weight": "0.9"}).strength == 0.9


def test_a_kept_index_reads_back():
    known = Known(1, 2, "SDXL", "t", ("a", "b"), 0.5, None, 1.0, "", "ab", 7, "high")
    row = [1, 2, "SDXL", "t", ["a", "b"], 0.5, None, 1.0, "", "ab", 7, "high"]
    assert index_module._read({"version": index_module.VERSION, "files": {"p": row}}) == {"p": known}
    # Another version may have meant something else by the same fields.
    assert index_module._read({"version": index_module.VERSION + 1, "files": {"p": row}}) == {}
