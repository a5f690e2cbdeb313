"""Whether the files that a node used have changed since, where it knows them only when it runs: its text or its stack comes over a link.

ComfyUI asks for a fingerprint before a run, and gives no linked values then. So each run leaves word of the files that it used, and the
fingerprint becomes another one as soon as one of them is another file, or a preset that they name has other weights.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..lora_math.errors import StrataError
from .comfy.lora_names import path_of
from .fitting.block_spec import BlockSpec
from .stack import StackEntry

# A sweep uses as many files as it has cells, and those of its stack.
MAX_NODES, MAX_FILES = 256, 2000

Used = tuple[str, BlockSpec | None]


@dataclass(eq=False)
class _Seen:
    """Of one node: what it used and how that was, and the fingerprint, which says nothing of its own."""

    files: OrderedDict[Used, str] = field(default_factory=OrderedDict)
    fingerprint: str = ""


_lock = threading.Lock()
_nodes: OrderedDict[tuple[str, str], _Seen] = OrderedDict()


def remember(node, entries: Iterable[StackEntry]) -> None:
    """Called with what a run used. node: the node's class as ComfyUI runs it, with its hidden inputs."""
    key = _key(node)
    if key is None:
        return
    states = {(entry[0], entry.block_weights): state(*_used(entry)) for entry in entries}
    with _lock:
        seen = _nodes.setdefault(key, _Seen())
        _nodes.move_to_end(key)
        for used, found in states.items():
            seen.files[used] = found
            seen.files.move_to_end(used)
        while len(seen.files) > MAX_FILES:
            seen.files.popitem(last=False)
        while len(_nodes) > MAX_NODES:
            _nodes.popitem(last=False)


def ask_again(node) -> None:
    """The next fingerprint is another one: what a run could not do is tried again."""
    key = _key(node)
    if key is not None:
        with _lock:
            seen = _nodes.setdefault(key, _Seen())
            seen.fingerprint = f"{seen.fingerprint}!"[-200:] if not seen.fingerprint.endswith("!" * 150) else ""


def fingerprint(node, lora_name=None) -> str:
    """Stays as it is from run to run until something that the node used before, or the file that its own input names, has changed."""
    own = state(lora_name, None) if isinstance(lora_name, str) else ""
    return own + _fingerprint(node)


def _fingerprint(node) -> str:
    with _lock:
        seen = _nodes.get(_key(node))
        before = dict(seen.files) if seen is not None else {}
    now = {used: state(*used) for used in before}
    if now == before:
        return seen.fingerprint if seen is not None else ""
    with _lock:
        seen.files.update(now)
        seen.fingerprint = repr(sorted(now.values()))
        return seen.fingerprint


def state(name: str, block_weights: BlockSpec | None) -> str:
    """How a file and its block weights are now; changes when the file is replaced or a preset by name is."""
    # What reads files is loaded with the first of them, and not with every start of ComfyUI.
    from .comfy.library import file_key

    try:
        file = repr(file_key(path_of(name, suggest=False)))
    except StrataError:
        file = ""
    return f"{file} {'' if block_weights is None else block_weights.presets_named()}".strip()


def _used(entry: StackEntry) -> Used:
    return entry[0], entry.block_weights


def _key(node) -> tuple[str, str] | None:
    found = getattr(getattr(node, "hidden", None), "unique_id", None)
    return None if found is None else (node.__name__, str(found))
