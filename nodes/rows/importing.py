"""Rows from what other programs and packs write: prompts with tags, nodes of a workflow, inputs of an API prompt.

Only what each format documents is read. Off states and both strengths survive; what is no strength stays in its row as it is, which the
stack then marks as not understood. Nothing here looks at a file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping

from ...lora_math.errors import StrataError
from ...lora_math.numbers import finite
from ...lora_math.rows_text import Row, lora_row, read_rows
from ...lora_math.tag_places import find_tags, has_tags
from ...lora_math.tags import MAX_STRENGTH, LoraTag, format_tag
from ..loader import NO_LORA

MAX_TEXT = 1_000_000
_NEGATIVE = "Negative prompt:"
# A heading behind which no group goes on.
_END_OF_GROUP = "#"
# The most letters of what is no strength.
_SHOWN = 40
_DEPTH = 12
_DIGITS = r"([0-9]{1,4})"
_NUMBERED = re.compile(rf"(?:lora_{_DIGITS}|loras\.{_DIGITS}\.lora_name|lora_name_{_DIGITS}|lora_{_DIGITS}_name)")
# A row's fields by the number n in their names: (name, model, clip, on), the first that is there counts.
_FIELDS = (
    # ComfyUI's Load LoRA with rows.
    ("loras.{n}.lora_name", ("loras.{n}.strength",), (), "loras.{n}.enabled"),
    (
        "lora_name_{n}",
        ("model_str_{n}", "model_weight_{n}", "lora_wt_{n}"),
        ("clip_str_{n}", "clip_weight_{n}"),
        "switch_{n}",
    ),
    # Easy-Use.
    ("lora_{n}_name", ("lora_{n}_model_strength", "lora_{n}_strength"), ("lora_{n}_clip_strength",), ""),
)
# Efficiency and Easy-Use have one strength for both.
_SIMPLE = {"input_mode": "simple", "mode": "simple"}


def imported(text: str) -> str:
    """The rows of a pasted text. Raises StrataError where there is no LoRA in it."""
    if len(text) > MAX_TEXT:
        raise StrataError(f"This text is longer than {MAX_TEXT} letters.")
    if text.lstrip()[:1] in ("{", "["):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        if data is not None:
            rows = [row.line for row in _rows(data, 0)]
            # Behind the last row there is nothing to be kept out of its group.
            while rows and rows[-1] == _END_OF_GROUP:
                rows.pop()
            if not rows:
                raise StrataError(
                    "There are no LoRAs in this that are known: paste rows, a prompt with <lora:...> tags, or a node."
                )
            return "\n".join(rows)
    text = text.strip("\n")
    rows = read_rows(text)
    if not any(row.tags or _is_nearly_a_tag(row) for row in rows):
        # Says which tag is wrong, where one is.
        find_tags(text)
        raise StrataError("There is no LoRA in this text: paste rows, or a prompt with <lora:name:strength> tags.")
    return "\n".join(_of_prompt(rows)) if _is_prompt(rows) else text


def _is_prompt(rows: Iterable[Row]) -> bool:
    """Whether it is a prompt whose words are to go: a picture's parameters as A1111 writes them, or lines with words of which none is a
    line that only a stack has."""
    if any(row.line.startswith((_NEGATIVE, "Steps: ")) for row in rows):
        return True
    if any(row.kind in ("heading", "note", "version") or not row.on or row.locked or row.pick for row in rows):
        return False
    return any(row.kind in ("prompt", "unread") for row in rows)


def _is_nearly_a_tag(row: Row) -> bool:
    return row.kind == "unread" and has_tags(row.line)


def _of_prompt(rows: Iterable[Row]) -> list[str]:
    """The tags of a prompt as rows, and the lines whose tags are not understood. In a picture's parameters as A1111 writes them the
    negative prompt's tags follow, which A1111 does not apply: they are off."""
    found, negative, group_on = [], False, True
    for row in rows:
        negative = negative or row.line.startswith(_NEGATIVE)
        group_on = row.on if row.kind == "heading" else group_on
        found += [
            lora_row(
                tag,
                row.on and group_on and not negative,
                row.locked,
                row.pick,
                row.note or ("negative prompt" if negative else ""),
            )
            for tag in row.tags
        ]
        found += [_switched_off(row) if negative else row] if _is_nearly_a_tag(row) else []
    return [row.line for row in found]


def _switched_off(row: Row) -> Row:
    """A row that does nothing; a heading stays, as its rows are off themselves."""
    if not row.on or row.kind not in ("lora", "prompt", "unread"):
        return row
    return Row(f"off {row.line.lstrip()}", row.kind, False, row.locked, row.pick, row.tags, note=row.note)


def _of_stack(text: str) -> Iterator[Row]:
    """The rows of a LoRA Stack among others."""
    rows = [row for row in read_rows(text) if row.kind not in ("version", "blank")]
    yield from rows
    if any(row.kind == "heading" for row in rows):
        # What comes behind it is not of its last group.
        yield Row(_END_OF_GROUP, "heading")


def _rows(data, depth: int) -> Iterator:
    """From any of the formats, wherever in a document they are."""
    if depth > _DEPTH:
        return
    if isinstance(data, list):
        if (row := _triple(data)) is not None:
            yield row
            return
        for item in data:
            yield from _rows(item, depth + 1)
    elif isinstance(data, dict):
        if (row := _object(data)) is not None:
            yield row
        elif "widgets_values" in data:
            yield from _node(data)
        elif any(_NUMBERED.fullmatch(key) for key in data):
            yield from _inputs(data)
        elif isinstance(data.get("lora_name"), str):
            yield from _one(
                data.get("lora_name"), data.get("strength_model", data.get("strength")), data.get("strength_clip")
            )
        elif isinstance(data.get("rows"), str):
            yield from _of_stack(data["rows"])
        else:
            for value in data.values():
                if isinstance(value, (dict, list)):
                    yield from _rows(value, depth + 1)


def _object(data: Mapping):
    """A row of rgthree ({"on", "lora", "strength", "strengthTwo"}) or Lora Manager ({"name", "strength", "active", "clipStrength"})."""
    if "lora" in data and "on" in data:
        return next(_one(data["lora"], data.get("strength"), data.get("strengthTwo"), data["on"] is not False), None)
    if isinstance(data.get("name"), str) and "strength" in data and "active" in data:
        return next(_one(data["name"], data["strength"], data.get("clipStrength"), data["active"] is not False), None)
    return None


def _triple(data: list):
    """(name, model, clip) of a LORA_STACK."""
    if len(data) == 3 and isinstance(data[0], str) and all(_is_number(n) for n in data[1:]):
        return next(_one(*data), None)
    return None


def _node(node: Mapping) -> Iterator[Row]:
    """A node of a workflow. One that is muted or bypassed has rows that are off."""
    rows = _values(node["widgets_values"], str(node.get("type")))
    yield from map(_switched_off, rows) if node.get("mode") in (2, 4) else rows


def _values(values, kind: str) -> Iterator[Row]:
    """A node's values, which stand in order. rgthree's and Lora Manager's are objects, wherever they stand."""
    if isinstance(values, dict):
        yield from _rows(values, 1)
    elif isinstance(values, list):
        names = _POSITIONS.get(kind)
        if names is not None:
            yield from _inputs(dict(zip(names, values, strict=False)))
        elif kind == "StrataLoraStack" and values and isinstance(values[0], str):
            yield from _of_stack(values[0])
        elif kind in _COUNTED:
            yield from _counted(values)
        elif kind in _SINGLE and values:
            # A loader of the model alone leaves the text encoders.
            yield from _one(*[*values[: _SINGLE[kind]], 0, 0][:3])
        else:
            for value in values:
                if isinstance(value, dict) and (row := _object(value)) is not None:
                    yield row
                elif isinstance(value, list):
                    yield from (
                        found for item in value if isinstance(item, dict) and (found := _object(item)) is not None
                    )


def _counted(values: list) -> Iterator[Row]:
    """ComfyUI's own rows as a workflow has them: their number, then (name, strength, enabled) of each."""
    for at, count in enumerate(values):
        fields = values[at + 1 : at + 1 + 3 * count] if type(count) is int and 0 < count <= MAX_COUNTED else []
        names, strengths, enabled = fields[::3], fields[1::3], fields[2::3]
        if fields and len(fields) == 3 * count and all(isinstance(name, str) for name in names):
            for name, strength, switch in zip(names, strengths, enabled, strict=True):
                yield from _one(name, strength, on=switch is not False)
            return


# How many rows an answer may have; ComfyUI has 20.
MAX_COUNTED = 100
_COUNTED = ("LoadLoraModel", "LoadLoraTextEncoder")
_SINGLE = {"LoraLoader": 3, "LoraLoaderModelOnly": 2, "LoraLoaderBypass": 3, "StrataLoraLoader": 3}
_POSITIONS = {
    "LoRA Stacker": ["input_mode", "lora_count"]
    + [f"{name}_{n}" for n in range(1, 51) for name in ("lora_name", "lora_wt", "model_str", "clip_str")],
    "CR LoRA Stack": [
        f"{name}_{n}" for n in range(1, 4) for name in ("switch", "lora_name", "model_weight", "clip_weight")
    ],
    "easy loraStack": ["toggle", "mode", "num_loras"]
    + [f"lora_{n}_{name}" for n in range(1, 11) for name in ("name", "strength", "model_strength", "clip_strength")],
}


def _inputs(data: Mapping) -> Iterator:
    """Numbered inputs of an API prompt or of a node's widgets."""
    numbers = {int(next(filter(None, match.groups()))) for key in data if (match := _NUMBERED.fullmatch(key))}
    shown = next((_number(data[key]) for key in ("lora_count", "num_loras") if key in data), None)
    simple = any(data.get(key) == value for key, value in _SIMPLE.items())
    for n in sorted(numbers):
        if isinstance(row := data.get(f"lora_{n}"), dict):
            if (found := _object(row)) is not None:
                yield found
            continue
        if shown is not None and n > shown:
            continue
        for name, models, clips, switch in _FIELDS:
            key = name.format(n=n)
            if key not in data:
                continue
            one = "lora_wt_{n}" if "lora_name" in name else "lora_{n}_strength"
            models, clips = ((one,), ()) if simple and one.format(n=n) in data else (models, clips)
            model, clip = (_first(data, keys, n) for keys in (models, clips))
            on = (
                data.get(switch.format(n=n), True) not in (False, "Off", "off")
                and data.get("toggle", True) is not False
            )
            yield from _one(data[key], model, clip, on)


def _first(data: Mapping, keys: Iterable[str], n: int):
    return next((data[key.format(n=n)] for key in keys if key.format(n=n) in data), None)


def _one(name, model=None, clip=None, on: bool = True) -> Iterator[Row]:
    """A row of a LoRA that is chosen. Strengths of which nothing is known, such as links, are 1."""
    if not isinstance(name, str) or name in ("", "None", NO_LORA):
        return
    model = model if _is_number(model) else 1.0
    clip = clip if _is_number(clip) else model
    if all(abs(_number(each)) <= MAX_STRENGTH for each in (model, clip)):
        yield lora_row(LoraTag(name, _number(model), _number(clip)), on)
    else:
        # As it was written: the rows say that these are no strengths.
        head = format_tag(LoraTag(name, 1.0, 1.0)).removesuffix(":1>")
        numbers = ":".join(dict.fromkeys(str(each).strip()[:_SHOWN] for each in (model, clip)))
        yield Row(f"{'' if on else 'off '}{head}:{numbers}>", "unread", on)


def _is_number(value) -> bool:
    """Whether it is meant as one, however large."""
    return finite(value) is not None or isinstance(value, float) or (type(value) is int) or _is_beyond(value)


def _is_beyond(value) -> bool:
    """Whether a text is a number that is none: "1e999", "inf"."""
    try:
        return isinstance(value, str) and not math.isfinite(float(value))
    except ValueError:
        return False


def _number(value) -> float:
    """Infinite for what is meant as a number and is none."""
    number = finite(value)
    return math.inf if number is None else number
