"""Number vectors of sd-webui-lora-block-weight, ComfyUI-Inspire-Pack, kohya and plain lists -> rules with
absolute names.

A vector says nothing of which model it is for, so its length must be one that the model's family has; what a
form does not list (the blocks that a standard LoRA lacks) is written out as 0, as sd-webui has it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from .. import families
from ..numbers import is_number
from .errors import BlockTextError
from .layout import Layout
from .selector import Selector
from .weights import BlockWeights, Rule

_PLACEHOLDER = re.compile(r"[RrUuAaBb]|[Xx](?:\s*[+-]\s*(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))?")
# What Inspire's widgets hold as they come; lower case is half of it.
PLACEHOLDERS = {"A": 4.0, "B": 1.0}
WEBUI, INSPIRE = "sd-webui", "Inspire"


@dataclass(frozen=True)
class Form:
    """One vector form. ``slots``: what each entry means, in order. Entries may mean several things, or all
    the rest.
    """

    title: str
    dialect: str
    slots: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slots)


def _ids(letters: str, ids: str | range) -> list[str]:
    return [f"{letters}{number}" for number in (ids.split() if isinstance(ids, str) else ids)]


_MIDDLE = _ids("M0.", range(3))
_SD = (
    Form("LoRA", WEBUI, ("BASE", *_ids("IN", "1 2 4 5 7 8"), "M0", *_ids("OUT", range(3, 12)))),
    Form("LyCORIS of sd-webui", WEBUI, ("BASE", *_ids("IN", range(12)), "M0", *_ids("OUT", range(12)))),
    Form(
        "LyCORIS of Inspire",
        INSPIRE,
        ("BASE+OTHER", *_ids("IN", range(1, 12)), *_MIDDLE, *_ids("OUT", range(12))),
    ),
)
_SDXL = (
    Form("LoRA", WEBUI, ("BASE", *_ids("IN", "4 5 7 8"), "M0", *_ids("OUT", range(6)))),
    Form("LyCORIS of sd-webui", WEBUI, ("BASE", *_ids("IN", range(9)), "M0", *_ids("OUT", range(9)))),
    Form(
        "LyCORIS of Inspire",
        INSPIRE,
        ("BASE+OTHER", *_ids("IN", range(1, 9)), *_MIDDLE, *_ids("OUT", range(9))),
    ),
)
_D19, _S38 = _ids("D", range(19)), _ids("S", range(38))
_FLUX = (
    Form("double blocks alone", WEBUI, tuple(_D19)),
    Form("double blocks of Inspire", INSPIRE, ("BASE+OTHER", *_D19)),
    Form("all blocks of Inspire", INSPIRE, ("BASE+OTHER", *_D19, *_S38)),
    Form("all of sd-webui", WEBUI, ("CLIP", "T5", "OTHER:*_in", *_D19, *_S38, "OTHER:final_layer")),
)


def forms(layout: Layout) -> dict[int, Form]:
    """The forms that a model takes, by length. The public forms of its family first, then one entry per
    block.
    """
    found: dict[int, Form] = {}
    for form in _public_forms(layout):
        found.setdefault(len(form), form)
    blocks = [f"{block.group}{block.index}" for block in layout.blocks]
    if blocks:
        for form in (
            Form("every block", WEBUI, tuple(blocks)),
            Form("BASE and every block", WEBUI, ("BASE", *blocks)),
            Form("BASE, every block, OTHER", WEBUI, ("BASE", *blocks, "OTHER")),
        ):
            if len(form) == len(blocks) or len(form) not in _UNMISTAKABLE:
                found.setdefault(len(form), form)
    return found


def _public_forms(layout: Layout) -> tuple[Form, ...]:
    counts = {block.group: layout.counts[block.group] for block in layout.blocks}
    if counts == {"IN": 12, "M": 1, "OUT": 12}:
        # The refiner's attention sits elsewhere.
        return _SD[1:] if layout.family == families.REFINER else _SD
    if counts == {"IN": 9, "M": 1, "OUT": 9}:
        return _SDXL
    return _FLUX if counts == {"D": 19, "S": 38} else ()


# Public lengths of families that people mix up: other models take them only as a plain list of their blocks. But for those that a model
# of 18 or 60 blocks has with BASE.
_UNMISTAKABLE = {length for row in families.TABLE for length in row.vectors} - {19, 61}


def _elsewhere() -> dict[int, str]:
    """Length -> the families that it is a public vector of, for the message about a vector that is another family's."""
    known: dict[int, list[str]] = {}
    listed: list[set[int]] = []
    for row in families.TABLE:
        lengths = set(row.vectors)
        # SD2 has those of SD1.5, which are enough to name once.
        if not any(lengths <= others for others in listed):
            listed.append(lengths)
            for length in row.vectors:
                known.setdefault(length, []).append(row.name)
    # People write a list of all blocks of FLUX.1 too, and one of those between BASE and OTHER.
    blocks = sum(next(row for row in families.TABLE if row.name == families.FLUX).lists.values())
    plain = dict.fromkeys((blocks, blocks + 2), families.FLUX)
    return plain | {length: " and ".join(names) for length, names in known.items()}


_ELSEWHERE = _elsewhere()


def looks_like_vector(text: str) -> bool:
    """Commas, no ``=``, and at least one entry that is a number or a placeholder."""
    entries = [entry.strip() for entry in text.split(",")]
    return len(entries) > 1 and "=" not in text and any(map(_is_entry, entries))


def is_vector(text: str) -> bool:
    """Nothing but entries: numbers and placeholders between commas."""
    return "," in text and all(_is_entry(entry.strip()) for entry in text.split(","))


def _is_entry(entry: str) -> bool:
    return bool(is_number(entry) or _PLACEHOLDER.fullmatch(entry))


def parse_vector(
    text: str,
    layout: Layout,
    seed: int = 0,
    placeholders: Mapping[str, float] | None = None,
    dialect: str | None = None,
) -> BlockWeights:
    """A vector such as ``1,0,0,0,1,R,...`` for this model. Raises BlockTextError, which shows the lengths
    that fit.

    ``placeholders``: A and B (as Inspire's widgets) and X. ``dialect``: whose R and U, if the text tells.
    """
    entries = [entry.strip() for entry in text.split(",")]
    for entry in entries:
        if not _is_entry(entry):
            raise BlockTextError(_bad_entry(entry))
    known = forms(layout)
    form = known.get(len(entries))
    if form is None:
        raise BlockTextError(_wrong_length(len(entries), layout, known))
    if form.dialect == INSPIRE or {"A", "B"} & {entry.upper() for entry in entries}:
        dialect = INSPIRE
    dialect = dialect or WEBUI
    values = _values(entries, dialect, random.Random(seed), {**PLACEHOLDERS, **(placeholders or {})})
    return replace(assign(form, values, layout), notes=tuple(_notes(form, entries, dialect, layout)))


def _bad_entry(entry: str) -> str:
    if not entry:
        return "There is an empty entry between two commas (or a comma too many at the end)."
    if re.fullmatch(r"[0-9.RrUuAaBb+-]+(\s+[0-9.RrUuAaBb+-]+)+", entry):
        return f"{entry!r}: several numbers for one block; write their names, such as IN8.0=0.5, IN8.1=0."
    return f"{entry!r} is neither a number nor one of R, U, A, B, X."


def _wrong_length(length: int, layout: Layout, known: Mapping[int, Form]) -> str:
    if not known:
        return f"{layout.title} has no numbered blocks, so it takes no vector. Write TE=0.5, default=1."
    form = next(iter(known.values()))
    lengths = [f"{n} ({form.title})" for n, form in sorted(known.items())]
    other = f" {length} entries are a vector for {_ELSEWHERE[length]}." if length in _ELSEWHERE else ""
    takes = f"{', '.join(lengths[:-1])} or {lengths[-1]}"
    return (
        f"This vector has {length} entries, but {layout.title} takes {takes}.{other} "
        f"The form of {len(form)} is {','.join(['1'] * len(form))} for {_legend(form)}. Or use names: "
        f"{form.slots[1].split('.')[0]}=0.5, default=1."
    )


def _legend(form: Form) -> str:
    names = [slot.split("+")[0] for slot in form.slots]
    return ", ".join(names if len(names) < 30 else [*names[:3], "...", *names[-2:]])


def _notes(form: Form, entries: list[str], dialect: str, layout: Layout) -> Iterator[str]:
    yield f"Read as {len(form)} entries for {layout.title} ({form.title}): {_legend(form)}."
    unlisted = _unlisted(form, layout)
    if unlisted:
        yield f"Not in this form, so 0: {', '.join(unlisted)}."
    if {entry[:1].upper() for entry in entries} & {"R", "U"}:
        ranges = "R is 0..3, U is -1.5..1.5" if dialect == INSPIRE else "R is 0..1, U is -0.5..1.5"
        yield f"Random entries as in {dialect}: {ranges}."


def _values(entries: list[str], dialect: str, rng: random.Random, placeholders: Mapping[str, float]) -> list[float]:
    """Numbers for the entries, drawn in order. Ranges and rounding as the two programs have them."""
    low_r, high_r, low_u, high_u, digits = (0, 3, -1.5, 1.5, 2) if dialect == INSPIRE else (0, 1, -0.5, 1.5, 3)
    values = []
    for entry in entries:
        letter = entry[0].upper()
        if letter == "R":
            values.append(round(rng.uniform(low_r, high_r), digits))
        elif letter == "U":
            values.append(round(rng.uniform(low_u, high_u), digits))
        elif letter in "AB":
            values.append(placeholders[letter] * (1 if entry.isupper() else 0.5))
        elif letter == "X":
            if "X" not in placeholders:
                raise BlockTextError(f"{entry!r} needs a value for X: write lbw=...:x=0.5.")
            values.append(placeholders["X"] + float(re.sub(r"\s", "", entry[1:]) or 0))
        else:
            values.append(float(entry))
    return values


def _unlisted(form: Form, layout: Layout) -> list[str]:
    """Main blocks that a form does not list, in order; runs as ranges."""
    listed = {slot.split(".")[0] for slot in form.slots}
    missing = []
    for group in dict.fromkeys(block.group for block in layout.blocks):
        present = [1.0 if f"{group}{index}" in listed else 0.0 for index in range(layout.counts[group])]
        missing += [str(rule.selector) for rule in column_rules(group, present) if not rule.value]
    return missing


def assign(form: Form, values: list[float], layout: Layout) -> BlockWeights:
    """Rules for the values of a form: the text encoders, OTHER and every main block, written out."""
    by_slot = dict(zip(form.slots, values, strict=True))
    rules: list[Rule] = []
    base = next((value for slot, value in by_slot.items() if slot.startswith("BASE")), 1.0)
    rules.append(Rule(Selector("te"), base))
    for slot, encoder in (("CLIP", "clip_l"), ("T5", "t5xxl")):
        if slot in by_slot:
            rules.append(Rule(Selector("te", encoder), by_slot[slot]))
    other = by_slot.get("OTHER", by_slot.get("BASE+OTHER", 1.0))
    rules.append(Rule(Selector("other"), other))
    rules += [Rule(Selector("other", s[6:]), value) for s, value in by_slot.items() if s.startswith("OTHER:")]
    for group in dict.fromkeys(block.group for block in layout.blocks):
        column = [by_slot.get(f"{group}{index}", 0.0) for index in range(layout.counts[group])]
        if group == "M" and "M0.0" in by_slot:
            rules += _middle([by_slot[slot] for slot in _MIDDLE])
        else:
            rules += column_rules(group, column)
    return BlockWeights(tuple(rules), other)


def _middle(values: list[float]) -> list[Rule]:
    """M00's three parts: one rule where they agree."""
    if len(set(values)) == 1:
        return column_rules("M", values[:1])
    return [Rule(Selector("group", "M", ((0, 0),), sub=sub), value) for sub, value in enumerate(values)]


def column_rules(group: str, values: list[float]) -> list[Rule]:
    """One rule per run of equal values; one for all if they are all equal."""
    if len(set(values)) == 1:
        return [Rule(Selector("group", group), values[0])]
    rules, at = [], 0
    for value, run in groupby(values):
        length = len(list(run))
        rules.append(Rule(Selector("group", group, ((at, at + length - 1),)), value))
        at += length
    return rules
