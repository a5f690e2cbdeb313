"""A picture as a list of shapes: what is drawn where, with colours by role. Pillow draws it for saving, the browser on the node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from .saying import Say, english

SERIES = 6
# The most letters of what is written or said of one shape.
MAX_TEXT = 600


@dataclass(frozen=True)
class Shape:
    """kind "rect": x, y, w, h, radius; "line": points; "text": x, y of the baseline, text, size, anchor "start", "middle" or "end".

    role: its colour's, "none" for a place that only answers the pointer; hover: what is said of it; act: what a click does, for the
    browser to know: {"do": "save", "rank": 12}.
    """

    kind: str
    role: str
    x: float = 0.0
    y: float = 0.0
    w: float = 0.0
    h: float = 0.0
    radius: float = 0.0
    points: tuple[tuple[float, float], ...] = ()
    width: float = 1.0
    text: str = ""
    size: float = 12.0
    anchor: str = "start"
    hover: str = ""
    act: dict | None = None


@dataclass
class Picture:
    """width, height: in the browser's px; said: one sentence for who cannot see it; say: the language of its words."""

    width: float
    height: float = 0.0
    said: str = ""
    shapes: list[Shape] = field(default_factory=list)
    say: Say = english

    def rect(self, x, y, w, h, role, hover="", **more) -> None:
        more["hover"] = printable(hover)
        self.shapes.append(
            Shape("rect", role, round(x, 2), round(y, 2), round(max(w, 0), 2), round(max(h, 0), 2), **more)
        )

    def line(self, points, role, width=1.0, **more) -> None:
        exact = tuple((round(x, 2), round(y, 2)) for x, y in points)
        self.shapes.append(Shape("line", role, points=exact, width=width, **more))

    def text(self, x, y, text, role="text", size=12.0, anchor="start", room=None, ends=False, **more) -> None:
        """room: px that it may take; what is longer is cut, and whole in its hover. ends: it loses its middle, not its end."""
        text = printable(text)
        shown = text if room is None else shortened(text, size, room, ends)
        more["hover"] = printable(more.get("hover") or ("" if shown == text else text))
        self.shapes.append(Shape("text", role, round(x, 2), round(y, 2), text=shown, size=size, anchor=anchor, **more))

    def for_browser(self) -> dict:
        """Without what every shape has by default."""
        plain = asdict(Shape("", ""))
        shapes = [{k: v for k, v in asdict(shape).items() if v != plain[k]} for shape in self.shapes]
        return {"width": self.width, "height": self.height, "said": self.said, "shapes": shapes}


def printable(text: str) -> str:
    """On one line, without what no typeface has: names of files and of layers may hold any character."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_TEXT])


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a wide typeface without serifs: no drawing library is known here, and no browser's letters."""
    return size * sum(map(_width_of, text))


def _width_of(letter: str) -> float:
    if letter in "ilj.,:;|!'()[] ftrI/":
        return 0.36
    if ord(letter) >= 0x2E80:
        return 1.0
    return 0.74 if letter.isupper() or letter in "mw%@" else 0.62


def shortened(text: str, size: float, room: float, ends: bool = False) -> str:
    """What of a text has room, and dots for the rest. ends: half of the room is its end's: that is where names of files tell versions."""
    if text_width(text, size) <= room:
        return text
    dots = "..."
    room -= text_width(dots, size)
    last = _fitting(reversed(text), size, room / 2)[::-1] if ends else ""
    first = _fitting(text, size, room - text_width(last, size))
    return first.rstrip() + dots + last.lstrip()


def _fitting(letters: Iterable[str], size: float, room: float) -> str:
    kept = []
    for letter in letters:
        room -= size * _width_of(letter)
        if room < 0:
            break
        kept.append(letter)
    return "".join(kept)
