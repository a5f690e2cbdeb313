"""The weights text: ``D7-12=0.5, even(L)=0, TE=0.4, *.mlp=0, 0%-33%=1, B=0.2..1, default=0``. Last wins.

Rules are separated by commas, semicolons or spaces. Every word is either read or an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from ..numbers import NUMBER
from .errors import BlockTextError
from .groups import KNOWN_LETTERS, RESERVED, STREAMS
from .layout import ENCODERS, TE, Layout
from .selector import Selector, fits_pattern, parse_selector
from .weights import BlockWeights, Rule

_VALUE = re.compile(rf"({NUMBER})(?:\.\.({NUMBER}))?")
MAX_LENGTH = 20000
# A hundred blocks, each with ten parts of its own.
MAX_RULES = 1000


# The same text is read for family after family.
@lru_cache(maxsize=64)
def parse_rules(text: str) -> BlockWeights:
    """Read a text by its grammar alone, whatever the model. Raises BlockTextError."""
    if len(text) > MAX_LENGTH:
        raise BlockTextError(f"This text is {len(text)} characters long; block weights are one line.")
    rules: list[Rule] = []
    default = 1.0
    for count, item in enumerate(_items(text)):
        if count == MAX_RULES:
            raise BlockTextError(f"This text has more than {MAX_RULES} rules.")
        left, separator, right = item.partition("=")
        if not separator or not left or "=" in right:
            raise BlockTextError(f"{item!r} is not of the form blocks=weight, such as D7-12=0.5.")
        value, end = _read_value(item, right)
        if left.lower() == "default":
            if end is not None:
                raise BlockTextError(f"{item!r}: the default is one number, not a ramp.")
            default = value
        else:
            rules.append(Rule(parse_selector(left), value, end))
    return BlockWeights(tuple(rules), default)


def _items(text: str) -> Iterator[str]:
    """Split at commas, semicolons and spaces outside brackets; spaces around = belong to the rule."""
    text = "=".join(part.strip() for part in text.split("="))
    item, depth = "", ""
    for character in text:
        if character in "{(":
            depth += character
        elif character in "})":
            if not depth or depth[-1] != {"}": "{", ")": "("}[character]:
                raise BlockTextError(f"{item + character!r}: this {character!r} closes nothing.")
            depth = depth[:-1]
        if depth:
            item += "" if character.isspace() else character
        elif character in ",;" or character.isspace():
            if item:
                yield item
            item = ""
        else:
            item += character
    if depth:
        raise BlockTextError(f"{item!r}: the {depth[-1]!r} is not closed.")
    if item:
        yield item


def _read_value(item: str, text: str) -> tuple[float, float | None]:
    match = _VALUE.fullmatch(text)
    if match is None:
        raise BlockTextError(f"{item!r}: {text!r} is not a number (0.5, -1, .5) or a ramp (0.2..1).")
    return float(match[1]), None if match[2] is None else float(match[2])


def means_blocks(text: str) -> bool:
    """Whether a text without weights is made of words of this grammar alone, or of names of blocks of any family: ``TE``, ``IN4``,
    ``D0-10 S``, ``attn``, ``default``."""
    words = _WORDS.findall(text[: MAX_LENGTH + 1])
    return bool(words) and all(map(_is_of_blocks, words))


# Not within braces, as in D{1,3}.
_WORDS = re.compile(r"(?:\{[^{}]*\}|[^\s,;{}])+")


def _is_of_blocks(word: str) -> bool:
    if word.upper() in RESERVED:
        return True
    try:
        selector = parse_selector(word)
    except BlockTextError:
        return False
    return selector.kind not in ("group", "range") or selector.name in KNOWN_LETTERS


def check_names(weights: BlockWeights, layout: Layout) -> list[str]:
    """Notes for the names that this model lacks. Raises BlockTextError for a name that no model has."""
    notes = []
    for rule in weights.rules:
        note = _absent(rule.selector, layout) or _nothing_meant(rule.selector, layout)
        if note:
            notes.append(f"{rule.selector}: {note}")
    return list(dict.fromkeys(notes))


def _absent(selector: Selector, layout: Layout) -> str | None:
    if selector.kind == "other":
        pattern = selector.name or "*"
        known = not layout.others or any(fits_pattern(word.lower(), pattern) for word in layout.others)
        return None if known else f"no such part in {layout.title}. It has {', '.join(layout.others)}."
    if selector.kind == "te":
        return _absent_encoder(selector, layout)
    groups = [selector.name] if selector.kind in ("group", "range") else []
    groups += [selector.end[0]] if selector.end else []
    for letters in groups:
        if letters not in layout.counts and letters not in KNOWN_LETTERS:
            hint = f"Its blocks are {describe(layout)}." if layout.counts else "It has no numbered blocks."
            # "ZZ=1" is written without the star that it means.
            where = "" if str(selector) in (letters, f"{letters}*") else f" in {str(selector)!r}"
            raise BlockTextError(
                f"{letters!r}{where} is not a block of {layout.title}. {hint}",
                f"{letters!r}{where} is not a block of any model. Blocks are called IN, M and OUT in SD1.5 and SDXL, D and S in "
                "FLUX.1, B in many others; the faders show those of your model.",
            )
    missing = [letters for letters in groups if letters not in layout.counts]
    if missing:
        return f"{layout.title} has no {missing[0]} blocks; it has {describe(layout)}."
    if selector.kind == "group" and selector.spans:
        count = layout.counts[selector.name]
        if any(high >= count for _, high in selector.spans):
            return f"{layout.title} has {selector.name}0-{count - 1}."
    if not selector.blocks(layout):
        return f"no block of {layout.title} is meant."
    absent = [name for name in selector.filters if layout.tags and name not in layout.tags]
    # "*.cross" means wherever there is any; a stream of a model without streams does not.
    if selector.kind == "all":
        absent = [name for name in absent if name in STREAMS]
    return f"{layout.title} has no weights that are {absent[0]}." if absent else None


def _nothing_meant(selector: Selector, layout: Layout) -> str | None:
    """Whether parts are named that no weight is, such as ``IN4.attn.mlp`` or the 78th transformer of a block."""
    components, streams = set(selector.filters) - set(STREAMS), set(selector.filters) & set(STREAMS)
    for of_one_kind in (components - {"cross"} if components & {"a2v", "v2a"} else components, streams):
        if len(of_one_kind) > 1:
            return f"nothing is both {' and '.join(sorted(of_one_kind))}."
    if not selector.filters and selector.sub is None:
        return None
    in_encoder = selector.kind == "te"
    places = [place for place in layout.places if place.group.startswith(TE) is in_encoder]
    names = frozenset(block.name for block in selector.blocks(layout))
    if not places or any(selector.matches(place, names) for place in places):
        return None
    return f"{'its text encoders have' if in_encoder else f'{layout.title} has'} no such weight."


def _absent_encoder(selector: Selector, layout: Layout) -> str | None:
    if not selector.name or selector.name in layout.encoders:
        count = layout.encoder_layers.get(selector.name, 0)
        if selector.spans and any(high >= count for _, high in selector.spans):
            return f"{selector.name} has {count} layers."
        return None
    known = f"Text encoders here: {', '.join(layout.encoders)}." if layout.encoders else ""
    if not ENCODERS.fullmatch(selector.name):
        hint = known or "Write for example TE:clip_l."
        raise BlockTextError(f"{selector.name!r} is no text encoder. {hint}")
    return f"{layout.title} has no text encoder {selector.name}. {known}" if layout.encoders else None


def describe(layout: Layout) -> str:
    """The ids of a layout in short: ``D0-18, S0-37, TE:clip_l.0-11``."""
    ids = [(letters, count) for letters, count in layout.counts.items()]
    ids += [(f"TE:{name}.", count) for name, count in layout.encoder_layers.items() if count]
    return ", ".join(f"{name}0-{count - 1}" if count > 1 else f"{name}0" for name, count in ids)
