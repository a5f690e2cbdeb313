"""Workflow file -> prompt, against graphs and prompts written by hand from what the editor produces."""

import copy
import json
import re
from collections import defaultdict
from pathlib import Path
from pkgutil import iter_modules

import pytest

from strata.devtools.example_graphs import GRAPHS
from strata.devtools.server import ROOT
from strata.devtools.workflow import WorkflowError, nodes_of, to_prompt

ENCODING = [
    "COMFY_DYNAMICCOMBO_V3",
    {
        "options": [
            {"key": "auto", "inputs": {}},
            {"key": "again", "inputs": {"required": {"crf": ["FLOAT", {}], "audio": ["AUDIO", {}]}}},
        ]
    },
]
OBJECT_INFO = {
    "Loader": {
        "input": {
            # Old-style combo, then a new-style one.
            "required": {
                "name": [["a.safetensors", "b.safetensors"]],
                "mode": ["COMBO", {"options": ["x", "y"]}],
            },
            "optional": {"model": ["MODEL"], "amount": ["FLOAT", {"default": 1.0}]},
        }
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
                "label": ["STRING", {"forceInput": True}],
                "text": ["STRING", {"multiline": True}],
            }
        }
    },
    # A seed by its name alone, one that says it has no control, and a picture with its upload button.
    "Noise": {"input": {"required": {"noise_seed": ["INT", {}], "size": ["INT"]}}},
    "Quiet": {"input": {"required": {"seed": ["INT", {"control_after_generate": False}], "size": ["INT"]}}},
    "Picture": {"input": {"required": {"image": [["p.png"], {"image_upload": True}], "size": ["INT"]}}},
    # As Save Video: the codec decides whether there is an encoding, and that whether there is a quality.
    "Saver": {
        "input": {
            "required": {
                "prefix": ["STRING", {}],
                "codec": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "auto", "inputs": {}},
                            {"key": "h264", "inputs": {"optional": {"encoding": ENCODING}}},
                        ]
                    },
                ],
                "frames": ["INT", {}],
            }
        }
    },
    "Custom": {"input": {"required": {"curve": ["MY_WIDGET", {}], "size": ["INT"]}}},
}


def socket(name, link=None, **more):
    return {"name": name, "type": "*", "link": link, **more}


def graph(*nodes, links=()):
    return {"version": 0.4, "nodes": list(nodes), "links": list(links)}


def node(id, type, widgets=(), inputs=(), **more):
    return {"id": id, "type": type, "mode": 0, "inputs": list(inputs), "widgets_values": widgets, **more}


def inputs_of(workflow, id):
    return to_prompt(workflow, OBJECT_INFO)[str(id)]["inputs"]


def test_a_small_graph():
    workflow = graph(
        node(3, "Loader", ["b.safetensors", "y", 0.25], [socket("model")]),
        node(4, "Loader", ["a.safetensors", "x", 0.5], [socket("model", 7)], title="Second"),
        node(
            9,
            "Sampler",
            [1234, "randomize", 20, "a cat"],
            [socket("model", 8), socket("label", 9)],
        ),
        node(12, "MarkdownNote", ["Read me"]),
        links=[[7, 3, 0, 4, 0, "MODEL"], [8, 4, 0, 9, 0, "MODEL"], [9, 4, 2, 9, 1, "STRING"]],
    )
    assert to_prompt(workflow, OBJECT_INFO) == {
        "3": {
            "class_type": "Loader",
            "inputs": {"name": "b.safetensors", "mode": "y", "amount": 0.25},
            "_meta": {"title": "Loader"},
        },
        "4": {
            "class_type": "Loader",
            "inputs": {"name": "a.safetensors", "mode": "x", "amount": 0.5, "model": ["3", 0]},
            "_meta": {"title": "Second"},
        },
        "9": {
            "class_type": "Sampler",
            "inputs": {"seed": 1234, "steps": 20, "text": "a cat", "model": ["4", 0], "label": ["4", 2]},
            "_meta": {"title": "Sampler"},
        },
    }


@pytest.mark.parametrize(
    ("type", "saved", "expected"),
    [
        ("Noise", [5, "fixed", 64], {"noise_seed": 5, "size": 64}),
        ("Quiet", [5, 64], {"seed": 5, "size": 64}),
        ("Picture", ["p.png", "image", 64], {"image": "p.png", "size": 64}),
        (
            "Loader",
            {"name": "a", "mode": "x", "amount": 2.0, "other": 1},
            {"name": "a", "mode": "x", "amount": 2.0},
        ),
    ],
)
def test_extra_widget_values(type, saved, expected):
    assert inputs_of(graph(node(1, type, saved)), 1) == expected


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (["v", "auto", 8], {"prefix": "v", "codec": "auto", "frames": 8}),
        (["v", "h264", "auto", 8], {"prefix": "v", "codec": "h264", "codec.encoding": "auto", "frames": 8}),
        (
            ["v", "h264", "again", 18.0, 8],
            {"prefix": "v", "codec": "h264", "codec.encoding": "again", "codec.encoding.crf": 18.0, "frames": 8},
        ),
        # By name, as some nodes save.
        (
            {"prefix": "v", "codec": "h264", "codec.encoding": "auto"},
            {"prefix": "v", "codec": "h264", "codec.encoding": "auto"},
        ),
    ],
)
def test_inputs_within_a_choice(saved, expected):
    assert inputs_of(graph(node(1, "Saver", saved)), 1) == expected


def test_inputs_of_another_choice_are_too_many():
    with pytest.raises(WorkflowError, match="stores 4 widget values; the node here has 3"):
        inputs_of(graph(node(1, "Saver", ["v", "auto", "auto", 8])), 1)


def test_a_linked_widget_keeps_its_place_and_takes_the_link():
    workflow = graph(
        node(1, "Quiet", [5, 64]),
        node(2, "Quiet", [5, 64], [socket("seed", 1, widget={"name": "seed"})]),
        links=[[1, 1, 0, 2, 0, "INT"]],
    )
    assert inputs_of(workflow, 2) == {"seed": ["1", 0], "size": 64}


def test_an_unknown_type_is_a_widget_where_the_file_says_so():
    saved = node(1, "Custom", ['{"v": 1}', 64], [socket("curve", widget={"name": "curve"})])
    assert inputs_of(graph(saved), 1) == {"curve": '{"v": 1}', "size": 64}
    assert inputs_of(graph(node(1, "Custom", [64], [socket("curve")])), 1) == {"size": 64}


def test_a_file_of_before_an_optional_widget_has_its_default():
    assert inputs_of(graph(node(7, "Loader", ["a", "x"])), 7) == {"name": "a", "mode": "x", "amount": 1.0}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (node(7, "Loader", ["a", "x", 1, 2]), "Loader .node 7. stores 4 widget values; the node here has 3"),
        (
            node(7, "Custom", [], [socket("curve", widget={"name": "curve"})]),
            "Custom .node 7. stores no value of curve, and the server names no default",
        ),
        (node(7, "Quiet", [1, 2], [socket("seed", 5)]), "Quiet .node 7.: its input seed takes link 5, which is not in"),
        ({"id": 7, "widgets_values": []}, "A node has no type or no id: .'id': 7"),
        (node(7, "Gone", []), "no node Gone .node 7."),
        (node(7, "Quiet", [1, 2], mode=4), "Quiet .node 7. is muted or bypassed"),
    ],
)
def test_what_does_not_fit_is_named(broken, words):
    with pytest.raises(WorkflowError, match=words):
        to_prompt(graph(broken), OBJECT_INFO)


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        ({"links": []}, "no list of nodes"),
        ({"nodes": [], "links": {}}, "no list of links"),
        ({"nodes": [], "links": [{"id": 1}]}, "Link .'id': 1. is not written as a list"),
    ],
)
def test_what_is_no_workflow_is_refused(workflow, words):
    with pytest.raises(WorkflowError, match=words):
        to_prompt(workflow, OBJECT_INFO)


@pytest.mark.parametrize(
    ("type", "saved", "expected"),
    [
        ("Loader", ["b.safetensors"], {"name": "b.safetensors", "mode": "x", "amount": 1.0}),
        ("Loader", [], {"name": "a.safetensors", "mode": "x", "amount": 1.0}),
        ("Noise", [5], {"noise_seed": 5, "size": 0}),
        ("Saver", ["v"], {"prefix": "v", "codec": "auto", "frames": 0}),
        (
            "Saver",
            ["v", "h264", "again"],
            {"prefix": "v", "codec": "h264", "codec.encoding": "again", "codec.encoding.crf": 0, "frames": 0},
        ),
    ],
)
def test_widgets_that_a_node_has_got_since_take_their_defaults(type, saved, expected):
    assert inputs_of(graph(node(1, type, saved)), 1) == expected


def test_the_workflow_is_not_changed():
    workflow = graph(node(1, "Quiet", [5, 64]))
    before = copy.deepcopy(workflow)
    to_prompt(workflow, OBJECT_INFO)["1"]["inputs"]["size"] = 1
    assert workflow == before


def test_nodes_of_keeps_the_order_of_the_file():
    prompt = to_prompt(
        graph(node(9, "Quiet", [1, 2]), node(2, "Noise", [1, "fixed", 2]), node(4, "Quiet", [1, 2])),
        OBJECT_INFO,
    )
    assert nodes_of(prompt, "Quiet") == ["9", "4"]


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_workflows_are_well_formed(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert max(nodes) == workflow["last_node_id"]
    assert max(link[0] for link in workflow["links"]) == workflow["last_link_id"]
    for link, source, out, target, into, type in workflow["links"]:
        # Both ends know the link, and a broken one would be dropped silently by the editor.
        assert link in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][into]["link"] == link
        assert nodes[source]["outputs"][out]["type"] == type
    ends = [socket["link"] for node in nodes.values() for socket in node["inputs"] if socket.get("link") is not None]
    assert sorted(ends) == sorted(link[0] for link in workflow["links"])


def test_addresses_are_those_of_comfyuis_own_templates():
    """Where both name a file, both say where it is."""
    theirs = defaultdict(set)
    # The templates come as one package or as several, as ComfyUI's requirements have them.
    packages = [folder for spec in iter_modules() if (folder := templates_of(spec))]
    for path in (path for package in packages for path in package.rglob("*.json")):
        for url in re.findall(
            r'"(https://huggingface\.co/[^"\s]{1,400}?\.safetensors)', path.read_text(encoding="utf-8")
        ):
            theirs[url.rsplit("/", 1)[1]].add(url)
    ours = {
        model["url"]
        for path in (ROOT / "example_workflows").glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        for model in node["properties"].get("models", ())
    }
    known = {url for url in ours if url.rsplit("/", 1)[1] in theirs}
    assert len(known) >= 6
    assert {url for url in known if url not in theirs[url.rsplit("/", 1)[1]]} == set()


def templates_of(spec):
    is_theirs = spec.name.startswith("comfyui_workflow_templates")
    return Path(spec.module_finder.path) / spec.name if is_theirs and spec.ispkg else None


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_workflows_do_not_overlap(path):
    title = 30
    boxes = [
        (
            node["pos"][0],
            node["pos"][1] - title,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + node["size"][1],
        )
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
    ]
    for index, (left, top, right, bottom) in enumerate(boxes):
        for x0, y0, x1, y1 in boxes[index + 1 :]:
            assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top


def test_shipped_workflows_are_those_that_are_built():
    """``python3 dev.py examples`` was run after the last change of ``devtools/example_graphs.py``."""
    folder = ROOT / "example_workflows"
    assert {path.stem for path in folder.glob("*.json")} == {path.stem for path in folder.glob("*.jpg")} == set(GRAPHS)
    for name, graph in GRAPHS.items():
        saved = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        nodes = sorted(saved["nodes"], key=lambda node: node["id"])
        assert [node["type"] for node in nodes] == [node.kind for node in graph.values()]
        assert len(saved["links"]) == sum(len(node.inputs) for node in graph.values())
        for node, meant in zip(nodes, graph.values(), strict=True):
            assert tuple(node["pos"]) == meant.at
            assert all(value in node.get("widgets_values", ()) for value in meant.values.values())
