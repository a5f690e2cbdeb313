"""The blocks of a loaded model, from its weight names: keys in, layout out.

A block's name is absolute (``IN04`` is ``input_blocks.4`` whatever a LoRA contains), so a weight never
shifts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from . import groups, parts

MODEL_PREFIX = "diffusion_model."
OTHER = "OTHER"
TE = "TE"
# Text encoders as ComfyUI 0.30 names them: a key of one is recognised even where the layout has no text
# encoders.
ENCODERS = re.compile(
    r"clip_[lgh]|(?:u?mt5|t5|pile_t5|t5gemma|byt5)\w*|llama\w*|qwen[0-9]\w*|gemma[0-9]\w*|mini?stral[0-9]\w*"
    r"|gpt_oss|hydit_clip|mt5\w*|jina_clip_2|hidream_o1|sam3_clip|cond_stage_model"
)


@dataclass(frozen=True)
class Block:
    """One row of a layout. ``prefix`` is where its weights live, without ``diffusion_model.``."""

    name: str
    group: str
    index: int
    prefix: str


class Location(NamedTuple):
    """Where one weight is: in exactly one block (or ``OTHER``, or ``TE:<encoder>.other``)."""

    block: str
    group: str
    index: int | None
    component: str | None = None
    stream: str | None = None
    sub: int | None = None
    """Part of a block that has numbered parts: M00.1, or the n-th transformer of an SDXL block."""


@dataclass(frozen=True)
class Layout:
    """``blocks``: the main numbering in execution order. ``aux``: refiners, injectors ... ``others``: first
    words of the weights in no block. ``text_encoders``: their layers; ``encoders``: their names.
    """

    blocks: tuple[Block, ...]
    aux: tuple[Block, ...] = ()
    text_encoders: tuple[Block, ...] = ()
    encoders: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    family: str | None = None
    tags: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Components and streams that the model's blocks have; empty if not known (no weights seen)."""
    places: frozenset[Location] = field(default=frozenset(), compare=False, repr=False)
    """Every place that a weight of the model, or of its text encoders, was seen in; empty if none were."""
    styles: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def title(self) -> str:
        """The model's name for messages."""
        return self.family or "this model"

    @cached_property
    def counts(self) -> dict[str, int]:
        """Letters -> one more than the highest index, main lists first."""
        counts: dict[str, int] = {}
        for block in (*self.blocks, *self.aux):
            counts[block.group] = max(counts.get(block.group, 0), block.index + 1)
        return counts

    @cached_property
    def encoder_layers(self) -> dict[str, int]:
        """Encoder -> number of its layers."""
        counts = dict.fromkeys(self.encoders, 0)
        for block in self.text_encoders:
            counts[block.group[3:]] += 1
        return counts

    @cached_property
    def _by_place(self) -> dict[tuple[str, int], Block]:
        return {(_list_path(block), block.index): block for block in (*self.blocks, *self.aux)}

    @cached_property
    def flat_places(self) -> dict[tuple[str, int], str]:
        """(list with underscores for dots, index) -> the block's name."""
        return {(path.replace(".", "_"), index): block.name for (path, index), block in self._by_place.items()}

    @cached_property
    def flat_lists(self) -> tuple[str, ...]:
        """The lists in ``flat_places``, the longest name first."""
        return tuple(sorted({path for path, _ in self.flat_places}, key=len, reverse=True))

    @cached_property
    def _model_rule(self) -> re.Pattern[str] | None:
        paths = sorted({path for path, _ in self._by_place}, key=len, reverse=True)
        if not paths:
            return None
        return re.compile(rf"(?P<path>{'|'.join(map(re.escape, paths))})\.(?:block)?(?P<index>[0-9]+)\.(?P<rest>.+)")

    @cached_property
    def _encoder_rule(self) -> dict[str, re.Pattern[str]]:
        paths = {block.group[3:]: block.prefix.rsplit(".", 2)[0] for block in self.text_encoders}
        return {encoder: re.compile(rf"{re.escape(path)}\.([0-9]+)\.(.+)") for encoder, path in paths.items()}

    @cached_property
    def _places(self) -> dict[str, Location]:
        return {}

    def locate(self, key: str) -> Location:
        """The place of a weight, by its full key: ``diffusion_model....weight`` or
        ``clip_l.transformer....weight``. Found once for each key.
        """
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._locate(key)
        return place

    def _locate(self, key: str) -> Location:
        if not key.startswith(MODEL_PREFIX):
            encoder = key.split(".", 1)[0]
            if encoder in self.encoders or ENCODERS.fullmatch(encoder):
                return self._locate_in_encoder(encoder, key)
        return self._locate_in_model(key.removeprefix(MODEL_PREFIX))

    def _locate_in_encoder(self, encoder: str, key: str) -> Location:
        group = f"{TE}:{encoder}"
        rule = self._encoder_rule.get(encoder)
        match = rule.match(key) if rule else None
        if match is None:
            return Location(f"{group}.other", group, None)
        index = int(match[1])
        return Location(f"{group}.{index}", group, index, parts.classify(group, match[2], "")[0])

    def _locate_in_model(self, name: str) -> Location:
        match = self._model_rule.match(name) if self._model_rule else None
        block = None
        if match:
            path, index, rest = match["path"], int(match["index"]), match["rest"]
            block = self._by_place.get((path, 0 if path == "middle_block" else index))
        if block is None:
            return Location(f"{OTHER}:{name.split('.', 1)[0]}", OTHER, None)
        component, stream = parts.classify(path, rest, self.styles.get(path, ""))
        sub = index if path == "middle_block" else _sub_index(path, rest)
        return Location(block.name, block.group, block.index, component, stream, sub)


_SUB = {
    "input_blocks": re.compile(r"[0-9]+\.transformer_blocks\.([0-9]+)\."),
    "output_blocks": re.compile(r"[0-9]+\.transformer_blocks\.([0-9]+)\."),
    "blocks": re.compile(r"blocks\.([0-9]+)\.block\.|blocks\.([0-9]+)\.adaLN"),
}


def _sub_index(path: str, rest: str) -> int | None:
    match = _SUB[path].match(rest) if path in _SUB else None
    return int(match[1] or match[2]) if match and match.lastindex else None


def _list_path(block: Block) -> str:
    """``double_blocks`` for the prefix ``double_blocks.3.`` (``middle_block`` is one block of one list)."""
    return block.prefix[:-1] if block.group == "M" else block.prefix[:-1].rsplit(".", 1)[0]


def main_name(letters: str, index: int) -> str:
    return f"{letters}{index:02d}"


def make_blocks(path: str, letters: str, indices: Iterable[int], aux: bool, word: str = "") -> Iterator[Block]:
    """The blocks of one list. Main names have two digits, as in sd-webui; ``M00`` is the whole middle."""
    if path == "middle_block":
        yield Block("M00", letters, 0, "middle_block.")
        return
    for index in sorted(indices):
        name = f"{letters}{index}" if aux else main_name(letters, index)
        yield Block(name, letters, index, f"{path}.{word}{index}.")


def layout_of(model_keys: Iterable[str], clip_keys: Iterable[str] = (), family: str | None = None) -> Layout:
    """The layout of a model from its ``state_dict`` keys, in any order, with ``diffusion_model.`` or not."""
    keys, clip_keys = list(model_keys), list(clip_keys)
    prefixed = [key[len(MODEL_PREFIX) :] for key in keys if key.startswith(MODEL_PREFIX)]
    names = prefixed or keys
    lists = groups.find_lists(names)
    main, aux = groups.split_main(lists)
    letters = groups.letters([*main, *aux])
    # Cosmos 1 has a word in front of the number.
    word = "block" if any(name.startswith("blocks.block") for name in names) else ""
    encoders, text_blocks = encoder_blocks(clip_keys)
    layout = Layout(
        tuple(b for path in main for b in make_blocks(path, letters[path], lists[path], False, word)),
        tuple(b for path in aux for b in make_blocks(path, letters[path], lists[path], True)),
        text_blocks,
        encoders,
        family=family,
        styles={path: parts.stream_style(rests) for path, rests in _rests(names, lists).items()},
    )
    places = [layout._locate_in_model(name) for name in names]
    others = {place.block[len(OTHER) + 1 :]: None for place in places if place.group == OTHER}
    tags = {tag for place in places for tag in (place.component, place.stream) if tag}
    tags |= {"cross"} if tags & {"a2v", "v2a"} else set()
    places += [layout.locate(key) for key in clip_keys]
    return replace(layout, others=tuple(others), tags=frozenset(tags), places=frozenset(places))


def _rests(names: list[str], lists: dict[str, set[int]]) -> dict[str, list[str]]:
    rests: dict[str, list[str]] = {path: [] for path in lists}
    for name in names:
        for match in re.finditer(r"\.(?:block)?[0-9]+\.", name):
            if name[: match.start()] in rests:
                rests[name[: match.start()]].append(name[match.end() :])
                break
    return rests


def encoder_blocks(clip_keys: Iterable[str]) -> tuple[tuple[str, ...], tuple[Block, ...]]:
    """(encoder names, their layers). Each encoder's longest list is its layers: a vision tower is in
    ``.other``.
    """
    by_encoder: dict[str, list[str]] = {}
    for key in clip_keys:
        encoder, _, rest = key.partition(".")
        if rest:
            by_encoder.setdefault(encoder, []).append(rest)
    blocks: list[Block] = []
    for encoder, rests in by_encoder.items():
        lists = {path: found for path, found in groups.find_lists(rests).items() if "visual" not in path}
        if lists:
            path = max(lists, key=lambda path: len(lists[path]))
            blocks += te_blocks(encoder, path, lists[path])
    return tuple(by_encoder), tuple(blocks)


def te_blocks(encoder: str, path: str, indices: Iterable[int]) -> Iterator[Block]:
    group = f"{TE}:{encoder}"
    for index in sorted(indices):
        yield Block(f"{group}.{index}", group, index, f"{encoder}.{path}.{index}.")
