"""Every workflow that is shipped, or that a version once saved, opens in the editor and means there what it means to the server."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from saved_workflows import ADDED, MEANT, SAVED, name_of

from strata.devtools.served_toy import on_the_toy
from strata.devtools.server import ROOT
from strata.devtools.workflow import nodes_of, to_prompt

pytestmark = pytest.mark.browser
# What of an example's rows acts, and so reaches the prompt: no headings, no notes, nothing that is off.
ACTING = {
    "A pair of LoRAs for Wan 2.2": "<lora:wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise:1;1>",
    "Many LoRAs in a stack": "<lora:PixelArtRedmond15V-PixelArt-PIXARFK:0.9>\n<lora:add_detail:0.6:0.3>",
}
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
LOAD = """async (workflow) => {
  await app.loadGraphData(workflow, true, true)
  await new Promise((done) => setTimeout(done, 500))
  return app.graph.nodes.filter((node) => !LiteGraph.registered_node_types[node.type]).map((node) => node.type)
}"""
SAVE = "async () => JSON.stringify((await app.graphToPrompt()).workflow)"
# What the editor's window of missing models lists.
MISSING = (
    "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('missingModel')"
    ".missingModelCandidates?.map(({name, url, directory}) => ({name, url, directory}))"
)
# Nodes as they stand on the screen. In the newer renderer they are as tall as their content.
BOXES = """() => {
  const drawn = [...document.querySelectorAll('[data-node-id]')].map((node) => node.getBoundingClientRect())
  return drawn.length ? drawn.map((box) => [box.left, box.top, box.right, box.bottom])
    : app.graph.nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]])
}"""


def load(page, workflow):
    assert page.evaluate(LOAD, workflow) == [], "nodes that this ComfyUI does not have"


def prompt_of(page):
    """As it is sent to the server; newer editors say beside the title which pack and version a node is of."""
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    for node in prompt.values():
        node["_meta"] = {"title": node["_meta"]["title"]}
    return prompt


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(page, server, path):
    """Opened from ComfyUI's templates: every node exists, none hides another, the prompt is right, and missing files come with
    their addresses; saved again, it is the file."""
    (pack,) = server.get_json("/api/workflow_templates").items()
    assert path.stem in pack[1]
    place = f"/api/workflow_templates/{quote(pack[0])}/{quote(path.stem)}"
    workflow = page.evaluate("async (url) => (await fetch(url)).json()", f"{place}.json")
    assert server.get(f"{place}.jpg")[:2] == b"\xff\xd8"

    load(page, workflow)
    expected = to_prompt(workflow, server.object_info())
    for node in nodes_of(expected, "StrataLoraStack"):
        expected[node]["inputs"]["rows"] = ACTING[path.stem]
    for node in expected.values():
        # The editor says which colours it has; here it is dark.
        if node["inputs"].get("theme") == "auto":
            node["inputs"]["theme"] = "dark"
    assert prompt_of(page) == expected
    boxes = page.evaluate(BOXES)
    assert len(boxes) == len(workflow["nodes"])
    for index, (left, top, right, bottom) in enumerate(boxes):
        for x0, y0, x1, y1 in boxes[index + 1 :]:
            assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top

    named = {model["name"]: model for node in workflow["nodes"] for model in node["properties"].get("models", ())}
    if path not in on_the_toy():  # whose files have no address: they come with the source
        page.wait_for_function(f"() => {MISSING}?.length", timeout=60_000)
        assert {model["name"]: model for model in page.evaluate(f"() => {MISSING}")} == named

    saved = json.loads(page.evaluate(SAVE))
    assert saved["links"] == workflow["links"]
    for before, after in zip(workflow["nodes"], saved["nodes"], strict=True):
        for place in ("pos", "size", "flags"):  # a renderer may lay nodes out anew
            before.pop(place), after.pop(place)
        # Of a node without widgets: an empty list once it was loaded, or nothing in newer editors, which add the values by name.
        before.setdefault("widgets_values", []), after.setdefault("widgets_values", [])
        named = after.pop("widgets_values_named", None)
        if isinstance(named, dict):
            assert list(named.values()) == after["widgets_values"]
        if not before["type"].startswith("Strata"):
            # A core node may have got widgets since.
            after["widgets_values"] = after["widgets_values"][: len(before["widgets_values"])]
        assert after == before


@pytest.mark.parametrize("path", SAVED, ids=name_of)
def test_an_old_workflow_still_opens(page, server, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    load(page, workflow)
    prompt = prompt_of(page)
    assert prompt == to_prompt(workflow, server.object_info())
    ours = {node["class_type"]: node["inputs"] for node in prompt.values() if node["class_type"].startswith("Strata")}
    expected = MEANT[name_of(path)]
    assert ours.keys() == expected.keys()
    for kind, values in expected.items():
        values = {**ADDED.get(kind, {}), **values}
        assert {name: ours[kind][name] for name in values} == values
        links = ours[kind].keys() - values.keys()
        assert links <= {"model", "clip"}


def test_every_example_has_its_picture():
    for path in EXAMPLES:
        assert Path(path.with_suffix(".jpg")).stat().st_size < 100_000
