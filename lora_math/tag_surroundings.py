"""What stands around the tags of a prompt and would make another picture of them: comments, schedules, choices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .errors import StrataError
from .tag_places import Placed, cut

# The most letters between a schedule's last colon and its bracket.
_LONGEST_TIME = 40
_SCHEDULE_TIME = re.compile(r"[-+]?[0-9.,][0-9.,\s]*[%s]?")
_CLOSED_BY = {"]": "[", ")": "(", "}": "{"}
# What begins a comment, and what ends it: ComfyUI's // and /*, A1111's #, which hides the rest of a line wherever it stands, and a page's.
_COMMENTS = {"//": "\n", "/*": "*/", "#": "\n", "<!--": "-->"}
# SwarmUI's, which are one thing after the other while a picture is made.
_OVER_TIME = ("alternate", "fromto")
_COMMENT = "comment"
# Those behind which its prompt is another one, as long as no other begins: of a part of the picture, or of another model.
_PARTS = ("segment", "region", "object", "extend")
_MODELS = ("refiner", "video", "videoswap", "pixeldecoder")
_BASE = "base"

# A // behind a colon belongs to an address. SwarmUI's <word: and <word[...]: are bounded, so that each letter is read a few times at most.
_MARK = re.compile(
    r"\\.?|[\[\](){}:|\n#]|(?<!:)//|/\*|\*/|<!--|-->|[<\uff1c][a-z][a-z0-9_-]{0,40}(?:\[[^\[\]<>\n]{0,100}\])?[:\uff1a]"
    r"|[<\uff1c](?:base|refiner|video|videoswap|pixeldecoder)(?=[>\uff1e])"
    r"|[>\uff1e\uff08\uff09\uff1a\uff3b\uff3d\uff5b-\uff5d]",
    re.DOTALL | re.IGNORECASE,
)
_NARROW = str.maketrans("\uff1c\uff1e\uff08\uff09\uff1a\uff3b\uff3d\uff5b\uff5c\uff5d", "<>():[]{|}")


def refuse_more_than_words(text: str, places: Sequence[Placed]) -> None:
    """Raises StrataError for what a program would do with the text around tags, and which does not happen here: applied as if it did not
    stand there, they would be another picture.

    ``[<lora:a:1>:<lora:b:1>:0.5]`` and ``[<lora:a:1>|<lora:b:1>]`` change LoRAs while sampling, ``{<lora:a:1>|<lora:b:1>}`` chooses one,
    what stands behind ``//`` or ``#``, or between ``/*`` and ``*/``, is a comment, also with full-width signs, and SwarmUI's
    ``<word:...>`` around a tag does what its word says. Behind SwarmUI's ``<segment:...>``, ``<region:...>``, ``<object:...>`` and
    ``<extend:...>`` a tag is for that part, behind ``<refiner>`` and ``<video>`` for another model. Brackets that only weaken a word may
    hold tags.
    """
    # Each open bracket: [its kind, where it starts, whether it holds a tag, whether it holds a |, where its last colon is]
    opened: list[list] = []
    # Each open <word: [its word, where it starts, whether it holds a tag]
    angled: list[list] = []
    # Where a comment began, and what began it.
    comment, sign = -1, ""
    # Of the <word:...> whose prompt this is: (where it starts, where it stops, its word); None in the prompt of the whole picture.
    part: tuple[int, int, str] | None = None
    for at, mark in _marks(text, places):
        if comment >= 0:
            if mark == _COMMENTS[sign]:
                comment = -1
            elif mark == "tag":
                raise StrataError(_in_comment(text, at if "\n" in text[comment:at] else comment, sign))
        elif mark in _COMMENTS:
            comment, sign = at, mark
        elif mark == "tag":
            if part is not None:
                raise StrataError(_in_part(text, *part, at))
            for stack in (opened, angled):
                if stack:
                    stack[-1][2] = True
        elif mark[0] == "<":
            angled.append([re.split(r"[\[:]", mark[1:])[0].lower(), at, False])
        elif mark == ">":
            if angled:
                word, start, tagged = angled.pop()
                if tagged:
                    raise StrataError(_in_angles(text, start, at + 1, word))
                if word in (*_PARTS, *_MODELS):
                    part = start, at + 1, word
                elif word == _BASE:
                    part = None
        elif mark in "[({":
            opened.append([mark, at, False, False, -1])
        elif not opened or mark in ("\n", "*/", "-->"):
            continue
        elif mark == "|":
            opened[-1][3] = True
        elif mark == ":":
            opened[-1][4] = at
        elif opened[-1][0] == _CLOSED_BY[mark]:
            _, start, tagged, alternates, colon = opened.pop()
            scheduled = 0 <= colon >= at - _LONGEST_TIME and _SCHEDULE_TIME.fullmatch(text[colon + 1 : at].strip())
            if mark == "]" and tagged and (alternates or scheduled):
                raise StrataError(_over_time(cut(text, start, at + 1), "brackets"))
            if mark == "}" and tagged and alternates:
                raise StrataError(
                    f"{cut(text, start, at + 1)} chooses one of several, which braces do only in the text box of a node. Choose one, or "
                    "use the pick rows of LoRA Stack (Strata)."
                )
            if opened:
                opened[-1][2] |= tagged


def _in_comment(text: str, start: int, sign: str) -> str:
    who = "A1111 does" if sign == "#" else "programs do"
    return f"{cut(text, start)} is in a comment, which {who} not apply. Take the tag or the {sign} away."


def _in_angles(text: str, start: int, stop: int, word: str) -> str:
    shown = cut(text, start, stop)
    if word == _COMMENT:
        return _in_comment(shown, 0, "<comment:>")
    if word in _OVER_TIME:
        return _over_time(shown, f"<{word}:>")
    return (
        f"{shown}: <{word}:> around a LoRA is not read here. Take it away and leave the LoRA; to choose one of several, use the pick rows "
        "of LoRA Stack (Strata)."
    )


def _in_part(text: str, start: int, stop: int, word: str, tag: int) -> str:
    """tag: where one stands behind ``text[start:stop]``."""
    shown = f"{cut(text, tag)} stands behind {cut(text, start, stop)}"
    if word in _MODELS:
        return (
            f"{shown} and would be for another model, which is not in this prompt. Take the tag out, and write it where that model gets "
            "its LoRAs."
        )
    return (
        f"{shown} and would be for that part alone; here a prompt's LoRA is for the whole picture. Write the tag in front of "
        f"<{word}:...>, or give the LoRA a mask."
    )


def _over_time(shown: str, what: str) -> str:
    return (
        f"{shown} changes a LoRA while sampling, which {what} cannot do here. Take the LoRA out of there and write the time into the tag, "
        "such as <lora:name:1:stop=0.5>."
    )


def _marks(text: str, places: Sequence[Placed]) -> Iterator[tuple[int, str]]:
    """Brackets, colons, bars and comments outside of tags, and "tag" for each of those, in order."""
    start = 0
    for place in (*places, Placed(len(text), len(text))):
        for match in _MARK.finditer(text, start, place.start):
            if match[0][0] != "\\":
                yield match.start(), match[0].translate(_NARROW)
        if place.start < len(text):
            yield place.start, "tag"
        start = place.stop
