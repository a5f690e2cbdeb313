"""Draws the cells of a sweep one after another: what two of them share is made once, each is saved at once, one that fails stands with its
reason, and one that is there already is taken as it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from ...lora_math.errors import StrataError
from ..apply import apply_stack
from ..apply_lora import Apply
from ..comfy.drawing import Asked, Bar, Way, decode, encode, freed_after_error, sample
from ..comfy.pictures import Folder, Saved, as_drawn, loaded
from .measure import Difference, difference
from .plan import Cell, Plan, Settings, clip_key, model_key

# The most encoded prompts that are kept: each may be several megabytes.
MAX_ENCODED = 64
MAX_REASON = 600
Picture = NDArray[numpy.uint8]


@dataclass
class Counts:
    """How often what costs time was done, for the report."""

    drawn: int = 0
    reused: int = 0
    applied: int = 0
    encoded: int = 0


@dataclass
class Outcome:
    """What became of one cell. files: of its batch, empty where it failed; error: why."""

    files: list[Saved] = field(default_factory=list)
    error: str = ""
    difference: Difference | None = None


class Artist:
    """Draws a picture by its settings. Keeps the last patched model and text encoders, and the prompts that these have encoded."""

    def __init__(self, model, clip, way: Way, apply: Apply, node: str | None, counts: Counts, own_cfg: bool = False):
        """own_cfg: whether the guider's own cfg counts."""
        self.model, self.clip, self.way, self.apply, self.node = model, clip, way, apply, node
        self.counts, self.own_cfg = counts, own_cfg
        self.verdicts: dict[str, None] = {}
        self._model: tuple | None = None
        self._clip: tuple | None = None
        # Settings of text encoders under which they are the ones that were given.
        self._plain: set[tuple] = {()}
        self._encoded: OrderedDict[tuple, object] = OrderedDict()

    def draw(self, settings: Settings, told: Callable[[int, int, object], None]) -> Picture:
        """[count, height, width, 3]. Raises whatever goes wrong."""
        positive = negative = None
        if self.way.guider is None:
            positive, negative = self._prompt(settings, settings.positive), self._prompt(settings, settings.negative)
        cfg = None if self.own_cfg else settings.cfg
        asked = Asked(self._patched(settings)[0], positive, negative, settings.seed, settings.steps, cfg)
        return decode(self.way.vae, sample(self.way, asked, told))

    def _prompt(self, settings: Settings, text: str):
        wanted = clip_key(settings)
        key = ((), text) if wanted in self._plain else (wanted, text)
        if key not in self._encoded:
            clip = self._patched(settings)[1] if wanted not in self._plain else self.clip
            # Only now is it known whether the LoRAs change the text encoders at all.
            key = ((), text) if wanted in self._plain else (wanted, text)
            if key not in self._encoded:
                self._encoded[key] = encode(clip, text)
                self.counts.encoded += 1
        self._encoded.move_to_end(key)
        while len(self._encoded) > MAX_ENCODED:
            self._encoded.popitem(last=False)
        return self._encoded[key]

    def _patched(self, settings: Settings):
        """(MODEL, CLIP) with the LoRAs; the same objects as before where nothing is another, so that ComfyUI patches nothing."""
        of_model, of_clip = model_key(settings), clip_key(settings)
        has_model = self._model is not None and self._model[0] == of_model
        has_clip = self.clip is None or of_clip in self._plain or (self._clip is not None and self._clip[0] == of_clip)
        if not (has_model and has_clip):
            applied = apply_stack(self.model, self.clip, settings.acting, "error", self.apply, self.node)
            self.counts.applied += 1
            self.verdicts[applied.verdict] = None
            if applied.clip is self.clip:
                self._plain.add(of_clip)
            if not has_model:
                self._model = of_model, applied.model
            if not has_clip:
                self._clip = of_clip, applied.clip
        clip = self.clip if of_clip in self._plain or self._clip is None else self._clip[1]
        return self._model[1], clip


@dataclass
class Run:
    """plan: the cells. hashes: of each cell, None where ComfyUI does not tell what it would be drawn with. texts: chunks of a cell's PNG
    for other programs. told: about a cell, for its PNG. seen: is called after each cell."""

    plan: Plan
    hashes: Sequence[str]
    artist: Artist
    folder: Folder
    known: Mapping[str, list[Saved]]
    texts: Callable[[Cell, Picture], Mapping[str, str]]
    told: Callable[[Cell], Mapping[str, object]]
    seen: Callable[[int, Outcome], None]

    def __post_init__(self):
        self._base: tuple[int, Picture] | None = None

    def outcomes(self) -> dict[int, Outcome]:
        """Cell by number in ``Plan.cells``. Raises StrataError where not one could be drawn, and what a press on stop raises."""
        total = sum(cell.settings.steps for cell in self.plan.cells)
        bar, done = Bar(total), 0
        found: dict[int, Outcome] = {}
        for number in self.plan.order:
            bar.tick()
            cell = self.plan.cells[number]
            steps = cell.settings.steps
            self.artist.counts.reused += self.hashes[number] in self.known
            found[number] = self._outcome(number, cell, found, _showing(bar, done, steps, total))
            done += steps
            bar.show(done, total)
            self.seen(number, found[number])
        reasons = list(dict.fromkeys(found[number].error for number, _ in enumerate(self.plan.shown)))
        if "" not in reasons:
            raise StrataError(reasons[0] if len(reasons) == 1 else f"No cell could be drawn. The first: {reasons[0]}")
        return found

    def _outcome(self, number: int, cell: Cell, found: Mapping[int, Outcome], told) -> Outcome:
        try:
            files = self.known.get(self.hashes[number])
            picture = _as_it_is(files) if files else None
            if picture is None:
                self.artist.counts.reused -= bool(files)
                picture = self.artist.draw(cell.settings, told)
                files = self.folder.save_cell(picture, self.texts(cell, picture), self.hashes[number], self.told(cell))
                self.artist.counts.drawn += 1
        # A press on stop is no Exception.
        except Exception as problem:
            freed_after_error()
            return Outcome(error=reason(problem))
        return Outcome(files, difference=self._difference(number, cell, picture, found))

    def _difference(self, number: int, cell: Cell, picture: Picture, found: Mapping[int, Outcome]) -> Difference | None:
        if cell.base is None:
            # Others may be compared with this one.
            self._base = number, picture
            return None
        base = picture if cell.base == number else self._base_of(cell.base, found)
        if cell.base == number:
            self._base = number, picture
        return None if base is None or base.shape != picture.shape else difference(picture, base)

    def _base_of(self, number: int, found: Mapping[int, Outcome]) -> Picture | None:
        if self._base is None or self._base[0] != number:
            outcome = found.get(number)
            if outcome is None or not outcome.files:
                return None
            self._base = number, loaded(outcome.files)
        return self._base[1]


def _as_it_is(files: Sequence[Saved]) -> Picture | None:
    """A cell that is there already; None where it cannot be read any more or is another picture by now, and is drawn again."""
    try:
        found = loaded(files)
    except StrataError:
        return None
    return found if as_drawn(files, found) else None


def _showing(bar: Bar, done: int, steps: int, total: int):
    """The steps of a cell within those of all; a sampler may take another number of them."""

    def told(at: int, of: int, preview) -> None:
        bar.show(done + steps * at // max(1, of), total, preview)

    return told


def reason(problem: Exception) -> str:
    """What a person reads in the place of a cell."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    if not isinstance(problem, StrataError):
        name = type(problem).__name__
        text = f"This picture could not be drawn. ComfyUI stopped with {name}" + ("" if text == name else f": {text}")
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."
