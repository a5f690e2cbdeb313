"""The SD1.5 examples, run to a picture with the demo's models; each does what its note says."""

import copy
import io
import json
import re

import safetensors
from PIL import Image

from strata.devtools.models import LORAS
from strata.devtools.prompts import LOADER, small, without_loader
from strata.devtools.server import ROOT
from strata.devtools.workflow import nodes_of, to_prompt


def prompt_of(server, path):
    return small(to_prompt(json.loads(path.read_text(encoding="utf-8")), server.object_info()), size=64, steps=4)


def example(server, name):
    return prompt_of(server, ROOT / "example_workflows" / f"{name}.json")


def run(server, prompt):
    """(pixels, report of each of our nodes that has one)."""
    entry = server.run(prompt)
    reports = [output["strata_report"][0] for output in entry["outputs"].values() if "strata_report" in output]
    return Image.open(io.BytesIO(server.image(entry))).tobytes(), reports


def changed(prompt, kind=LOADER, **inputs):
    """The same prompt with other values on every node of a kind; None takes an input away."""
    prompt = copy.deepcopy(prompt)
    for node in nodes_of(prompt, kind):
        prompt[node]["inputs"].update(inputs)
        prompt[node]["inputs"] = {name: value for name, value in prompt[node]["inputs"].items() if value is not None}
    return prompt


def test_one_lora(server):
    prompt = example(server, "LoRA on SD1.5")
    pixels, (report,) = run(server, prompt)
    assert report.startswith(f"{LORAS[0]}: all ")
    assert pixels != run(server, without_loader(prompt))[0]


def test_block_weights(server):
    prompt = example(server, "Block weights")
    pixels, (report,) = run(server, prompt)
    assert "x 0.2" in report
    assert pixels != run(server, changed(prompt, block_weights=None))[0]
    off = changed(prompt, "StrataLoraBlockWeights", weights="default=0")
    assert run(server, off)[0] == run(server, without_loader(prompt))[0]


def test_live(server):
    prompt = example(server, "Live strength")
    pixels, reports = run(server, prompt)
    assert len(reports) == 2
    assert all("\nLive: " in report for report in reports)
    first, second = nodes_of(prompt, LOADER)
    for moved in (first, second):
        other = copy.deepcopy(prompt)
        other[moved]["inputs"]["strength_model"] = -1.0
        assert run(server, other)[0] != pixels


def test_strength_over_time(server):
    prompt = example(server, "Strength over time")
    pixels, (report,) = run(server, prompt)
    assert "\nLive: " in report
    always = run(server, changed(prompt, keyframes=None))[0]
    assert pixels != always
    assert "its strength follows the keyframes: hold: 0@0%, 1@30%" in report
    # A curve that stays at 0: the model alone, though the text encoders keep their strength.
    off = changed(changed(prompt, "StrataLoraSchedule", strength="0@0%, 0@100%"), strength_clip=0.0)
    assert run(server, off)[0] == run(server, without_loader(prompt))[0]


def test_a_speed_lora_on_the_first_steps(server):
    prompt = example(server, "Speed LoRA on the first steps")
    (curve,) = nodes_of(prompt, "StrataLoraSchedule")
    assert prompt[curve]["inputs"]["strength"] == "hold: 1@0s, 0@4s"
    # Of the four steps that are drawn here.
    first = changed(prompt, "StrataLoraSchedule", strength="hold: 1@0s, 0@2s")
    pixels, (report,) = run(server, first)
    assert "its strength follows the keyframes: hold: 1@0s, 0@2s" in report
    assert pixels not in (run(server, changed(prompt, keyframes=None))[0], run(server, without_loader(prompt))[0])


def test_two_loras_by_mask(server):
    prompt = example(server, "Two LoRAs by mask")
    pixels, reports = run(server, prompt)
    assert len(reports) == 2 and all("\nMask: acts where it is white" in report for report in reports)
    assert pixels != run(server, changed(prompt, mask=None))[0]
    assert pixels != run(server, without_loader(prompt))[0]


def test_many_loras_in_a_stack(server):
    prompt = example(server, "Many LoRAs in a stack")
    (stack,) = nodes_of(prompt, "StrataLoraStack")
    rows = re.sub(r"<lora:[^:>]+", f"<lora:{LORAS[0].removesuffix('.safetensors')}", prompt[stack]["inputs"]["rows"])
    assert rows.count("<lora:") == 3 and rows.count("\noff <lora:") == 1
    pixels, (report,) = run(server, changed(prompt, "StrataLoraStack", rows=rows))
    assert report.count(f"{LORAS[0]}: all ") == 2
    acting = "\n".join(line for line in rows.splitlines() if line.startswith("<lora:"))
    assert run(server, changed(prompt, "StrataLoraStack", rows=acting))[0] == pixels
    assert run(server, changed(prompt, "StrataLoraStack", rows=""))[0] != pixels


def test_a_lora_is_inspected(server):
    pixels, reports = run(server, example(server, "Inspect a LoRA"))
    assert len(set(pixels)) > 20, "a picture, and no plain surface"
    assert any("rank" in report for report in reports)


def saved_by(server, name):
    """(report, path of the file) of an example that saves a LoRA."""
    prompt = example(server, name)
    entry = server.run(prompt)
    (node,) = nodes_of(prompt, "StrataLoraSave")
    shown = entry["outputs"][node]
    (report,) = shown["strata_report"]
    (preview,) = nodes_of(prompt, "PreviewAny")
    assert entry["outputs"][preview]["text"] == [report], "the report stands beside the node"
    path = server.base / "output" / "loras" / shown["strata_lora"][0]
    assert path.is_file()
    return report, path


def test_block_weights_are_baked(server):
    report, path = saved_by(server, "Bake block weights into a file")
    assert report.startswith("Saved, error ") and report.splitlines()[0].endswith(f": {path.name}")
    # Through a plain loader the file draws what loader and desk draw together.
    prompt = example(server, "Block weights")
    for node in nodes_of(prompt, LOADER):
        prompt[node]["inputs"] |= {"strength_model": 1.0, "strength_clip": 1.0}
    pixels = run(server, prompt)[0]
    baked = run(server, changed(changed(prompt, block_weights=None), lora_name=path.name))[0]
    assert near(baked, pixels) and not near(baked, run(server, without_loader(prompt))[0])


def test_two_loras_are_merged(server):
    report, path = saved_by(server, "Merge two LoRAs")
    assert "sum, at most rank 32" in report
    assert json.loads(header(path)["strata.recipe"])["sources"][1]["strength_model"] == 0.5


def test_a_lora_is_shrunk(server):
    report, path = saved_by(server, "Shrink a LoRA")
    assert "99 % of the energy" in report
    original = server.base / "models" / "loras" / LORAS[0]
    assert path.stat().st_size < original.stat().st_size


def header(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def near(one, other):
    """Of pixels: the file holds float16, which moves a few of them by a little."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one) < 0.5
