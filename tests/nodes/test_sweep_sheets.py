"""Numbers and sheets of a sweep: against hand-made values and an independent SSIM, with hostile labels, and within their limits."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from strata.nodes.comfy.drawing import Way
from strata.nodes.inspecting.draw import image_of, text_length
from strata.nodes.sweep import curve, grid, measure, table
from strata.nodes.sweep.axes import Axis
from strata.nodes.sweep.parameters import parameters
from strata.nodes.sweep.plan import Settings


def picture(seed=0, size=(24, 32), count=1):
    return numpy.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=numpy.uint8)


def plain_ssim(a, b):
    """Wang et al. (2004), window by window, in plain loops over float64."""
    weights = numpy.array([0.299, 0.587, 0.114])
    x, y = ((p[0].astype(numpy.float64) / 255) @ weights for p in (a, b))
    line = numpy.exp(-((numpy.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = numpy.outer(line, line) / line.sum() ** 2
    found = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            p, q = (v[row : row + 11, column : column + 11] for v in (x, y))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return numpy.mean(found)


def test_numbers_by_hand():
    black, grey = numpy.zeros((1, 12, 12, 3), numpy.uint8), numpy.zeros((1, 12, 12, 3), numpy.uint8)
    grey[0, 3, 4] = (51, 102, 0)
    found = measure.difference(black, grey)
    assert math.isclose(found.rms, math.sqrt((0.2**2 + 0.4**2) / (144 * 3)), rel_tol=1e-6)
    assert math.isclose(found.mean, 0.6 / (144 * 3), rel_tol=1e-6)
    assert math.isclose(found.most, 0.2, rel_tol=1e-6)
    assert measure.difference_map(black, grey)[0].argmax() == 3 * 12 + 4
    assert measure.difference(grey, grey) == measure.Difference(0, 0, 1, 0)
    with pytest.raises(ValueError, match="is not"):
        measure.difference(black, grey[:, :5])


def test_structural_similarity_is_that_of_the_paper():
    a, b = picture(1), picture(2)
    noisy = numpy.clip(a.astype(int) + (b % 40).astype(int) - 20, 0, 255).astype(numpy.uint8)
    for other in (b, noisy, a):
        assert math.isclose(measure.difference(a, other).similarity, plain_ssim(a, other), rel_tol=0, abs_tol=1e-6)


def test_the_scale_is_one_for_all_maps():
    values = numpy.array([0.0, 0.1, 0.2], numpy.float32)
    assert (measure.heat(values, 0.2)[1] == measure.heat(values / 2, 0.1)[1]).all()
    assert tuple(measure.heat(values, 0.2)[2]) == (252, 255, 164)
    assert tuple(measure.heat(values, 0.0)[2]) == (0, 0, 4)
    light = measure.heat(numpy.linspace(0, 1, 50, dtype=numpy.float32), 1) @ numpy.array(measure.LUMA)
    assert (numpy.diff(light) > 0).all()


def test_knees():
    rise = [0, 0.5, 0.8, 0.9, 0.95, 1.0]
    assert measure.knee([0, 1, 2, 3, 4, 5], rise) == 2
    assert measure.knee([0, 1, 2], [0, 1, 1]) is None
    assert measure.knee([0, 1, 2, 3], [0, 1, 2, 3]) is None
    assert measure.knee([0, 1, 2, 3], [3, 2, 1, 0]) is None
    assert measure.knee([0, 1, 2, 3], [0, 0, 0, 1]) is None


LABELS = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        [
            "",
            " ",
            "\0\n\t",
            "x" * 5000,
            "a_very_long_name-" * 20,
            "\u6c34\u5f69" * 60,
            "\u202eevil",
            "\ud800x",
            "\U0001f600" * 30,
        ]
    ),
)


@settings(max_examples=60)
# Dots of another typeface than that of Latin letters are wider.
@example("\u6c34\u5f69" * 60, 386, 13)
@given(LABELS, st.integers(40, 400), st.integers(8, 30))
def test_any_label_wraps_into_its_room(text, room, size):
    lines = grid.wrapped(text, size, room)
    assert len(lines) <= grid.MAX_LINES
    for line in lines:
        assert text_length(line, size) <= room or len(line.removesuffix("...")) == 1


def test_long_names_break_where_a_reader_would():
    name = "my_character_lora_version_two_final"
    assert "".join(grid.wrapped(name, 14, 120)) == name
    assert all(line.endswith(("_", "final")) for line in grid.wrapped(name, 14, 120))
    assert " ".join(grid.wrapped("one two three four", 14, 60)) == "one two three four"
    assert grid.wrapped("x" * 600, 14, 60)[-1].endswith("...")


def sheet_of(rows, columns, **more):
    cells = [[grid.Cell(lambda: picture(7, (32, 32))[0]) for _ in range(columns)] for _ in range(rows)]
    return grid.Sheet(cells, [f"row {n}" for n in range(rows)], [f"column {n}" for n in range(columns)], **more)


def test_every_picture_stands_in_its_place_unchanged():
    found = [[picture(10 * r + c, (48, 48))[0] for c in range(3)] for r in range(2)]
    cells = [[grid.Cell(lambda p=p: p) for p in row] for row in found]
    (sheet,) = grid.draw(grid.Sheet(cells, ["a", "b"], ["1", "2", "3"]), (48, 48), "dark")
    whole = numpy.asarray(sheet)
    places = [
        [next((y, x) for y in range(whole.shape[0] - 47) for x in range(whole.shape[1] - 47)
              if (whole[y, x : x + 3] == p[0, :3]).all() and (whole[y : y + 48, x : x + 48] == p).all()) for p in row]
        for row in found
    ]  # fmt: skip
    assert len({y for y, _ in places[0]}) == 1 and len({x for _, x in [places[0][0], places[1][0]]}) == 1
    assert places[0][0][1] < places[0][1][1] < places[0][2][1] and places[0][0][0] < places[1][0][0]


def test_a_sheet_splits_above_its_limit_and_keeps_every_cell():
    drawn = []
    cells = [
        [grid.Cell(lambda at=(r, c): drawn.append(at) or picture(1, (100, 100))[0]) for c in range(7)] for r in range(5)
    ]
    sheet = grid.Sheet(cells, [f"row {n}" for n in range(5)], [f"column {n}" for n in range(7)])
    found = list(grid.draw(sheet, (100, 100), "light", max_side=420))
    assert len(found) > 1 and all(max(one.size) <= 420 for one in found)
    assert sorted(drawn) == [(r, c) for r in range(5) for c in range(7)]
    assert grid.as_images(found, "light").shape[0] == len(found)


def test_a_cell_without_a_picture_shows_why():
    sheet = grid.Sheet([[grid.Cell(None, "Out of memory: use fewer steps")]], [""], ["1"])
    (found,) = grid.draw(sheet, (120, 90), "dark")
    empty = grid.Sheet([[grid.Cell(None, "")]], [""], ["1"])
    (blank,) = grid.draw(empty, (120, 90), "dark")
    assert found.size == blank.size and (numpy.asarray(found) != numpy.asarray(blank)).any()


@pytest.mark.parametrize("rows", ["", "a row"])
@pytest.mark.parametrize("width", [64, 130, 400])
def test_a_title_ends_before_the_edge(width, rows):
    """A sheet may be narrower than a readable title."""
    title = "All that there is to say about these pictures goes on and on to the end of it"
    sheet = grid.Sheet([[grid.Cell(None, "")]], [rows], ["1"], title)
    (found,) = grid.draw(sheet, (width, 64), "dark")
    pixels = numpy.asarray(found)
    assert (pixels[:20, :60] != pixels[0, 0]).any(), "no title"
    assert (pixels[:, -grid.GAP // 2 :] == pixels[0, 0]).all()


def test_hostile_labels_are_drawn():
    sheet = grid.Sheet(
        [[grid.Cell(None, "\ud800\0" * 50)]], ["\u202e" + "x" * 3000], ["\U0001f600\n" * 40], "\0title", "corner\t"
    )
    for theme in ("dark", "light"):
        assert list(grid.draw(sheet, (64, 64), theme))


def test_small_pictures_keep_hard_pixels():
    from PIL import Image

    one = Image.fromarray(picture(3, (10, 20))[0])
    assert grid.fitted(one, (70, 70)).size == (60, 30)
    assert grid.fitted(one, (10, 10)).size == (10, 5)
    assert grid.fitted(one, (20, 20)) is one


STRENGTH = Axis("strength", (0.0, 0.5, 1.0), ("0", "0.5", "1"), (0,))
BLOCK = Axis("without block", ("D00", "=cmd()"), ("D00", "=cmd()"), (0,))


def test_tables():
    found = measure.Difference(0.25, 0.125, 0.5, 0.75)
    lines = [
        table.Line(1, (0.5, "D00"), "<lora:a:0.5>", 7, "sweep/a_00001_.png", found, {"D00": 2.0}),
        table.Line(2, (0.5, "=cmd()"), "<lora:a:0.5>", 7, error='it,\n"failed"'),
    ]
    rows = list(csv.DictReader(io.StringIO(table.as_csv([STRENGTH, BLOCK], lines))))
    assert [row["cell"] for row in rows] == ["1", "2"]
    assert (rows[0]["rms"], rows[0]["mean_absolute"], rows[0]["ssim"], rows[0]["energy D00"]) == (
        "0.25",
        "0.125",
        "0.5",
        "2",
    )
    assert rows[1]["without block"] == "'=cmd()" and rows[1]["error"] == 'it,\n"failed"' and rows[1]["rms"] == ""
    told = json.loads(table.as_json([STRENGTH, BLOCK], lines))
    assert told["axes"][1]["values"] == ["D00", "=cmd()"]
    assert told["cells"][0]["values"] == {"strength": 0.5, "without block": "D00"}
    assert told["cells"][0]["rms"] == 0.25 and told["cells"][1]["error"].startswith("it,")
    twice = table.as_csv([BLOCK, BLOCK], [])
    assert "without block,without block 2" in twice


def test_curves():
    points = tuple(enumerate([0.0, 0.2, 0.25]))
    for series in ([curve.Series("", points)], [curve.Series(f"seed {n}", points) for n in range(20)], []):
        for axis in (STRENGTH, BLOCK, None):
            usable = [curve.Series(s.name, s.points[: 2 if axis is BLOCK else 3]) for s in series]
            found = curve.curve(axis, usable, "strength 0")
            assert image_of(found, "dark").shape[-1] == 3
            texts = [shape.text for shape in found.shapes if shape.kind == "text"]
            assert any("RMS" in text for text in texts) == (axis is not None and bool(series))
    long = Axis("strength", tuple(n / 5 for n in range(6)), tuple(map(str, range(6))), (0,))
    rise = curve.Series("", tuple(enumerate([0, 0.5, 0.8, 0.9, 0.95, 1.0])))
    assert curve.hint(long, rise) == "strength 0.4"
    texts = [shape.text for shape in curve.curve(long, [rise], "strength 0").shapes]
    assert "flattens here: 0.4" in texts


def test_parameters_as_a1111_writes_them():
    asked = Settings((), "a fox", "bad\nhands", 5, 20, 7.5)
    way = Way("euler", "simple", 1.0, {}, None)
    assert parameters(asked, "<lora:ink:0.8>", way, False, (512, 768), "a, b") == (
        "a fox <lora:ink:0.8>\nNegative prompt: bad\nhands\n"
        'Steps: 20, Sampler: euler, Schedule type: simple, CFG scale: 7.5, Seed: 5, Size: 512x768, Model: "a, b", Version: ComfyUI'
    )
    plain = parameters(Settings((), "a", " ", 1, 2, 1.0), "", replace(way, denoise=0.5), False, (8, 8), "")
    assert (
        plain
        == "a\nSteps: 2, Sampler: euler, Schedule type: simple, CFG scale: 1, Seed: 1, Size: 8x8, Denoising strength: 0.5, Version: ComfyUI"
    )


def test_parameters_name_nothing_that_did_not_run():
    asked = Settings((), "a fox", "bad", 5, 20, 7.5)
    wired = Way("euler", "simple", 0.5, {}, None, object(), torch.linspace(1, 0, 4))
    assert parameters(asked, "", wired, False, (8, 8), "") == (
        "a fox\nNegative prompt: bad\nSteps: 3, CFG scale: 7.5, Seed: 5, Size: 8x8, Version: ComfyUI"
    )
    guided = replace(wired, sampler=None, guider=object())
    assert parameters(asked, "<lora:a:1>", guided, True, (8, 8), "") == (
        "<lora:a:1>\nSteps: 3, Sampler: euler, Seed: 5, Size: 8x8, Version: ComfyUI"
    )


def test_batches_lie_side_by_side():
    two = picture(1, (4, 5), 2)
    assert (grid.side_by_side(two)[:, 5:] == two[1]).all()
    assert torch.is_tensor(grid.as_images(list(grid.draw(sheet_of(1, 1), (32, 32), "dark")), "dark"))
