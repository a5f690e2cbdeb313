"""What makes a picture another, as one hash: two cells of the same hash are the same picture, in whatever sweep they stand.

MODEL, CLIP and VAE are objects without a name. What they are is told by the nodes that made them: their classes, their settings, and the
files that these name, with size and time of change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...lora_math.schedule import Variation
from ..fitting.block_spec import BlockSpec
from ..stack import StackEntry
from .plan import Settings

# It changes when cells are drawn otherwise than before.
VERSION = 1
# The most nodes before a sweep that are looked at; no graph has so many.
MAX_NODES = 10_000
# The most texts in one setting.
MAX_TEXTS = 1000


def digest(*parts) -> str:
    """Of texts, numbers, None, and lists of these."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tensor_digest(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    plain = tensor.detach().cpu().contiguous()
    numbers = plain.view(torch.uint8) if plain.dim() else plain.reshape(1).view(torch.uint8)
    found = hashlib.sha256(repr((tuple(plain.shape), str(plain.dtype))).encode())
    found.update(numbers.numpy().tobytes())
    return found.hexdigest()


def upstream(
    prompt, node: str | None, inputs: Sequence[str], stamp: Callable[[str], object], many: Callable[[str], bool]
) -> str | None:
    """A hash of what is connected to these inputs of a node: all nodes before it with their settings, whatever their numbers are.

    prompt: ComfyUI's prompt (id -> {"class_type", "inputs"}). stamp: what a text of a setting says of files by that name, None for none.
    many: whether a class of nodes gives lists, for each of whose items ComfyUI runs the nodes behind it, with the same prompt.
    None where the prompt does not tell.
    """
    if not isinstance(prompt, Mapping) or node not in prompt:
        return None
    links = [(name, _link(_inputs(prompt, node).get(name), prompt)) for name in inputs]
    known: dict[str, str] = {}
    stack = [(link[0], False) for _, link in links if link]
    open_nodes: set[str] = set()
    while stack:
        at, ready = stack.pop()
        if at in known:
            continue
        if many(str(prompt[at].get("class_type") if isinstance(prompt[at], Mapping) else "")):
            return None
        before = [link[0] for value in _inputs(prompt, at).values() if (link := _link(value, prompt))]
        if ready:
            known[at] = _node_digest(prompt, at, known, stamp)
            open_nodes.discard(at)
            continue
        # A circle is no prompt that runs.
        if at in open_nodes or len(known) + len(open_nodes) > MAX_NODES:
            return None
        open_nodes.add(at)
        stack.append((at, True))
        stack += [(other, False) for other in before if other not in known]
    return digest([[name, [known[link[0]], link[1]] if link else None] for name, link in links])


def _inputs(prompt: Mapping, node: str) -> Mapping:
    found = prompt[node].get("inputs") if isinstance(prompt[node], Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _link(value, prompt: Mapping) -> tuple[str, int] | None:
    """(node, output) where a setting is a link."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str) and value[0] in prompt:
        return (value[0], value[1]) if isinstance(value[1], int) else None
    return None


def _node_digest(prompt: Mapping, node: str, known: Mapping[str, str], stamp: Callable[[str], object]) -> str:
    told = []
    for name, value in sorted(_inputs(prompt, node).items()):
        link = _link(value, prompt)
        shown = [known[link[0]], link[1]] if link else json.dumps(value, sort_keys=True, default=repr)
        told.append([name, shown, [repr(stamp(text)) for text in _texts(value)]])
    return digest(str(prompt[node].get("class_type")), told)


def _texts(value) -> list[str]:
    """All texts in a setting, whose own form may be any."""
    found, stack = [], [value]
    while stack and len(found) < MAX_TEXTS:
        at = stack.pop()
        if isinstance(at, str):
            found.append(at)
        elif isinstance(at, (list, tuple)):
            stack += reversed(at)
        elif isinstance(at, Mapping):
            stack += [each for _, each in sorted(at.items(), key=lambda item: str(item[0]), reverse=True)]
    return found


def row_identity(row: StackEntry, file: object, blocks: str, variation: Variation) -> list:
    """One LoRA. file: what its contents are known by; blocks: its block weights as the model reads them; variation: its strength over
    time and prompts."""
    over_time = [_time(variation.time), variation.positive, variation.negative]
    found = [repr(file), row[1], row[2], blocks, over_time, tensor_digest(getattr(row.mask, "pictures", row.mask))]
    return [*found, "on text"] if getattr(row.mask, "on_text", False) else found


def _time(time) -> str | None:
    """ComfyUI's keyframes by their numbers: what such an object is called differs from start to start."""
    frames = getattr(time, "keyframes", None)
    if frames is None:
        return None if time is None else str(time)
    return repr([(frame.strength, frame.start_percent, getattr(frame, "guarantee_steps", None)) for frame in frames])


def blocks_text(spec: BlockSpec | None, layout) -> str:
    """Block weights by names, as the model reads them."""
    if spec is None:
        return ""
    return str(spec.read(layout)) if layout is not None else spec.canonical()


def cell_hash(settings: Settings, rows: Sequence[list], around: Mapping[str, object]) -> str:
    """rows: of ``row_identity``. around: all that is the same for every cell of the sweep."""
    asked = [settings.positive, settings.negative, settings.seed, settings.steps, settings.cfg]
    return digest(VERSION, rows, asked, dict(around))
