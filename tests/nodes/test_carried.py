"""Which block carries the picture: a sweep that leaves out one after another tells the desk, which asks a route for it."""

import json
import os

import numpy
import pytest
import torch

from strata.nodes.comfy import user_files
from strata.nodes.desk.profile import shown_file
from strata.nodes.sweep import carried
from strata.tests.nodes.helpers.sweeping import BLUE, INK, cells_of, swept, told

ASKED = {"x_axis": "without block", "x_values": "all", "compare_with": "no change"}


@pytest.fixture(autouse=True)
def as_comfyui_runs_nodes():
    with torch.inference_mode():
        yield


def known(name=INK):
    return carried.known_of(*shown_file(name))


def test_the_desk_is_told_how_far_each_block_changes_the_whole_lora(studio, out):
    assert known() == {"blocks": {}}
    found = swept(studio, **ASKED, strength_model=0.8, strength_clip=0.5)
    labels = told(found)["axes"][0]["labels"]
    (whole,) = cells_of(
        swept(studio, x_axis="strength model", x_values="0.8", strength_clip=0.5, compare_with="nothing"), out
    )
    expected = {
        label: numpy.sqrt(((cell.astype(float) - whole.astype(float)) ** 2).mean()) / 255
        for label, cell in zip(labels, cells_of(found, out), strict=True)
    }
    told_now = known()
    assert told_now["blocks"] == pytest.approx(expected, rel=1e-6) and max(expected.values()) > 0
    assert {name: told_now[name] for name in ("model", "clip", "drawn_with")} == {
        "model": 0.8,
        "clip": 0.5,
        "drawn_with": "",
    }
    most = max(expected, key=expected.get)
    assert f"Leaving out {most} changes the picture most; the desk of {INK}" in found.result[6]
    assert known(BLUE) == {"blocks": {}}


def test_seeds_beside_it_are_taken_together(studio, out):
    found = json.loads(swept(studio, **ASKED, y_axis="seed", y_values="1, 2").result[5])
    squares = {}
    for cell in found["cells"]:
        squares.setdefault(cell["values"]["without block"], []).append(cell["rms"] ** 2)
    assert known()["blocks"] == pytest.approx({name: (sum(each) / 2) ** 0.5 for name, each in squares.items()})


@pytest.mark.parametrize(
    "other",
    [
        {"compare_with": "strength 0"},
        {"x_values": "D0, S0"},
        {"x_values": "groups"},
        {"y_axis": "strength", "y_values": "0.5, 1"},
        {"x_axis": "only block"},
        {"y_axis": "without block", "y_values": "D0"},
    ],
)
def test_any_other_sweep_tells_the_desk_nothing(studio, out, other):
    swept(studio, **{**ASKED, **other})
    assert known() == {"blocks": {}}


def test_a_file_that_was_replaced_is_not_taken_for_the_old_one(studio, out):
    swept(studio, **ASKED)
    assert known()["blocks"]
    path = shown_file(INK)[1]
    stat = os.stat(path)
    # A new owner, or a link to it, is no other file.
    os.chmod(path, stat.st_mode)
    assert os.stat(path).st_ctime_ns > stat.st_ctime_ns and known()["blocks"]
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    try:
        assert known() == {"blocks": {}}
    finally:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "kept",
    [
        [],
        {INK: 5},
        {INK: {"file": None}},
        {INK: {"blocks": []}},
        {INK: {"blocks": {"D00": "x", "D01": float("nan")}, "model": 1, "clip": 1}},
        {INK: {"blocks": {"D00": 1}, "model": "1", "clip": None}},
    ],
)
def test_a_file_of_ours_that_a_hand_has_changed(studio, out, kept):
    swept(studio, **ASKED)
    stamp = user_files.read_json(carried.FILE)[INK]["file"]
    if isinstance(kept, dict) and isinstance(kept[INK], dict):
        kept[INK].setdefault("file", stamp)
    user_files.write_json(carried.FILE, kept)
    assert known()["blocks"] == {}


def test_only_so_many_are_remembered(studio, out, monkeypatch):
    monkeypatch.setattr(carried, "MAX_LORAS", 1)
    swept(studio, **ASKED)
    swept(studio, **ASKED, lora_name=BLUE)
    assert list(user_files.read_json(carried.FILE)) == [BLUE] and known(BLUE)["blocks"]


def test_where_nothing_can_be_kept_the_report_says_so(studio, out, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(user_files, "change_json", full)
    assert f"The desk of {INK} cannot show which block carries the picture" in swept(studio, **ASKED).result[6]


def test_a_lora_by_name_has_strengths_of_its_own(studio, out):
    named = cells_of(swept(studio, x_axis="seed", x_values="3", strength_model=0.4, strength_clip=0.9), out)
    by_axes = cells_of(
        swept(studio, x_axis="strength model", x_values="0.4", y_axis="strength clip", y_values="0.9"), out
    )
    assert (named[0] == by_axes[0]).all()
    assert (named[0] != cells_of(swept(studio, x_axis="seed", x_values="3"), out)[0]).any()
