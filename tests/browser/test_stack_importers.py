"""A right click on another pack's node puts a LoRA Stack in its place: workflow files written by hand from the documented formats.

None of those packs is installed here, as on the machine of somebody who wants to leave one: ComfyUI keeps their nodes as boxes.
"""

import desk_page as d
import pytest
import stack_page as s

pytestmark = pytest.mark.browser


def slots(*pairs, links=()):
    return [
        {"name": name, "type": kind, "link": link}
        for (name, kind), link in zip(pairs, [*links, *[None] * 9], strict=False)
    ]


def outputs(*pairs, links=()):
    found = zip(pairs, [*links, *[[]] * 9], strict=False)
    return [
        {"name": name, "type": kind, "links": link, "slot_index": at} for at, ((name, kind), link) in enumerate(found)
    ]


MODEL_CLIP = (("model", "MODEL"), ("clip", "CLIP"))
GIVES = (("MODEL", "MODEL"), ("CLIP", "CLIP"))
MANAGER = [{"name": "style/a", "strength": 0.6, "active": True, "expanded": False, "clipStrength": 0.3, "selected": False},
           {"name": "b", "strength": "1.00", "active": False, "clipStrength": 1, "locked": False}]  # fmt: skip
# Title -> (type, inputs, outputs, widgets_values, the rows that it means)
LOADERS = {
    "rgthree": (
        "Power Lora Loader (rgthree)", MODEL_CLIP, GIVES,
        [{}, {"type": "PowerLoraLoaderHeaderWidget"},
         {"on": True, "lora": "style\\a.safetensors", "strength": 0.6, "strengthTwo": 0.3},
         {"on": False, "lora": "b.safetensors", "strength": 1, "strengthTwo": None}, {}, ""],
        "<lora:style\\a.safetensors:0.6:0.3>\noff <lora:b.safetensors:1>",
    ),
    "Lora Manager": (
        "Lora Loader (LoraManager)", (*MODEL_CLIP, ("lora_stack", "LORA_STACK")),
        (*GIVES, ("trigger_words", "STRING"), ("loaded_loras", "STRING")),
        [{"version": 1, "textWidgetName": "text"}, "<lora:a:0.60>", MANAGER],
        "<lora:style/a:0.6:0.3>\noff <lora:b:1>",
    ),
    "ComfyUI's rows": (
        "LoadLoraModel", (("model", "MODEL"),), (("MODEL", "MODEL"),),
        [2, "style/a.safetensors", 0.6, True, "b.safetensors", 1, False],
        "<lora:style/a.safetensors:0.6>\noff <lora:b.safetensors:1>",
    ),
}  # fmt: skip
STACKERS = {
    "Efficiency": (
        "LoRA Stacker", ["advanced", 2, "a.safetensors", 1, 0.6, 0.3, "b.safetensors", 1, 1, 1, "None", 1, 1, 1],
        "<lora:a.safetensors:0.6:0.3>\n<lora:b.safetensors:1>",
    ),
    "Comfyroll": (
        "CR LoRA Stack", ["On", "a.safetensors", 0.6, 0.3, "Off", "b.safetensors", 1, 1, "Off", "None", 1, 1],
        "<lora:a.safetensors:0.6:0.3>\noff <lora:b.safetensors:1>",
    ),
    "Easy-Use": (
        "easy loraStack", [True, "advanced", 2, "a.safetensors", 1, 0.6, 0.3, "b.safetensors", 1, 1, 1],
        "<lora:a.safetensors:0.6:0.3>\n<lora:b.safetensors:1>",
    ),
    "Lora Manager's stacker": (
        "Lora Stacker (LoraManager)", [{"version": 1, "textWidgetName": "text"}, "", MANAGER],
        "<lora:style/a:0.6:0.3>\noff <lora:b:1>",
    ),
}  # fmt: skip


def node(number, kind, at, inputs, outs, values):
    return {"id": number, "type": kind, "pos": [at, 120], "size": [320, 200], "flags": {}, "order": number, "mode": 0, "inputs": inputs,
            "outputs": outs, "properties": {"Node name for S&R": kind}, "widgets_values": values}  # fmt: skip


def workflow(nodes, links):
    return {"version": 0.4, "nodes": nodes, "links": links, "groups": [], "last_node_id": 9, "last_link_id": 9}


def loader_workflow(kind, ins, outs, values):
    """Checkpoint -> the foreign loader -> a text encoder and a node that takes the model."""
    both = len(ins) > 1
    return workflow(
        [node(1, "CheckpointLoaderSimple", 40, [], outputs(*GIVES, ("VAE", "VAE"), links=[[1], [2] if both else []]), ["x.safetensors"]),
         node(2, kind, 420, slots(*ins, links=[1, 2] if both else [1]), outputs(*outs, links=[[3], [4]] if both else [[3]]), values),
         node(3, "ModelSamplingFlux", 900, slots(("model", "MODEL"), links=[3]), outputs(("MODEL", "MODEL")), [1.15, 0.5, 1024, 1024]),
         node(4, "CLIPTextEncode", 900, slots(("clip", "CLIP"), links=[4 if both else None]),
              outputs(("CONDITIONING", "CONDITIONING")), ["a"])],
        [[1, 1, 0, 2, 0, "MODEL"], [3, 2, 0, 3, 0, "MODEL"], *([[2, 1, 1, 2, 1, "CLIP"], [4, 2, 1, 4, 0, "CLIP"]] if both else [])],
    )  # fmt: skip


def stacker_workflow(kind, values):
    """Another stack -> the foreign stacker -> our loader."""
    ours = [
        ("model", "MODEL"),
        ("clip", "CLIP"),
        ("block_weights", "BLOCK_WEIGHTS"),
        ("keyframes", "*"),
        ("lora_stack", "LORA_STACK"),
    ]
    wired = slots(*ours, links=[None, None, None, None, 2])
    return workflow(
        [node(1, "StrataLoraStack", 40, [], outputs(*GIVES, ("LORA_STACK", "LORA_STACK"), links=[[], [], [1]]),
              ["<lora:sd15:1>", 0, "fixed", "auto", "error"]),
         node(2, kind, 520, slots(("lora_stack", "LORA_STACK"), links=[1]), outputs(("LORA_STACK", "LORA_STACK"), links=[[2]]), values),
         node(3, "StrataLoraLoader", 1000, wired, outputs(*GIVES), ["flux.safetensors", 1, 1, "auto", "error"])],
        [[1, 1, 2, 2, 0, "LORA_STACK"], [2, 2, 0, 3, 4, "LORA_STACK"]],
    )  # fmt: skip


def open_and_replace(page, graph):
    """Loads a workflow, takes our offer on node 2, and gives the new node."""
    page.evaluate("(it) => app.loadGraphData(it, true, false, app.extensionManager.workflow.activeWorkflow)", graph)
    d.rest(page, 700)
    page.keyboard.press("Escape")
    d.remember(page)
    offers = page.evaluate(
        """() => {
          const ours = app.extensions.find((one) => one.getNodeMenuItems && one.name.toLowerCase().startsWith('strata'))
          const found = ours.getNodeMenuItems(app.graph.getNodeById(2))
          found[0]?.callback()
          return found.map((item) => item.content)
        }"""
    )
    assert offers == ["Replace by LoRA Stack (Strata)"]
    page.wait_for_function("() => !app.graph.getNodeById(2)")
    d.rest(page, 300)
    return page.evaluate("() => String(Math.max(...app.graph.nodes.map((node) => Number(node.id))))")


def link_into(page, node_id, name):
    """[node, slot] that a wire into an input comes from."""
    return page.evaluate(
        """([id, name]) => {
          const node = app.graph.getNodeById(id)
          const link = app.graph.getLink(node.inputs.find((slot) => slot.name === name).link)
          return link ? [String(link.origin_id), link.origin_slot] : null
        }""",
        [node_id, name],
    )


@pytest.mark.parametrize("title", LOADERS)
def test_a_loader_of_another_pack(page, title):
    kind, ins, outs, values, rows = LOADERS[title]
    made = open_and_replace(page, loader_workflow(kind, ins, outs, values))
    assert s.text(page, made) == rows
    assert link_into(page, made, "model") == ["1", 0]
    assert link_into(page, "3", "model") == [made, 0]
    if len(ins) > 1:
        assert link_into(page, made, "clip") == ["1", 1]
        assert link_into(page, "4", "clip") == [made, 1]
    d.undo(page)
    back = page.evaluate("() => app.graph.serialize().nodes.find((node) => node.id === 2)")
    assert back["type"] == kind
    assert back["widgets_values"] == values
    assert link_into(page, "3", "model") == ["2", 0]


@pytest.mark.parametrize("title", STACKERS)
def test_a_stacker_of_another_pack(page, title):
    kind, values, rows = STACKERS[title]
    made = open_and_replace(page, stacker_workflow(kind, values))
    assert s.text(page, made) == rows
    assert link_into(page, made, "lora_stack") == ["1", 2]
    assert link_into(page, "3", "lora_stack") == [made, 2]
    d.undo(page)
    assert page.evaluate("() => app.graph.getNodeById(2)?.type") == kind
