"""The sweep's nodes with inputs that are missing, null or of a wrong type, and the two small ones beside it."""

import numpy
import pytest
import torch

from strata.lora_math.errors import StrataError
from strata.nodes.image_grid import StrataImageGrid
from strata.nodes.lora_sweep import StrataSweep
from strata.nodes.sweep_values import StrataSweepValues


class Patcher:
    def add_patches(self, *_):
        raise AssertionError("not reached")


class Vae:
    def decode(self, *_):
        raise AssertionError("not reached")


GOOD = {
    "model": Patcher(), "clip": Patcher(), "vae": Vae(), "latent_image": {"samples": torch.zeros(1, 4, 8, 8)},
    "lora_name": "", "x_axis": "seed", "x_values": "1, 2", "y_axis": "none", "y_values": "", "z_axis": "none", "z_values": "",
    "positive": "", "negative": "", "seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
    "denoise": 1.0, "apply": "live", "compare_with": "nothing", "compare_cell": 1, "cell_size": 512, "theme": "dark",
    "filename_prefix": "x", "resume": True, "strength_model": 1.0, "strength_clip": 1.0, "lora_stack": None, "sampler": None,
    "sigmas": None, "guider": None,
}  # fmt: skip
# Connected wires without which nothing can be drawn.
MUST = ("model", "clip", "vae", "latent_image")
BAD = ([1], {"a": 1}, "\0odd", float("nan"), 10**5000, -1)


@pytest.fixture
def reached(monkeypatch):
    """A stand-in for all that comes behind the inputs."""
    monkeypatch.setattr("strata.nodes.sweep.energies.Blocks.__post_init__", lambda self: None)

    def stop(_):
        raise AssertionError("accepted")

    monkeypatch.setattr("strata.nodes.sweep.work.work", stop)


@pytest.mark.parametrize("name", GOOD)
def test_missing_and_null_are_the_default_or_a_sentence(reached, name):
    left_out = {key: value for key, value in GOOD.items() if key != name}
    for given in (left_out, {**left_out, name: None}):
        if name in MUST or name == "x_values":
            with pytest.raises(StrataError, match=f"^{name} (is missing|has no values)"):
                StrataSweep.execute(**given)
        else:
            with pytest.raises(AssertionError, match="accepted"):
                StrataSweep.execute(**given)


@pytest.mark.parametrize("value", BAD, ids=lambda value: f"{type(value).__name__}"[:12])
@pytest.mark.parametrize("name", GOOD)
def test_a_wrong_value_is_a_sentence_that_names_the_input(reached, name, value):
    fine = (
        name in ("positive", "negative", "lora_name", "filename_prefix", "y_values", "z_values")
        and isinstance(value, str)
    ) or (name.startswith("strength_") and value == -1)
    with pytest.raises((StrataError, AssertionError)) as error:
        StrataSweep.execute(**{**GOOD, name: value})
    said = str(error.value)
    if fine:
        assert said == "accepted"
    else:
        assert isinstance(error.value, StrataError), said
        # A stack that is none is named by what is wrong in it.
        assert name in said or "LORA_STACK" in said, said


def test_limits(reached):
    for name, value in (
        ("cfg", 1001.0),
        ("denoise", 1.5),
        ("compare_cell", 0),
        ("cell_size", 9000),
        ("steps", 0),
        ("strength_clip", -101),
    ):
        with pytest.raises(StrataError, match=f"{name} is {value:g}: it goes from"):
            StrataSweep.execute(**{**GOOD, name: value})


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("numbers", "0-1[3]", ([0.0, 0.5, 1.0], [0, 0, 1], ["0", "0.5", "1"])),
        ("whole numbers", "1-3", ([1.0, 2.0, 3.0], [1, 2, 3], ["1", "2", "3"])),
        ("names", 'a, "b, c"', ([1.0, 2.0], [1, 2], ["a", "b, c"])),
        ("LoRA files", "x.safetensors", ([1.0], [1], ["x.safetensors"])),
    ],
)
def test_values_as_lists(kind, text, found):
    assert StrataSweepValues.execute(kind, text).result == found


@pytest.mark.parametrize("given", [{}, {"kind": 5, "values": "1"}, {"kind": "names", "values": None}, {"kind": "numbers", "values": "x"},
                                   {"kind": "numbers", "values": [1]}, {"kind": "LoRA files", "values": "none/*"}])  # fmt: skip
def test_values_that_are_none(given):
    with pytest.raises(StrataError, match=r"^(kind|values)"):
        StrataSweepValues.execute(**given)


def pictures(count, size=(24, 32)):
    return torch.from_numpy(numpy.random.default_rng(1).random((count, *size, 3), dtype=numpy.float32))


def as_drawn(picture):
    return numpy.clip(255.0 * picture.numpy(), 0, 255).astype(numpy.uint8)


def test_a_grid_of_any_pictures():
    images = pictures(6, (48, 48))
    found = StrataImageGrid.execute([images[:2], images[2:]], ["a, b, c"], ["1", "2"]).result[0]
    sheet = numpy.rint(found[0].numpy() * 255).astype(numpy.uint8)
    for picture in images:
        wanted = as_drawn(picture)
        rows, columns = numpy.where((sheet[:-47, :-47] == wanted[0, 0]).all(-1))
        assert any((sheet[y : y + 48, x : x + 48] == wanted).all() for y, x in zip(rows, columns, strict=True))


@pytest.mark.parametrize(
    ("count", "given", "shape"),
    [
        (5, {}, (3, 2)),
        (6, {"across": [6]}, (6, 1)),
        (4, {"rows": ["a, b"]}, (2, 2)),
        (1, {}, (1, 1)),
        (3, {"columns": ["a, b, c"]}, (3, 1)),
    ],
)
def test_how_many_lie_side_by_side(count, given, shape):
    wide = StrataImageGrid.execute([pictures(count, (64, 64))], **given).result[0].shape
    plain = [grid_size(shape[0]), grid_size(shape[1])]
    labels = [0 if "rows" not in given else wide[2] - plain[0], 0 if "columns" not in given else wide[1] - plain[1]]
    assert (wide[2] - labels[0], wide[1] - labels[1]) == tuple(plain)


def grid_size(count):
    return count * (64 + 4) + 4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "images is missing"), ({"images": []}, "images is an empty list"), ({"images": [None]}, "images is missing"),
        ({"images": [5]}, "images is missing"), ({"columns": ["a, b"]}, None),
        ({"columns": ["a"], "across": [2]}, "columns has 1 label, and 4 pictures, 2 side by side.* Write 2 labels with commas"),
        ({"rows": [5]}, "rows is 5"), ({"across": [-1]}, "across is -1"), ({"across": ["x"]}, "across is 'x'"),
        ({"cell_size": [9000]}, "cell_size is 9000"), ({"theme": ["red"]}, "theme is 'red'"), ({"title": [5]}, "title is 5"),
    ],
)  # fmt: skip
def test_a_grid_of_wrong_things(given, says):
    given = {"images": [pictures(4)], **given} if given else {}
    if says is None:
        assert StrataImageGrid.execute(**given).result[0].shape[0] == 1
        return
    with pytest.raises(StrataError, match=says):
        StrataImageGrid.execute(**given)
