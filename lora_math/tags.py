r"""``<lora:name:strength>`` tags in a prompt: read, checked, taken out of the text, and written.

Programs disagree on two numbers: ComfyUI packs mean model:clip, A1111 means clip:model. Nothing in a tag tells which, so the caller says.

A name may hold whatever a file system allows. A backslash takes away the meaning of one of ``\ < > : ( ) [ ] { } |`` behind it, and
``\#3a;`` is the character of that hexadecimal number; any other backslash is just that, as in ``faces\detail``.

A strength over time is ``at=`` and a text that ``schedule.parse`` reads. Also read are sd-webui-loractl's list where the model's strength
stands (``<lora:name:0@0,1@0.5>``, ``unet=0@0,1@0.5``) and sd-webui-lora-block-weight's ``start=``, ``stop=`` and ``step=from-to``.

Two numbers with a semicolon where the model's strength stands (``<lora:name:1;0.8>``) are for the two experts of a pair of models, that
for much noise first.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from . import schedule, tag_time
from .errors import StrataError
from .numbers import is_number, show_number
from .regions import Region, parse_region
from .schedule import Schedule
from .tag_places import Placed, cut, find_parts, find_tags
from .tag_surroundings import refuse_more_than_words

# The widgets have the same bound.
MAX_STRENGTH = 100.0
# Between the strengths of the two experts of a pair of models.
PAIR = ";"

# Everything here is one pass over the text: no two parts of an expression can match the same letter in turn.
_COLON_OR_ESCAPE = re.compile(r"\\|:")
_MARKS = "\\<>:()[]{}|\uff1a"
_ESCAPE = re.compile(rf"\\(?:#([0-9a-fA-F]{{1,6}});|([{re.escape(_MARKS)}]))")
_MUST_ESCAPE = frozenset("<>:{}\uff1a")

_ALIASES = {"te": "clip", "unet": "model", "w": "lbw"}
_KEYS = frozenset({"te", "clip", "unet", "model", "lbw", "w", "x", "dyn", "lbwe", "mask", *tag_time.KEYS})
# A colon also stands within TE:clip_l and behind the shape in "smooth: 0@0".
_COLONS_INSIDE = ("lbw", "at")


@dataclass(frozen=True)
class LoraTag:
    """One tag. ``block_weights``: the text of its ``lbw=`` field, never blank, None where it has none.

    more: fields of the caller's own, in order, as (key, text). time: the model's strength over time as ``schedule.canonical`` writes it,
    which multiplies strength_model; None for constant. strength_low: of the expert for little noise, where the model is a pair; None where
    the tag does not say it. region: its ``mask=`` field, None for the whole picture.
    """

    name: str
    strength_model: float = 1.0
    strength_clip: float = 1.0
    block_weights: str | None = None
    more: tuple[tuple[str, str], ...] = ()
    time: str | None = None
    strength_low: float | None = None
    region: Region | None = None


def read_tags(text: str, clip_first: bool = False) -> tuple[str, list[LoraTag]]:
    """(the text without its tags, the tags in order).

    clip_first: what two plain numbers mean: False model:clip, True clip:model. One number is both strengths, none is 1.
    Raises StrataError, showing the tag, for whatever is not wholly understood.
    """
    places = find_tags(text)
    if not places:
        return text, []
    tags = [read_tag(text[place.start : place.stop], clip_first) for place in places]
    refuse_more_than_words(text, places)
    return _without(text, places), tags


def without_tags(text: str) -> str:
    """The text as it reads without its tags, whole or not: for a place where they would be taken for LoRAs that act."""
    places = [place for place, _ in find_parts(text)]
    return _without(text, places) if places else text


def read_tag(tag: str, clip_first: bool = False, also: Collection[str] = ()) -> LoraTag:
    """The one tag that is all of this text. ``also``: keys (lower case) of fields that the caller understands; they come back in ``more``.

    Raises StrataError, showing the tag, for whatever is not wholly understood.
    """
    if find_tags(tag) != [(0, len(tag))]:
        raise StrataError(f"{cut(tag)} is not a tag. Write <lora:name:strength>.")
    name, *fields = _fields(tag[tag.index(":") + 1 : -1])
    if not name:
        raise StrataError(f"{cut(tag)} names no LoRA. Write <lora:name:strength>.")
    _refuse_wide_colons(tag, name)
    numbers, keyed = _sorted(tag, fields, {key.lower() for key in also})
    own = {key: text for key, text in keyed.items() if key.lower() not in map(str.lower, also)}
    more = tuple((key, text) for key, text in keyed.items() if key not in own)
    model, clip, low, listed = _strengths(tag, numbers, own, clip_first)
    with _showing(tag):
        time = tag_time.read_time(own, listed, MAX_STRENGTH)
        region = parse_region(own["mask"]) if "mask" in own else None
    return LoraTag(_plain(name), model, clip, _block_weights(tag, own), more, time, low, region)


def format_tag(tag: LoraTag, clip_first: bool = False) -> str:
    """The tag as text on one line, which ``read_tag`` reads back as the same, whatever characters its name holds.

    clip_first: in which order two different strengths are written.
    """
    low = "" if tag.strength_low is None else f"{PAIR}{show_number(tag.strength_low)}"
    strengths = [f"{show_number(tag.strength_model)}{low}", show_number(tag.strength_clip)]
    if tag.strength_model == tag.strength_clip:
        del strengths[1]
    elif clip_first:
        strengths.reverse()
    fields = [_escaped(tag.name), *strengths]
    # The space behind the name of a shape would be written as its number.
    time = None if tag.time is None else tag.time.replace(": ", ":")
    region = None if tag.region is None else str(tag.region)
    own = ("mask", region), ("lbw", tag.block_weights), ("at", time)
    keyed = [(key, text) for key, text in own if text is not None]
    fields += [f"{key}={_escaped_value(text)}" for key, text in (*keyed, *tag.more)]
    return f"<lora:{':'.join(fields)}>"


def _fields(body: str) -> list[str]:
    """Split at the colons that no backslash stands before; escapes stay as they are."""
    fields, start, at = [], 0, 0
    while match := _COLON_OR_ESCAPE.search(body, at):
        if match[0] == ":":
            fields.append(body[start : match.start()].strip())
            start = at = match.end()
        else:
            at = match.end() + 1
    return [*fields, body[start:].strip()]


def _sorted(tag: str, fields: Sequence[str], also: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """(the strengths without a key, the other fields by key)."""
    fields = list(fields)
    # A tag may end in colons, as <lora:name:0.8:> does.
    while fields and not fields[-1]:
        fields.pop()
    numbers: list[str] = []
    keyed: dict[str, list[str]] = {}
    last = ""
    for field in fields:
        written, separator, value = field.partition("=")
        key = written.strip().lower()
        if separator and (key in _KEYS or key in also):
            last = key if key in also else _ALIASES.get(key, key)
            if last in keyed:
                raise StrataError(f"{cut(tag)} gives {written.strip()} twice.")
            keyed[last] = [value.strip()]
        elif last in _COLONS_INSIDE or last in also:
            keyed[last].append(field)
        elif not field:
            raise StrataError(
                f"{cut(tag)} has an empty strength between two colons. Write both, such as <lora:name:1:0.3>."
            )
        else:
            numbers.append(field)
    unknown = keyed.keys() - {"clip", "model", "lbw", "x", "mask", *tag_time.KEYS, *also}
    if unknown:
        raise StrataError(
            f"{cut(tag)}: {min(unknown)}= is not known. Known are model=, clip=, unet=, te=, lbw=, mask=, at=, start=, stop= and step=."
        )
    return numbers, {key: _plain(":".join(parts)) for key, parts in keyed.items()}


def _strengths(
    tag: str, numbers: Sequence[str], keyed: dict[str, str], clip_first: bool
) -> tuple[float, float, float | None, Schedule | None]:
    """(model, clip, of a pair's expert for little noise, what multiplies the model's over time). A strength by name leaves the other one as
    the numbers have it, 1 without any. A list of strength@place is the model's; the text encoders, which run once, take its beginning where
    they have no own strength, and of a pair the first.
    """
    if len(numbers) > 2:
        raise StrataError(f"{cut(tag)} has {len(numbers)} numbers; at most two have a meaning.")
    first = numbers[0] if numbers else "1"
    second = numbers[1] if len(numbers) > 1 else first
    model, clip = (second, first) if clip_first else (first, second)
    model, clip = keyed.get("model", model), keyed.get("clip", clip)
    if "@" not in model:
        if "@" in clip:
            raise StrataError(
                f"{cut(tag)}: {cut(clip)} would be the strength of the text encoders, which run once, before the sampling. Write one "
                "number for them with te=, and what changes over time with unet=."
            )
        high, pair, low = (part.strip() for part in model.partition(PAIR))
        clip = high if pair and clip == model else clip
        if PAIR in clip:
            raise StrataError(
                f"{cut(tag)}: {cut(clip)} would be two strengths of the text encoders, which are no pair. Write one number for them, "
                "and two for the models, such as <lora:name:1;0.8:1>."
            )
        return _number(tag, high), _number(tag, clip), _number(tag, low) if pair else None, None
    with _showing(tag):
        listed = tag_time.within(schedule.parse(model), MAX_STRENGTH)
    if clip == model:
        return 1.0, listed.points[0][1], None, listed
    if "@" in clip:
        raise StrataError(f"{cut(tag)}: the text encoders run once, before the sampling. Write one number for them.")
    return 1.0, _number(tag, clip), None, listed


@contextlib.contextmanager
def _showing(tag: str) -> Iterator[None]:
    """What is wrong with a part of a tag says which tag."""
    try:
        yield
    except StrataError as problem:
        raise StrataError(f"{cut(tag)}: {problem}") from None


def _block_weights(tag: str, keyed: dict[str, str]) -> str | None:
    lbw = keyed.get("lbw")
    if lbw == "":
        raise StrataError(
            f"{cut(tag)}: nothing stands behind lbw=. Write block weights, such as lbw=OUT*=1,default=0, or leave it out."
        )
    if "x" in keyed:
        if lbw is None:
            raise StrataError(f"{cut(tag)}: x= is the X of an lbw= vector, and there is none.")
        return f"lbw={lbw}:x={keyed['x']}"
    return lbw


def _number(tag: str, text: str) -> float:
    if not is_number(text):
        raise StrataError(
            f"{cut(tag)}: '{cut(text)}' is not a number. Write <lora:name:strength>, such as <lora:style:0.8>."
        )
    value = float(text)
    if abs(value) > MAX_STRENGTH:
        raise StrataError(
            f"{cut(tag)}: {cut(text)} is no strength. Strengths go from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}."
        )
    return value


def _refuse_wide_colons(tag: str, name: str) -> None:
    """``<lora:x\\uff1a0.8>`` means a strength; Windows has such names too, and ``\\`` in front says that this is one."""
    rest = _ESCAPE.sub("", name)
    piece = rest.rpartition("\uff1a")[2].strip() if "\uff1a" in rest else ""
    if is_number(piece) or piece.partition("=")[0].strip().lower() in _KEYS:
        raise StrataError(
            f"{cut(tag)} has a full-width colon in front of {cut(piece)}. Write a plain one, or \\\uff1a where it belongs to the name."
        )


def _without(text: str, places: Sequence[Placed]) -> str:
    """A tag usually stands between commas and spaces of its own; what it leaves behind must not pile up."""
    kept = [text[: places[0].start]]
    for place, following in zip(places, (*places[1:], Placed(len(text), len(text))), strict=True):
        piece = text[place.stop : following.start]
        right = piece.lstrip(" \t")
        # The next tag stands right behind: the two leave one gap.
        if not right and following.start < len(text):
            continue
        _strip_end(kept)
        line_starts = not kept or kept[-1].endswith("\n")
        line_ends = not right or right.startswith("\n")
        if not line_starts and kept[-1].endswith(",") and (line_ends or right.startswith(",")):
            kept[-1] = kept[-1][:-1]
        elif line_starts:
            right = right.removeprefix(",").lstrip(" \t")
        elif not line_ends and not right.startswith(","):
            kept.append(" ")
        kept.append(right)
    return "".join(kept).strip(" \t")


def _strip_end(kept: list[str]) -> None:
    while kept:
        kept[-1] = kept[-1].rstrip(" \t")
        if kept[-1]:
            return
        kept.pop()


def _plain(text: str) -> str:
    """A field without its escapes."""
    return _ESCAPE.sub(_unescape, text) if "\\" in text else text


def _unescape(match: re.Match[str]) -> str:
    number = match[1]
    if number is None:
        return match[2]
    code = int(number, 16)
    return chr(code) if code < 0x110000 else match[0]


def _escaped(text: str) -> str:
    """A field that ``_plain`` reads back: with a backslash before each character that means something, and the numbers of spaces at its
    ends and of characters that no line of text can hold."""
    inner = text.strip()
    start = len(text) - len(text.lstrip()) if inner else len(text)
    stop = start + len(inner)
    written, following = [], ""
    for at in reversed(range(len(text))):
        character = text[at]
        if not start <= at < stop or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            piece = f"\\#{ord(character):x};"
        elif character in _MUST_ESCAPE:
            piece = f"\\{character}"
        elif character == "\\" and (not following or following[0] in _MARKS or following[0] == "#"):
            # A single one would take away the meaning of what follows, or of the colon behind the field.
            piece = "\\\\"
        else:
            piece = character
        written.append(piece)
        following = piece
    return "".join(reversed(written))


def _escaped_value(text: str) -> str:
    """As ``_escaped`` for the text of a field by key, where a colon needs no backslash unless what follows reads as another field."""
    first, *pieces = (_escaped(piece) for piece in text.split(":"))
    written, before = [first], first
    for piece in pieces:
        key, separator, _ = piece.partition("=")
        goes_on = piece and (not separator or (before.upper().endswith(("TE", "OTHER")) and key.lower() not in _KEYS))
        written += [":" if goes_on else "\\:", piece]
        before = piece
    return "".join(written)
