"""From a workflow file, as the editor saves it, to a prompt, as the server runs it.

The editor does this in the browser (its ``graphToPrompt``); this is the part of it that an example workflow needs:
links, widgets in their order, those that another's choice brings, the extra values that some widgets store, the default of one
that the node has got since. Subgraphs, muted or bypassed nodes and the editor's own virtual nodes are refused rather than
converted wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Exist only in the editor and take no part in the prompt.
NOTES = {"Note", "MarkdownNote"}
# A list whose choice decides which inputs stand below it: their names are the list's, a dot and their own.
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO}
MISSING = object()
MODE_ALWAYS = 0

Prompt = dict[str, dict[str, Any]]


class WorkflowError(Exception):
    """The workflow does not fit the server's nodes, or needs a feature that is not converted here."""


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """Convert a workflow (version 0.4) to API format.

    Args:
        workflow: the parsed JSON file.
        object_info: node id -> definition, as ``/object_info`` gives it.

    Raises:
        WorkflowError: naming the node and what is wrong with it.
    """
    for part in ("nodes", "links"):
        if not isinstance(workflow.get(part), list):
            raise WorkflowError(f"This is no workflow as the editor saves it: it has no list of {part}.")
    links: dict[Any, list[Any]] = {}
    for link in workflow["links"]:
        # [id, from node, from slot, to node, to slot, type]
        if not isinstance(link, list) or len(link) < 5:
            raise WorkflowError(f"Link {link!r} is not written as a list of where it begins and ends.")
        links[link[0]] = [str(link[1]), link[2]]
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        kind = node.get("type")
        if kind in NOTES:
            continue
        if not kind or "id" not in node:
            raise WorkflowError(f"A node has no type or no id: {str(node)[:200]}.")
        name = f"{kind} (node {node['id']})"
        if node.get("mode", MODE_ALWAYS) != MODE_ALWAYS:
            raise WorkflowError(f"{name} is muted or bypassed, which is not converted here.")
        if kind not in object_info:
            raise WorkflowError(f"The server has no node {name}.")
        inputs = _widget_values(node, object_info[kind], name)
        for socket in node.get("inputs", ()):
            if (link := socket.get("link")) is None:
                continue
            if link not in links:
                raise WorkflowError(
                    f"{name}: its input {socket['name']} takes link {link}, which is not in the workflow."
                )
            inputs[socket["name"]] = links[link]
        prompt[str(node["id"])] = {
            "class_type": kind,
            "inputs": inputs,
            "_meta": {"title": node.get("title") or object_info[kind].get("display_name") or kind},
        }
    return prompt


def nodes_of(prompt: Prompt, class_type: str) -> list[str]:
    """The ids of all nodes of a class, in the order of the file."""
    return [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]


def _widget_values(node: Mapping[str, Any], definition: Mapping[str, Any], name: str) -> dict[str, Any]:
    saved = node.get("widgets_values", [])
    declared = {socket["name"] for socket in node.get("inputs", ()) if "widget" in socket}
    if isinstance(saved, Mapping):
        return dict(_values(definition["input"], declared, lambda widget, _: saved.get(widget, MISSING)))
    position = 0

    def take(widget: str, extra: int) -> Any:
        nonlocal position
        at, position = position, position + 1 + extra
        return saved[at] if at < len(saved) else MISSING

    values = dict(_values(definition["input"], declared, take, unsaved=True))
    if len(saved) > position:
        raise WorkflowError(f"{name} stores {len(saved)} widget values; the node here has {position}.")
    for widget, value in values.items():
        if value is MISSING:
            raise WorkflowError(f"{name} stores no value of {widget}, and the server names no default.")
    return values


def _values(
    inputs: Mapping[str, Any],
    declared: set[str],
    take: Callable[[str, int], Any],
    within: str = "",
    unsaved: bool = False,
) -> Iterator[tuple[str, Any]]:
    """(input name, value) for every input that has a widget, in order.

    Args:
        inputs: those of a node, or those that one choice of a dynamic combo brings, as ``/object_info`` gives them.
        declared: names of inputs of which the file says that they are widgets.
        take: gives the next value that was saved, or MISSING. Called with the input's name and how many extra values are stored
            after its own.
        within: the name of that dynamic combo, with a dot.
        unsaved: a widget of which nothing was saved comes too, with its default, or with MISSING where it has none.
    """
    for group in ("required", "optional"):
        for short, (kind, *rest) in inputs.get(group, {}).items():
            options, name = rest[0] if rest else {}, f"{within}{short}"
            is_widget = isinstance(kind, list) or kind in WIDGET_TYPES or name in declared
            if not is_widget or options.get("forceInput"):
                continue
            # "fixed / increment / ..." below a seed, also where only its name says that it is one.
            control = options.get("control_after_generate") or (
                kind == "INT" and name in ("seed", "noise_seed") and "control_after_generate" not in options
            )
            upload = any(options.get(f"{media}_upload") for media in ("image", "video", "audio"))
            value = take(name, bool(control) + upload)
            if value is MISSING and unsaved:
                value = _default(kind, options)
            if value is not MISSING or unsaved:
                yield name, value
            if kind == DYNAMIC_COMBO:
                for option in options["options"]:
                    if option["key"] == value:
                        yield from _values(option["inputs"], declared, take, f"{name}.", unsaved)


def _default(kind: str | list[Any], options: Mapping[str, Any]) -> Any:
    """What the editor gives a widget of which nothing was saved, such as one that a node has got since."""
    if "default" in options:
        return options["default"]
    if kind == DYNAMIC_COMBO:
        return options["options"][0]["key"]
    choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    if choices:
        return choices[0]
    return {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}.get(str(kind), MISSING)
