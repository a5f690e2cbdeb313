"""The SD1.5 examples, run to a picture with the demo's models; each does what its note says."""

import copy
import io
import json

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


def test_two_loras_by_mask(server):
    prompt = example(server, "Two LoRAs by mask")
    pixels, reports = run(server, prompt)
    assert len(reports) == 2 and all("\nMask: acts where it is white" in report for report in reports)
    assert pixels != run(server, changed(prompt, mask=None))[0]
    assert pixels != run(server, without_loader(prompt))[0]
