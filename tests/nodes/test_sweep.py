"""The sweep node on the shipped toy FLUX: its cells against the graph that a person would build, and what it keeps, reuses and survives."""

import csv
import io as text_io
import json
import os

import comfy.model_management
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import folder_paths
import numpy
import pytest
import torch
from PIL import Image, PngImagePlugin

import nodes as core
from strata.lora_math.errors import StrataError
from strata.nodes.comfy import drawing, notices, pictures
from strata.nodes.loader import StrataLoraLoader
from strata.nodes.lora_sweep import StrataSweep
from strata.nodes.seen_files import ask_again
from strata.nodes.stack import StackEntry
from strata.nodes.sweep import run
from strata.tests.nodes.helpers.sweeping import BLUE, INK, PROMPT, STEPS, cells_of, latent, swept, told


@pytest.fixture(autouse=True)
def as_comfyui_runs_nodes():
    with torch.inference_mode():
        yield


def single(
    studio,
    out,
    strengths=(1.0, 1.0),
    lora=INK,
    text="fox, picture book",
    seed=3,
    steps=STEPS,
    cfg=1.0,
    count=1,
    **options,
):
    """The picture as the files of ComfyUI's own nodes have it: loader, CLIP Text Encode, KSampler, VAE Decode, Save Image."""
    model, clip = studio.model, studio.clip
    for name, (of_model, of_clip) in (lora if isinstance(lora, dict) else {lora: strengths}).items():
        model, clip = StrataLoraLoader.execute(name, of_model, of_clip, model, clip, apply="patch", **options).result[
            :2
        ]
    positive, negative = (core.CLIPTextEncode().encode(clip, words)[0] for words in (text, ""))
    found = core.KSampler().sample(model, seed, steps, cfg, "euler", "simple", positive, negative, latent(count))[0]
    picture = core.VAEDecode().decode(studio.vae, found)[0]
    names = core.SaveImage().save_images(picture, "single/x")["ui"]["images"]
    return numpy.stack([numpy.asarray(Image.open(out / name["subfolder"] / name["filename"])) for name in names])


def test_every_patched_cell_is_what_the_single_graph_gives(studio, out):
    found = swept(studio, x_axis="strength", x_values="0, 0.5, 1", y_axis="seed", y_values="3, 4")
    cells = cells_of(found, out)
    for number, (strength, seed) in enumerate([(s, seed) for seed in (3, 4) for s in (0, 0.5, 1)]):
        assert (cells[number] == single(studio, out, (strength, strength), seed=seed)).all(), (strength, seed)
    assert len({cell.tobytes() for cell in cells}) == 6


@pytest.mark.parametrize(
    ("kind", "text", "graphs"),
    [
        ("strength model", "0.5", [{"strengths": (0.5, 1.0)}]),
        ("strength clip", "0.5", [{"strengths": (1.0, 0.5)}]),
        ("LoRA file", f"{BLUE}, {INK}", [{"lora": BLUE}, {"lora": INK}]),
        ("without block", "D00", [{"block_weights": "D00=0, default=1"}]),
        ("only block", "S*", [{"block_weights": "TE=0, OTHER=0, S*=1, default=0"}]),
        ("block weight", "S*: 0.5", [{"block_weights": "S*=0.5, default=1"}]),
        ("prompt", "fox, castle", [{}, {"text": "castle, picture book"}]),
        ("cfg", "1, 2", [{}, {"cfg": 2.0}]),
        ("steps", "1, 3", [{"steps": 1}, {"steps": 3}]),
    ],
)
def test_each_kind_of_axis_is_what_the_single_graph_gives(studio, out, kind, text, graphs):
    cells = cells_of(swept(studio, x_axis=kind, x_values=text, compare_with="nothing"), out)
    assert len(cells) == len(graphs)
    for cell, graph in zip(cells, graphs, strict=True):
        assert (cell == single(studio, out, **graph)).all(), graph


def test_strength_over_time_is_what_the_loader_gives(studio, out):
    cells = cells_of(swept(studio, x_axis="strength over time", x_values="last third", compare_with="nothing"), out)
    model, clip = StrataLoraLoader.execute(INK, 1.0, 1.0, studio.model, studio.clip, keyframes="last third").result[:2]
    positive, negative = (core.CLIPTextEncode().encode(clip, words)[0] for words in ("fox, picture book", ""))
    found = core.KSampler().sample(model, 3, STEPS, 1.0, "euler", "simple", positive, negative, latent())[0]
    wanted = numpy.clip(255.0 * core.VAEDecode().decode(studio.vae, found)[0].numpy(), 0, 255).astype(numpy.uint8)
    assert (cells[0] == wanted).all()
    assert (cells[0] != single(studio, out)).any()


def test_live_cells_are_the_same_latents_to_rounding(studio, out, monkeypatch):
    latents = {"patch": [], "live": []}
    own = drawing.sample
    for apply, kept in latents.items():
        monkeypatch.setattr(run, "sample", lambda *given, kept=kept: kept.append(own(*given)) or kept[-1])
        swept(studio, x_axis="strength", x_values="0.5, 1", apply=apply, compare_with="nothing", resume=False)
    for patched, live in zip(latents["patch"], latents["live"], strict=True):
        assert float((patched - live).norm() / patched.norm()) < 1e-4
    assert float((latents["patch"][0] - latents["patch"][1]).norm()) > 1e-3


def test_several_rows_and_a_stack(studio, out):
    stack = [StackEntry(BLUE, 0.5, 0.5)]
    found = swept(studio, lora_stack=stack, x_axis="strength", x_values="row 1: 0.25, 1", compare_with="nothing")
    wanted = single(studio, out, lora={BLUE: (0.25, 0.25), INK: (1.0, 1.0)})
    # Several LoRAs are fused: one rounding fewer than a chain of loaders.
    assert numpy.abs(cells_of(found, out)[0].astype(int) - wanted).max() <= 1
    with pytest.raises(StrataError, match="x_values does not say which LoRA"):
        swept(studio, lora_stack=stack, x_axis="strength", x_values="0, 1")


def test_a_batch_is_drawn_whole(studio, out):
    found = swept(studio, latent_image=latent(2), x_axis="strength", x_values="1", compare_with="nothing")
    assert (cells_of(found, out)[0] == single(studio, out, count=2)).all()
    assert found.result[1].shape[0] == 2
    with pytest.raises(StrataError, match="latent_image holds 17"):
        swept(studio, latent_image=latent(17))


def test_sampler_sigmas_and_guider(studio, out):
    model, _ = StrataLoraLoader.execute(INK, 0.5, 0.0, studio.model, studio.clip, apply="patch").result[:2]
    positive = core.CLIPTextEncode().encode(studio.clip, "fox, picture book")[0]
    sampler = custom.KSamplerSelect.execute("heun").result[0]
    sigmas = custom.BasicScheduler.execute(studio.model, "normal", 3, 1.0).result[0]
    noise = custom.RandomNoise.execute(3).result[0]
    guider = custom.BasicGuider.execute(model, positive).result[0]
    wanted = custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent()).result[0]
    picture = core.VAEDecode().decode(studio.vae, wanted)[0]
    wanted = numpy.clip(255.0 * picture.numpy(), 0, 255).astype(numpy.uint8)
    given = {
        "x_axis": "strength model",
        "x_values": "0.5",
        "compare_with": "nothing",
        "sampler": sampler,
        "sigmas": sigmas,
    }
    plain = custom.BasicGuider.execute(studio.model, positive).result[0]
    assert (cells_of(swept(studio, guider=plain, **given), out)[0] == wanted).all()
    assert plain.model_patcher is studio.model
    none = StackEntry(INK, 0.5, 0.0)
    without_guider = swept(studio, lora_name="", lora_stack=[none], **given)
    assert (cells_of(without_guider, out)[0] == wanted).all()


def test_what_a_guider_holds_is_no_axis(studio, out):
    positive = core.CLIPTextEncode().encode(studio.clip, "fox")[0]
    guider = custom.BasicGuider.execute(studio.model, positive).result[0]
    for kind, says in (
        ("prompt", "holds encoded prompts"),
        ("strength clip", "holds encoded"),
        ("cfg", "no single cfg"),
    ):
        with pytest.raises(StrataError, match=f"x_axis: the guider that is connected .*{says}"):
            swept(studio, guider=guider, x_axis=kind, x_values="1, 2")
    with pytest.raises(StrataError, match="x_axis: the sigmas that are connected hold the steps"):
        swept(studio, sigmas=torch.tensor([1.0, 0.0]), x_axis="steps", x_values="1, 2")
    both = custom.CFGGuider.execute(studio.model, positive, positive, 3.0).result[0]
    assert len(cells_of(swept(studio, guider=both, x_axis="cfg", x_values="1, 2"), out)) == 2
    assert both.cfg == 3.0


def test_a_rerun_draws_nothing_and_gives_the_same(studio, out, samplings):
    asked = {"x_axis": "strength", "x_values": "0.5, 1", "y_axis": "seed", "y_values": "3, 4"}
    first = swept(studio, **asked)
    drawn = len(samplings)
    assert drawn == 6
    again = swept(studio, **asked)
    assert len(samplings) == drawn
    for output, (one, other) in enumerate(zip(first.result[:6], again.result[:6], strict=True)):
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other, output
    assert "4 cells: 0 drawn, 6 were there already" in again.result[6]
    wider = swept(studio, **{**asked, "x_values": "0.5, 0.75, 1"})
    assert len(samplings) == drawn + 2 and len(told(wider)["cells"]) == 6
    swept(studio, **asked, resume=False)
    assert len(samplings) == drawn + 8


@pytest.mark.parametrize(
    "change",
    [
        {"positive": "castle"}, {"negative": "x"}, {"seed": 4}, {"steps": 3}, {"cfg": 1.5}, {"sampler_name": "heun"},
        {"scheduler": "normal"}, {"denoise": 0.5}, {"apply": "live"}, {"latent_image": {"samples": torch.ones(1, 16, 8, 8)}},
        {"lora_name": BLUE}, {"latent_image": {**latent(), "noise_mask": torch.zeros(1, 8, 8)}},
        {"sampler": comfy.samplers.sampler_object("euler"), "prompt": {**PROMPT, "5": {"class_type": "K", "inputs": {}},
         "9": {"class_type": "StrataSweep", "inputs": {**PROMPT["9"]["inputs"], "sampler": ["5", 0]}}}},
        {"prompt": {**PROMPT, "1": {"class_type": "Toy", "inputs": {"name": "other"}}}}, {"prompt": None},
    ],
)  # fmt: skip
def test_anything_that_matters_is_drawn_anew(studio, out, samplings, change):
    asked = {"x_axis": "strength", "x_values": "1", "compare_with": "nothing"}
    swept(studio, **asked)
    swept(studio, **{**asked, **change})
    assert len(samplings) == 2


def test_a_stop_keeps_what_is_done(studio, out, samplings, monkeypatch):
    own = drawing.Bar.show

    def stop(self, at, total, preview=None):
        own(self, at, total, preview)
        if at == 2 * STEPS + 1:
            raise comfy.model_management.InterruptProcessingException

    asked = {"x_axis": "strength", "x_values": "0.25, 0.5, 0.75, 1"}
    with monkeypatch.context() as change:
        change.setattr(drawing.Bar, "show", stop)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            swept(studio, **asked)
    assert len(list(out.glob("s/x_*.png"))) == 2
    swept(studio, **asked)
    # The third, which was running, and the two behind it.
    assert len(samplings) == 3 + 3
    assert not list(out.glob("s/.*"))


def test_a_failing_cell_stands_with_its_reason_and_the_others_go_on(studio, out):
    found = swept(studio, x_axis="LoRA file", x_values=f"{INK}, gone.safetensors, {BLUE}")
    cells = told(found)["cells"]
    assert [bool(cell["files"]) for cell in cells] == [True, False, True]
    assert "'gone.safetensors' is not in your loras folders" in cells[1]["error"]
    assert found.ui["strata_warned"] == [True] and "1 failed" in found.result[6]
    assert found.result[1].shape[0] == 2
    rows = list(csv.DictReader(text_io.StringIO(found.result[4])))
    assert "gone.safetensors" in rows[1]["error"] and rows[1]["rms"] == "" and float(rows[2]["rms"]) > 0


def test_where_every_cell_fails_the_node_does(studio, out):
    with pytest.raises(StrataError, match=r"'gone\.safetensors' is not in your loras folders"):
        swept(studio, x_axis="LoRA file", x_values="gone.safetensors")


def test_the_weights_come_back(studio, out):
    comfy.model_management.unload_all_models()
    before = {name: t.clone() for name, t in studio.model.model.state_dict().items()}
    for apply in ("patch", "live"):
        swept(studio, x_axis="strength", x_values="0.5, 1", apply=apply)
    comfy.model_management.unload_all_models()
    assert all(torch.equal(t, before[name]) for name, t in studio.model.model.state_dict().items())


def test_what_cells_share_is_made_once(studio, out):
    found = swept(studio, x_axis="strength model", x_values="0-1[5]", y_axis="seed", y_values="1, 2, 3", apply="live")
    assert "LoRAs were applied 6 times and prompts encoded 4 times" in found.result[6]
    alone = swept(studio, filename_prefix="s/y", lora_name=BLUE, x_axis="strength", x_values="0-1[5]", apply="live")
    # The blueprint has no text encoder's part, so that one encoding of each prompt is for all strengths.
    assert "LoRAs were applied 5 times and prompts encoded 2 times" in alone.result[6]


def test_numbers_maps_and_curve(studio, out):
    found = swept(studio, x_axis="strength", x_values="0, 0.5, 1")
    grid, _, maps, curve, as_csv, as_json, _ = found.result
    rows = list(csv.DictReader(text_io.StringIO(as_csv)))
    cells = [cell.astype(float) / 255 for cell in cells_of(found, out)]
    for row, cell in zip(rows, cells, strict=True):
        assert abs(float(row["rms"]) - numpy.sqrt(((cell - cells[0]) ** 2).mean())) < 1e-5
        assert abs(float(row["mean_absolute"]) - numpy.abs(cell - cells[0]).mean()) < 1e-5
    assert float(rows[0]["ssim"]) == 1
    energies = [sum(float(value or 0) for name, value in row.items() if name.startswith("energy")) for row in rows]
    assert energies[0] == 0 and abs(energies[2] / energies[1] - 4) < 1e-4
    assert json.loads(as_json)["cells"][2]["file"].startswith("s/x_")
    assert grid.shape[0] == maps.shape[0] == curve.shape[0] == 1
    for kind in ("grid_00001_.png", "differences_00001_.png", "table_00001_.csv", "table_00001_.json"):
        assert (out / "s" / f"x_{kind}").is_file()


def test_a_picture_holds_its_workflow_its_values_and_parameters(studio, out):
    found = swept(studio, x_axis="strength", x_values="0.5", y_axis="seed", y_values="7")
    (file,) = told(found)["cells"][0]["files"]
    info = Image.open(out / file["subfolder"] / file["filename"]).info
    assert json.loads(info["workflow"]) == {"nodes": [1]} and json.loads(info["prompt"]) == PROMPT
    assert json.loads(info["strata_sweep"])["values"] == {"strength": "0.5", "seed": "7"}
    assert info["parameters"].startswith(
        "fox, picture book <lora:strata_toy_picture_book:0.5>\nSteps: 2, Sampler: euler"
    )
    assert "Seed: 7, Size: 64x64" in info["parameters"]


def test_without_metadata_only_the_cell_itself_is_in_a_picture(studio, out, monkeypatch, samplings):
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    for _ in range(2):
        found = swept(studio, x_axis="strength", x_values="1", compare_with="nothing")
    (file,) = told(found)["cells"][0]["files"]
    info = Image.open(out / file["subfolder"] / file["filename"]).info
    assert "prompt" not in info and "parameters" not in info and len(samplings) == 1
    others = [path for path in out.rglob("*.png") if "_grid" in path.name or "_differences" in path.name]
    assert others and not any({"prompt", "workflow"} & Image.open(path).info.keys() for path in others)


@pytest.mark.parametrize("damage", ["cut", "resized", "gone"])
def test_a_saved_cell_that_is_no_longer_whole_is_drawn_again(studio, out, samplings, damage):
    asked = {"x_axis": "strength", "x_values": "0.5, 1", "compare_with": "nothing"}
    first = swept(studio, **asked)
    (file,) = told(first)["cells"][0]["files"]
    path = out / file["subfolder"] / file["filename"]
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-400])
    else:
        picture, info = Image.open(path), PngImagePlugin.PngInfo()
        info.add_text("strata_sweep", picture.info["strata_sweep"])
        picture.resize((32, 32)).save(path, pnginfo=info)
    again = swept(studio, **asked)
    assert len(samplings) == 3
    assert torch.equal(first.result[1], again.result[1])
    assert "1 drawn, 1 were there already" in again.result[6]


@pytest.mark.parametrize("prefix", ["x" * 245, "a\0b"])
def test_a_name_that_cannot_be_saved_is_said_before_anything_is_sampled(studio, out, samplings, prefix):
    with pytest.raises(StrataError, match="filename_prefix"):
        swept(studio, filename_prefix=prefix, x_axis="strength", x_values="0.5, 1")
    assert samplings == []
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_a_failed_cell_is_asked_for_again_and_a_folder_is_watched(studio, out, monkeypatch):
    class Here(StrataSweep):
        hidden = type("Hidden", (), {"unique_id": "9", "prompt": PROMPT, "extra_pnginfo": None})

    before = Here.fingerprint_inputs(lora_name=INK, x_axis="strength")
    ask_again(Here)
    after = Here.fingerprint_inputs(lora_name=INK, x_axis="strength")
    assert before != after == Here.fingerprint_inputs(lora_name=INK, x_axis="strength")
    listed = Here.fingerprint_inputs(lora_name=INK, x_axis="LoRA file")
    monkeypatch.setattr("strata.nodes.lora_sweep.lora_names", lambda: ["new.safetensors"])
    assert Here.fingerprint_inputs(lora_name=INK, x_axis="LoRA file") != listed
    assert Here.fingerprint_inputs(lora_name=INK, x_axis="strength") == after


def test_the_page_hears_of_each_cell_at_once(studio, out, monkeypatch):
    sent = []
    monkeypatch.setattr("strata.nodes.sweep.work.send", lambda node, event, told: sent.append((node, event, told)))
    found = swept(studio, x_axis="strength", x_values="0, 1")
    assert [(node, event, what["what"]) for node, event, what in sent] == [
        ("9", "strata.sweep", w) for w in ("begin", "cell", "cell")
    ]
    assert sent[0][2]["count"] == 2 and sent[0][2]["axes"] == [
        {"name": "strength", "kind": "strength", "labels": ["0", "1"]}
    ]
    assert [what["cell"] for _, _, what in sent[1:]] == told(found)["cells"]
    assert notices.send is not None


def test_a_loaders_model_and_stack_together_are_refused(studio, out):
    wires = {"model": ["1", 0], "clip": ["2", 0], "lora_stack": ["1", 4]}
    prompt = {"1": {"class_type": "L", "inputs": {}}, "2": {"class_type": "C", "inputs": {}},
              "9": {"class_type": "StrataSweep", "inputs": wires}}  # fmt: skip
    with pytest.raises(StrataError, match="model and lora_stack come from the same node"):
        swept(studio, prompt=prompt)


@pytest.mark.parametrize("in_memory", [1 << 30, 1])
def test_the_batch_is_the_files(studio, out, monkeypatch, in_memory):
    monkeypatch.setattr(pictures, "IN_MEMORY", in_memory)
    found = swept(studio, x_axis="strength", x_values="0.5, 1", compare_with="nothing")
    wanted = torch.from_numpy(numpy.concatenate(cells_of(found, out)).astype(numpy.float32) / 255)
    assert torch.equal(found.result[1], wanted)
    # A node behind it may write into its input's copy, and holds it when the sweep is long gone.
    assert torch.equal(found.result[1].clone().mul_(2), wanted * 2)


def test_model_files_are_known_by_size_and_date(studio, out, tmp_path, monkeypatch):
    file = folder_paths.get_full_path("loras", INK)
    stamp = [(os.stat(file).st_size, os.stat(file).st_mtime_ns)]
    assert pictures.file_stamp(INK) == pictures.file_stamp(INK.removesuffix(".safetensors")) == stamp
    assert pictures.file_stamp(file) == stamp
    (tmp_path / "photo.png").write_bytes(b"x")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    assert pictures.file_stamp("photo.png") == [(1, os.stat(tmp_path / "photo.png").st_mtime_ns)]
    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "Lists", type("Lists", (), {"OUTPUT_IS_LIST": (False, True)}))
    assert pictures.makes_lists("Lists")
    assert not pictures.makes_lists("KSampler") and not pictures.makes_lists("a node of nobody")
    for text in ("", "euler", "x" * 5000, "a\nb", "\0", str(tmp_path)):
        assert pictures.file_stamp(text) is None


def test_a_prefix_that_leads_out_is_refused(studio, out):
    with pytest.raises(StrataError, match=r"filename_prefix .* leads out of the output folder"):
        swept(studio, filename_prefix="../../x", x_axis="strength", x_values="1")
