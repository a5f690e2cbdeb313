"""What a stranger does to a sweep: axes that hide each other, edited pictures, two programs in one folder, tags in prompts, odd wires."""

import multiprocessing

import numpy
import pytest
import torch
from PIL import Image, PngImagePlugin

from strata.lora_math.blocks import builtin_layout
from strata.lora_math.errors import StrataError
from strata.nodes.comfy import pictures
from strata.nodes.lora_sweep import StrataSweep
from strata.nodes.seen_files import fingerprint
from strata.nodes.sweep.axes import Known, read_axis
from strata.nodes.sweep.plan import overlaps
from strata.tests.nodes.helpers.sweeping import as_run, latent, swept, told

FLUX = builtin_layout("FLUX.1")
ONE = {"x_axis": "strength", "x_values": "1", "compare_with": "nothing"}


@pytest.fixture(autouse=True)
def as_comfyui_runs_nodes():
    with torch.inference_mode():
        yield


def axis(kind, text, stack=("a",)):
    return read_axis("x", kind, text, Known(list(stack), lambda: [], lambda _: ["D00", "D01", "S00", "TE:t5xxl"]))


@pytest.mark.parametrize(
    "one, other, said",
    [
        (("block weight", "D*: 0, 1"), ("block weight", "D1-2: 0, 1"), "both set D01, D02: there y decides"),
        (("without block", "all"), ("block weight", "D0-1: 0, 1"), "both set D00, D01: there y decides"),
        (("only block", "D0"), ("block weight", "S3: 0, 1"), "both set S03: there y decides"),
        (("block weight", "*: 0, 1"), ("block weight", "D*: 0"), "D05 and 13 more: there y decides"),
        (("block weight", "TE: 0, 1"), ("block weight", "TE:clip_l: 0"), "both set TE:clip_l: there"),
        (("block weight", "OTHER: 0, 1"), ("block weight", "OTHER:img_in: 0"), "both set OTHER: there"),
        (("block weight", "D*.attn: 0"), ("block weight", "D1.img: 1"), "both set D01: there"),
        (("block weight", "D*.attn: 0"), ("block weight", "D*.mlp: 1"), None),
        (("block weight", "D*: 0"), ("block weight", "S*: 1"), None),
        (("block weight", "D*: 0"), ("without block", "D0"), None),
        (("without block", "D0"), ("without block", "D*"), None),
        (("block weight", "row 1: D*: 0"), ("block weight", "row 2: D*: 1"), None),
        (("strength", "1"), ("block weight", "D*: 1"), None),
    ],
)
def test_axes_that_set_the_same_block_are_said(one, other, said):
    stack = ("a", "b") if "row" in one[1] else ("a",)
    found = overlaps([axis(*one, stack), axis(*other, stack)], FLUX)
    assert (said is None and found == []) or (len(found) == 1 and said in found[0]), found


def test_overlaps_are_in_the_report(studio, out):
    asked = {"x_axis": "block weight", "x_values": "D*: 0, 1", "y_axis": "block weight", "y_values": "D0: 0.5"}
    assert "(weight of D0) both set D00: there y decides" in swept(studio, **asked).result[6]


def test_a_painted_picture_of_the_same_size_is_drawn_again(studio, out, samplings):
    (file,) = told(swept(studio, **ONE))["cells"][0]["files"]
    path = out / file["subfolder"] / file["filename"]
    picture = Image.open(path)
    info = PngImagePlugin.PngInfo()
    info.add_text("strata_sweep", picture.info["strata_sweep"])
    painted = picture.copy()
    painted.putpixel((3, 3), tuple(255 - colour for colour in painted.getpixel((3, 3))))
    painted.save(path, pnginfo=info)
    assert "1 drawn, 0 were there already" in swept(studio, **ONE).result[6]
    # Stored anew without a change it is the same picture.
    (file,) = told(swept(studio, **ONE))["cells"][0]["files"]
    path = out / file["subfolder"] / file["filename"]
    info = PngImagePlugin.PngInfo()
    info.add_text("strata_sweep", Image.open(path).info["strata_sweep"])
    Image.open(path).save(path, pnginfo=info, compress_level=9)
    assert "0 drawn, 1 were there already" in swept(studio, **ONE).result[6]
    assert len(samplings) == 2


def test_resume_looks_at_the_newest_and_says_what_it_did_not_look_at(studio, out, monkeypatch):
    swept(studio, **ONE)
    (out / "s" / "x_00001_.png").rename(out / "s" / "x_99999_.png")
    swept(studio, **{**ONE, "x_values": "0.5"})
    assert (out / "s" / "x_100000_.png").is_file()
    monkeypatch.setattr(pictures, "MAX_FOUND", 1)
    report = swept(studio, **{**ONE, "x_values": "0.5, 1"}).result[6]
    assert "1 drawn, 1 were there already" in report
    assert "1 older pictures of this filename_prefix were not looked at" in report
    # Where nothing was drawn nothing was missed.
    monkeypatch.setattr(pictures, "MAX_FOUND", 2)
    assert "not looked at" not in swept(studio, **{**ONE, "x_values": "0.5, 1"}).result[6]


def _save(folder, number, start):
    import folder_paths

    folder_paths.set_output_directory(folder)
    start.wait()
    found = pictures.Folder("both/x")
    for at in range(20):
        found.save_picture(Image.new("RGB", (8, 8), (number, at, 0)), "")
        found.save_texts({"csv": f"{number} {at}", "json": f"{number} {at}"}, "_table")


@pytest.mark.parametrize("links", [True, False])
def test_two_programs_in_one_folder_lose_nothing(out, monkeypatch, links):
    if not links:

        def link(*_):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(pictures.os, "link", link)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    running = [context.Process(target=_save, args=(str(out), number, start)) for number in (1, 2, 3)]
    for each in running:
        each.start()
    start.set()
    for each in running:
        each.join(100)
        assert each.exitcode == 0
    found = {tuple(numpy.asarray(Image.open(path))[0, 0, :2]) for path in (out / "both").glob("x_0*.png")}
    assert found == {(number, at) for number in (1, 2, 3) for at in range(20)}
    tables = {path.stem: path.read_text() for path in (out / "both").glob("*.csv")}
    assert sorted(tables.values()) == sorted(f"{number} {at}" for number in (1, 2, 3) for at in range(20))
    assert tables == {path.stem: path.read_text() for path in (out / "both").glob("*.json")}
    assert not list((out / "both").glob(".*"))


@pytest.mark.parametrize("broken", ["link", "open", "replace"])
def test_a_table_that_fails_to_be_saved_leaves_no_file(out, monkeypatch, broken):
    """What fails is the second of its two files, on a disk with and without links."""
    real, calls = {name: getattr(pictures.os, name) for name in ("link", "open", "replace")}, []

    def failing(*given):
        calls.append(given)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real[broken](*given)

    def none(*_):
        raise OSError(38, "Function not implemented")

    folder = pictures.Folder("both/x")
    monkeypatch.setattr(pictures.os, "link", none)
    if broken == "link":
        # Its second link fails, and then the way without links too.
        monkeypatch.setattr(pictures.os, "open", none)
    monkeypatch.setattr(pictures.os, broken, failing)
    with pytest.raises(StrataError, match="was not saved"):
        folder.save_texts({"csv": "1", "json": "1"}, "_table")
    assert len(calls) == 2
    assert list((out / "both").iterdir()) == []


def test_tags_typed_into_a_prompt_are_said_and_are_no_loras_of_the_picture(studio, out):
    asked = {"positive": "fox, <lora:strata_toy_blueprint:0.7>, book", "negative": "<lora:left open", **ONE}
    found = swept(studio, **asked)
    (file,) = told(found)["cells"][0]["files"]
    text = Image.open(out / file["subfolder"] / file["filename"]).info["parameters"]
    assert text.startswith("fox, book <lora:strata_toy_picture_book:1>\nSteps:") and text.count("<lora:") == 1
    assert "The prompts hold <lora:...> tags, which a sweep reads as words" in found.result[6]
    assert "tags" not in swept(studio, **ONE).result[6]


def test_a_folder_of_many_files_is_watched_whole(lora_folder, studio, out, monkeypatch):
    from strata.nodes.seen_files import remember
    from strata.nodes.stack import StackEntry

    names = [lora_folder.save(f"many/{at:03}.safetensors", {"a": torch.zeros(1)}) for at in range(300)]
    remember(as_run(), [StackEntry(name, 1.0, 1.0) for name in names])
    before = fingerprint(as_run())
    assert fingerprint(as_run()) == before
    lora_folder.save(names[0], {"a": torch.zeros(2)})
    assert fingerprint(as_run()) != before


class Guider:
    """One whose prompts are not where ComfyUI's are."""

    def __init__(self, model):
        self.model_patcher = model

    def sample(self, *_):
        raise AssertionError


@pytest.mark.parametrize(
    "given, said",
    [
        ({"latent_image": {"samples": numpy.zeros((1, 16, 8, 8))}}, "latent_image is no LATENT that can be drawn"),
        ({"latent_image": {"samples": torch.tensor(1.0)}}, "latent_image is no LATENT"),
        ({"latent_image": {"samples": torch.zeros(0, 16, 8, 8)}}, "latent_image is no LATENT"),
        ({"latent_image": {**latent(), "noise_mask": 5}}, "latent_image has a noise_mask that is no mask"),
        ({"latent_image": {**latent(), "batch_index": "first"}}, "latent_image has a batch_index"),
        ({"sigmas": numpy.array([1.0, 0.0])}, "sigmas holds no steps"),
        ({"sigmas": torch.tensor([1.0, float("nan")])}, "sigmas holds no steps"),
        ({"latent_image": {"samples": torch.zeros(1, 16, 8)}}, "^This picture could not be drawn. ComfyUI stopped with"),
        ({"sampler": type("Odd", (), {"sample": lambda *_, **__: None})()}, "^This picture could not be drawn. ComfyUI"),
    ],
)  # fmt: skip
def test_odd_wires_end_in_a_sentence(studio, out, given, said):
    with pytest.raises(StrataError, match=said):
        swept(studio, **{**ONE, **given})


def test_a_guider_of_another_make_is_said(studio, out):
    with pytest.raises(StrataError, match="guider is a Guider, whose model and prompts are not where"):
        StrataSweep.execute(vae=studio.vae, latent_image=latent(), guider=Guider(studio.model))


@pytest.mark.parametrize(
    "text, found",
    [
        ("0@0, 1@0.5", ["0@0, 1@0.5"]),
        ("0@0%, 1@50%, 0@100%", ["0@0%, 1@50%, 0@100%"]),
        ("fade in, fade out", ["fade in", "fade out"]),
        ("smooth: 0@0, 1@1, hold: 1@0, 0@0.5", ["smooth: 0@0, 1@1", "hold: 1@0, 0@0.5"]),
        ("fade in, 0@0, 1@1, pulse", ["fade in", "0@0, 1@1", "pulse"]),
        ('"0@0, 1@1", "1@0, 0@1"', ["0@0, 1@1", "1@0, 0@1"]),
        ("0@0, 1@1\n1@0, 0@1", ["0@0, 1@1", "1@0, 0@1"]),
    ],
)
def test_a_curve_on_one_line_is_one_value(text, found):
    assert list(axis("strength over time", text).labels) == found
