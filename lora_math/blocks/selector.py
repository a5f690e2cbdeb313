"""The left side of a rule, such as ``D7-12.attn``, ``even(L)``, ``0%-33%`` or ``TE:clip_l.3``: which weights
it means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .errors import BlockTextError
from .groups import FILTERS, STREAMS
from .layout import OTHER, TE, Block, Layout, Location

Spans = tuple[tuple[int, int], ...]
# The cross-attentions between LTX-2's two streams are cross-attentions too.
_COVERS = {"cross": {"cross", "a2v", "v2a"}}


@dataclass(frozen=True)
class Selector:
    """``kind`` is "all" (every block), "group" (letters), "range" (from one main block to another), "te" or
    "other".

    ``name``: the letters, the encoder ("" = all) or the pattern of first words ("" = all). ``spans``:
    inclusive ids; empty = all. ``percent``: a part of the depth, 0..100. ``layer``: "te" only, "" = all of
    the encoder, "*" = its layers, "other" = what is in no layer. ``parity``: 0 even ids, 1 odd ids.
    ``filters``: components and streams, all of which must fit. ``sub``: a numbered part of the block.
    """

    kind: str
    name: str = ""
    spans: Spans = ()
    percent: tuple[float, float] | None = None
    end: tuple[str, int] | None = None
    layer: str = ""
    parity: int | None = None
    filters: tuple[str, ...] = ()
    sub: int | None = None

    def __str__(self) -> str:
        text = self._base()
        if self.parity is not None:
            short = text.removesuffix("*") if self.kind == "group" else text
            text = f"{('even', 'odd')[self.parity]}({short})"
        parts = [*self.filters, *([] if self.sub is None else [str(self.sub)])]
        return ".".join([text, *parts])

    def _base(self) -> str:
        if self.kind == "all":
            return "*" if self.percent is None else f"{_percent(self.percent)}"
        if self.kind == "other":
            return OTHER + (f":{self.name}" if self.name else "")
        if self.kind == "te":
            layer = _spans(self.spans) if self.spans else self.layer
            return TE + (f":{self.name}" if self.name else "") + (f".{layer}" if layer else "")
        if self.kind == "range":
            return f"{self.name}{self.spans[0][0]}-{self.end[0]}{self.end[1]}"
        return self.name + (_percent(self.percent) if self.percent else _spans(self.spans) or "*")

    @property
    def whole(self) -> str | None:
        """The kind, if this is the bare ``TE`` or ``OTHER``: the remainders that a text must state."""
        return self.kind if self in (Selector("te"), Selector("other")) else None

    def blocks(self, layout: Layout) -> tuple[Block, ...]:
        """The numbered blocks of ``layout`` that this means, in execution order, filters left aside."""
        if self.kind == "te":
            return tuple(block for block in layout.text_encoders if self._covers(block.group, block.index))
        if self.kind == "other":
            return ()
        if self.percent is not None:
            chosen = [block for block in layout.blocks if self.kind == "all" or block.group == self.name]
            chosen = chosen or [block for block in layout.aux if block.group == self.name]
            chosen = _by_depth(chosen, self.percent)
        elif self.kind == "range":
            names = {(block.group, block.index): at for at, block in enumerate(layout.blocks)}
            first, last = names.get((self.name, self.spans[0][0])), names.get(self.end)
            chosen = [] if first is None or last is None else layout.blocks[first : last + 1]
        else:
            chosen = [b for b in (*layout.blocks, *layout.aux) if self._covers(b.group, b.index)]
        return tuple(block for block in chosen if self.parity is None or block.index % 2 == self.parity)

    def _covers(self, group: str, index: int | None) -> bool:
        """Whether a group and id fit, for the kinds that need no layout to know."""
        if self.kind == "all":
            return True
        if self.kind == "te":
            if self.name and group != f"{TE}:{self.name}":
                return False
            if self.layer == "other" or index is None:
                return index is None and self.layer in ("", "other") and not self.spans
        elif group != self.name:
            return False
        return not self.spans or any(low <= index <= high for low, high in self.spans)

    def matches(self, location: Location, blocks: frozenset[str]) -> bool:
        """Whether a weight at ``location`` is meant; ``blocks`` are the names of ``self.blocks(layout)``."""
        in_encoder, in_other = location.group.startswith(f"{TE}:"), location.group == OTHER
        if self.kind == "other":
            if not in_other:
                return False
            return not self.name or fits_pattern(location.block[len(OTHER) + 1 :].lower(), self.name)
        if in_other or in_encoder != (self.kind == "te"):
            return False
        if not (self._covers(location.group, location.index) if in_encoder else location.block in blocks):
            return False
        if self.parity is not None and (location.index is None or location.index % 2 != self.parity):
            return False
        if self.sub is not None and location.sub != self.sub:
            return False
        return all(
            location.stream == name if name in STREAMS else location.component in _COVERS.get(name, {name})
            for name in self.filters
        )


def fits_pattern(word: str, pattern: str) -> bool:
    """Whether a word is what a pattern says, ``*`` being any letters; each piece is looked for once, from left to right."""
    first, *pieces = pattern.split("*")
    if not pieces:
        return word == pattern
    *pieces, last = pieces
    if not word.startswith(first) or not word.endswith(last) or len(word) < len(first) + len(last):
        return False
    at, stop = len(first), len(word) - len(last)
    for piece in pieces:
        found = word.find(piece, at, stop)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _by_depth(blocks: Iterable[Block], percent: tuple[float, float]) -> list[Block]:
    """Blocks whose middle lies in [low, high) of the depth: ranges that meet share no block and leave none
    out.
    """
    blocks = list(blocks)
    low, high = percent
    return [b for at, b in enumerate(blocks) if low <= 100 * (at + 0.5) / len(blocks) < high]


def _percent(percent: tuple[float, float]) -> str:
    return f"{percent[0]:g}%-{percent[1]:g}%"


def _spans(spans: Spans) -> str:
    parts = [f"{low}" if low == high else f"{low}-{high}" for low, high in spans]
    return parts[0] if len(parts) == 1 else "{" + ",".join(parts) + "}" if parts else ""


PARITY = re.compile(r"(even|odd)\((.*?)\)(.*)", re.IGNORECASE)
_PERCENT = re.compile(r"([A-Za-z]*?)([0-9]{1,3}(?:\.[0-9]{1,3})?)%-([0-9]{1,3}(?:\.[0-9]{1,3})?)%(\..*)?")
_RANGE = re.compile(r"([A-Za-z]+)([0-9]{1,4})-([A-Za-z]+)([0-9]{1,4})((?:\..*)?)")
_GROUP = re.compile(r"([A-Za-z]+)(\*|\{[^{}]*\}|[0-9]{1,4}(?:-[0-9]{1,4})?)?((?:\..*)?)")
_ENCODER = re.compile(r"TE(?::([A-Za-z0-9_]+))?((?:\..*)?)", re.IGNORECASE)
_LAYER = re.compile(r"\.(\*|other|\{[^{}]*\}|[0-9]{1,4}(?:-[0-9]{1,4})?)((?:\..*)?)", re.IGNORECASE)
_OTHER = re.compile(r"OTHER(?::([A-Za-z0-9_*]+))?", re.IGNORECASE)
_SPAN = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_selector(text: str) -> Selector:
    """Read one left side. Raises BlockTextError. Letters, filters and encoders are read in any case."""
    if match := PARITY.fullmatch(text):
        inner = parse_selector(match[2])
        if (
            inner.kind == "other"
            or inner.parity is not None
            or inner.filters
            or (inner.kind == "te" and not inner.name)
        ):
            raise BlockTextError(f"{text!r}: even and odd take numbered blocks, such as even(L) or odd(D0-10).")
        return _filtered(replace(inner, parity=("even", "odd").index(match[1].lower())), match[3], text)
    if match := _ENCODER.fullmatch(text):
        selector, rest = Selector("te", (match[1] or "").lower()), match[2]
        if layer := _LAYER.fullmatch(rest):
            if not selector.name:
                raise BlockTextError(f"{text!r}: a layer needs its text encoder, such as TE:clip_l.3.")
            word, rest = layer[1].lower(), layer[2]
            named = {"layer": word} if word in ("*", "other") else {"spans": _read_spans(word, text)}
            selector = replace(selector, **named)
        return _filtered(selector, rest, text)
    if match := _OTHER.fullmatch(text):
        return Selector("other", (match[1] or "").lower())
    if match := _PERCENT.fullmatch(text):
        low, high = float(match[2]), float(match[3])
        if not low < high <= 100:
            raise BlockTextError(
                f"{text!r}: a part of the depth goes from a smaller to a larger percentage, up to 100%."
            )
        group = match[1].upper()
        return _filtered(Selector("group" if group else "all", group, percent=(low, high)), match[4] or "", text)
    if match := _RANGE.fullmatch(text):
        start, end = (match[1].upper(), int(match[2])), (match[3].upper(), int(match[4]))
        if start[0] != end[0]:
            return _filtered(Selector("range", start[0], ((start[1],) * 2,), end=end), match[5], text)
        return _filtered(Selector("group", start[0], _read_spans(f"{start[1]}-{end[1]}", text)), match[5], text)
    first = text.split(".", 1)[0].lower()
    if first in FILTERS:
        return _filtered(Selector("all"), f".{text}", text)
    if text.startswith("*"):
        return _filtered(Selector("all"), text[1:], text)
    match = _GROUP.fullmatch(text)
    if match is None:
        raise BlockTextError(f"{text!r} names no blocks. Write for example D7-12, S*, S{{7,12}}, even(L), TE or OTHER.")
    spans = () if match[2] in (None, "*") else _read_spans(match[2], text)
    return _filtered(Selector("group", match[1].upper(), spans), match[3], text)


def _filtered(selector: Selector, rest: str, text: str) -> Selector:
    if rest and not rest.startswith("."):
        raise BlockTextError(f"{text!r}: {rest!r} is not understood.")
    filters: set[str] = set()
    for word in rest.split(".")[1:]:
        if re.fullmatch("[0-9]{1,3}", word) and selector.sub is None and selector.kind != "te":
            selector = replace(selector, sub=int(word))
        elif word.lower() in FILTERS:
            filters.add(word.lower())
        else:
            raise BlockTextError(f"{text!r}: {word!r} is no part of a block. Parts: {', '.join(FILTERS)}.")
    return replace(selector, filters=tuple(name for name in FILTERS if name in filters))


def _read_spans(text: str, whole: str) -> Spans:
    spans = []
    for item in text.strip("{}").split(","):
        match = _SPAN.fullmatch(item.strip())
        if match is None:
            raise BlockTextError(f"{whole!r}: {item.strip()!r} is not a block number or a range such as 7-12.")
        low = int(match[1])
        high = int(match[2]) if match[2] else low
        if high < low:
            raise BlockTextError(f"{whole!r}: the range {low}-{high} runs backwards.")
        spans.append((low, high))
    return tuple(spans)
