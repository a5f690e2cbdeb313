"""JSON as people write it by hand: with ``//``, ``#`` and ``/* */`` comments and commas behind the last entry."""

from __future__ import annotations

import re

# What a comment or a comma that counts can start with; strings are passed over as a whole.
_NEXT = re.compile(r'["/#,\]}]|[^\s"/#,\]}]+')
_STRING_END = re.compile(r'[^"\\\n]*(?:\\.[^"\\\n]*)*"?')
_LETTER = re.compile(r"[^\n]")


def without_comments(source: str) -> tuple[str, bool]:
    """(JSON proper, whether there were comments). What goes is blanked: lines and columns stay where they were.

    One pass over the text, whatever it holds: each place is looked at by one of the branches and never again.
    """
    kept: list[str] = []
    # Where in ``kept`` a comma waits for what follows it.
    comma = None
    at, found_comments = 0, False
    while match := _NEXT.search(source, at):
        kept.append(source[at : match.start()])
        sign, start, at = match[0], match.start(), match.end()
        comment = sign == "#" or (sign == "/" and source.startswith(("/", "*"), at))
        if comment:
            at = _comment_end(source, start)
            found_comments = True
            kept.append(_LETTER.sub(" ", source[start:at]))
            continue
        if sign == '"':
            at = _STRING_END.match(source, at).end()
        elif sign in "]}" and comma is not None:
            kept[comma] = " "
        comma = len(kept) if sign == "," else None
        kept.append(source[start:at])
    kept.append(source[at:])
    return "".join(kept), found_comments


def _comment_end(source: str, start: int) -> int:
    if source.startswith("/*", start):
        end = source.find("*/", start + 2)
        return len(source) if end < 0 else end + 2
    end = source.find("\n", start)
    return len(source) if end < 0 else end
