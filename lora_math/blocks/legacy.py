"""Other texts that people bring along: ``lbw=`` of prompts, Inspire's ``%`` specs and KJNodes' dictionaries
-> rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from ..errors import StrataError
from ..numbers import is_number
from ..tags import read_tag
from .errors import BlockTextError
from .groups import AUX, KNOWN_LETTERS, MAIN
from .layout import MODEL_PREFIX, OTHER, Layout
from .selector import Selector
from .vectors import forms
from .weights import BlockWeights, Rule

_TAG_SETTINGS = ("lbw", "w", "lbwe", "dyn", "start", "stop", "step")
_LBW = re.compile(r"<lyco:|<lora:|:?\s*(?:lbw|w)\s*=", re.IGNORECASE)


def looks_like_lbw(text: str) -> bool:
    """``lbw=NAME``, ``lbw=1,0,...:x=0.5`` or a whole ``<lora:name:1:lbw=NAME>``."""
    return bool(_LBW.match(text))


def parse_lbw(text: str, read: Callable[[str, dict[str, float]], BlockWeights]) -> BlockWeights:
    """The ``lbw`` of an sd-webui tag; ``read(text, placeholders)`` reads its value. Other settings are
    errors.
    """
    body = text.strip().removeprefix(":")
    if body.lower().startswith(("<lora:", "<lyco:")):
        try:
            tag = read_tag(body)
        except StrataError as problem:
            raise BlockTextError(str(problem)) from None
        inner = tag.block_weights
        if inner is None:
            raise BlockTextError(f"{text!r} has no lbw=; write for example lbw=MIDD or lbw=1,1,1,0,....")
        weights = parse_lbw(inner, read) if looks_like_lbw(inner) else read(inner, {})
        note = "The tag's LoRA name and strengths are not used; set them on the node."
        if tag.time is not None:
            note = (
                f"{note[:-1]}. Nor is its strength over time, {tag.time}: give it to the LoRA Loader's keyframes input."
            )
        return BlockWeights(weights.rules, weights.default, (note, *weights.notes))
    value, placeholders = None, {}
    for item in (field.strip() for field in body.split(":")):
        name, separator, setting = (part.strip() for part in item.partition("="))
        if separator and name.lower() in ("lbw", "w") and value is None:
            value = setting
        elif separator and name.lower() == "x" and is_number(setting):
            placeholders["X"] = float(setting)
        elif value and not placeholders and name.lower() not in _TAG_SETTINGS:
            # It is a vector with its name, or a text encoder's.
            value += f":{item}"
        else:
            raise BlockTextError(f"{item!r} in {text!r} is not a block weight; only lbw= and x= are read here.")
    if not value or looks_like_lbw(value):
        raise BlockTextError(f"{text!r} has no lbw=; write for example lbw=MIDD or lbw=1,1,1,0,....")
    return read(value, placeholders)


def split_settings(text: str) -> tuple[str, dict[str, float]] | None:
    """Impact's ``1,A,0;A=0.5;B=0.2;`` -> (the vector or name, its placeholders); None for anything else, rules by name included.

    Raises BlockTextError for a setting that is none of A, B and X.
    """
    value, semicolon, rest = (part.strip() for part in text.partition(";"))
    if not semicolon or not value or "=" in value:
        return None
    placeholders = {}
    for item in filter(None, map(str.strip, rest.split(";"))):
        name, _, setting = (part.strip() for part in item.partition("="))
        if name.upper() not in ("A", "B", "X") or not is_number(setting):
            raise BlockTextError(f"{item[:80]!r} behind {value[:80]!r} is not read; A=, B= and X= with a number are.")
        placeholders[name.upper()] = float(setting)
    return value, placeholders


_SPEC_ITEM = re.compile(r"(default|base|in|mid|out|double|single)([0-9]{1,3})?(?:-([0-9]{1,3}))?=(.+)", re.IGNORECASE)
_SPEC_GROUPS = {"in": "IN", "mid": "M", "out": "OUT", "double": "D", "single": "S"}


def parse_percent_spec(text: str, layout: Layout) -> BlockWeights:
    """Inspire's ``%default=0,in1=1,out1-3=0.5``: 1-based places among the blocks that a standard LoRA has."""
    form = next(iter(forms(layout).values()), None)
    usual = {
        letters: [
            int(slot[len(letters) :])
            for slot in (form.slots if form else ())
            if re.fullmatch(rf"{letters}[0-9]+", slot)
        ]
        for letters in _SPEC_GROUPS.values()
    }
    if layout.counts.keys() >= {"D", "S"}:
        usual |= {letters: list(range(layout.counts[letters])) for letters in "DS"}
    default, base, rules = 1.0, None, []
    for item in (item.strip() for item in text.strip()[1:].split(",")):
        match = _SPEC_ITEM.fullmatch(item)
        if match is None or not is_number(match[4].strip()):
            raise BlockTextError(f"{item!r} is not an item of a % form, such as %default=0,in1=1,out1-3=0.5.")
        word, first, last, value = match[1].lower(), match[2], match[3], float(match[4])
        if word in ("default", "base"):
            if first or last:
                raise BlockTextError(f"{item!r}: {word} takes no number.")
            default, base = (value, base) if word == "default" else (default, value)
            continue
        letters = _SPEC_GROUPS[word]
        if not usual[letters]:
            raise BlockTextError(f"{item!r}: {layout.title} has no {word} blocks of this form. Use names: B0-9=0.5.")
        rules.append((letters, _places(item, usual[letters], first, last), value))
    found = [
        Rule(Selector("te"), default if base is None else base),
        Rule(Selector("other"), default if base is None else base),
    ]
    found += [Rule(Selector("group", letters, spans), value) for letters, spans, value in rules]
    note = f"Inspire's % form, read for a standard {layout.title} LoRA: in1 is its first input block, and so on."
    return BlockWeights(tuple(found), default, (note,))


def _places(item: str, ids: list[int], first: str | None, last: str | None) -> tuple[tuple[int, int], ...]:
    """Spans for places ``first``..``last`` (1-based) of ``ids``; all of the list without a number."""
    if first is None:
        if last is not None:
            raise BlockTextError(f"{item!r}: a range needs both ends.")
        return ()
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= len(ids):
        raise BlockTextError(f"{item!r}: places go from 1 to {len(ids)} here.")
    return tuple((number, number) for number in ids[low - 1 : high])


def parse_dictionary(text: str, layout: Layout) -> BlockWeights:
    """KJNodes' ``{"double_blocks.3.": 0.5}``: a weight by the place of a block; what is not named keeps 1."""
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise BlockTextError("This dictionary is nested too deeply; it is a flat list of blocks.") from None
    except ValueError as error:
        raise BlockTextError(f"This dictionary cannot be read: {error}.") from None
    if not isinstance(values, dict) or not values:
        raise BlockTextError('A dictionary looks like {"double_blocks.3.": 0.5}.')
    rules, notes = (
        [],
        ["A dictionary of KJNodes: numbers multiply the strength here (there they replace alpha)."],
    )
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
            raise BlockTextError(f"{key!r}: {str(value)[:40]!r} is not a number.")
        rule = _dictionary_rule(key, float(value), layout)
        if rule is None:
            notes.append(f"{key!r}: {layout.title} has no such block.")
        else:
            rules.append(rule)
    return BlockWeights(tuple(rules), 1.0, tuple(notes))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a weight")


def _dictionary_rule(key: str, value: float, layout: Layout) -> Rule | None:
    place = key.strip().removeprefix(MODEL_PREFIX).rstrip(".")
    if match := re.fullmatch(r"middle_block\.([0-9]{1,2})", place):
        if "M" in layout.counts:
            return Rule(Selector("group", "M", ((0, 0),), sub=int(match[1])), value)
        return None
    for block in (*layout.blocks, *layout.aux):
        if block.prefix[:-1] == place:
            return Rule(Selector("group", block.group, ((block.index, block.index),)), value)
    path = re.sub(r"\.(?:block)?[0-9]{1,4}$", "", place)
    if path in MAIN or path in AUX:
        return None
    if re.fullmatch(r"[A-Za-z0-9_]+", place) and (place in layout.others or not layout.others):
        return Rule(Selector("other", place.lower()), value)
    if place.upper() in KNOWN_LETTERS:
        raise BlockTextError(f"{key!r}: with names, write {place}0=0.5 instead of a dictionary.")
    raise BlockTextError(
        f"{key!r} is the place of no block; {OTHER} parts of {layout.title}: {', '.join(layout.others)}."
    )
