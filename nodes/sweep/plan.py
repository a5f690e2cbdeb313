"""Which cells a sweep has, what it compares them with, and in which order they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from ...lora_math.blocks import BlockWeights, Layout, Rule, format_weights
from ...lora_math.blocks.groups import FILTERS, STREAMS
from ...lora_math.blocks.selector import Selector, parse_selector
from ...lora_math.errors import StrataError
from ..fitting.block_spec import BlockSpec
from ..stack import StackEntry
from . import axes
from .axes import Axis

MAX_CELLS = 1000
STRENGTH_ZERO, UNCHANGED, CELL, NOTHING = "strength 0", "no change", "cell", "nothing"
COMPARE = (STRENGTH_ZERO, UNCHANGED, CELL, NOTHING)


@dataclass(frozen=True, eq=False)
class Settings:
    """All that makes one picture another: the LoRAs in order, and what is asked for."""

    rows: tuple[StackEntry, ...]
    positive: str
    negative: str
    seed: int
    steps: int
    cfg: float

    @property
    def acting(self) -> tuple[StackEntry, ...]:
        """The LoRAs that change anything."""
        return tuple(row for row in self.rows if row[1] != 0 or row[2] != 0)


@dataclass(frozen=True, eq=False)
class Cell:
    """index: its number in reading order, from 0, None for one that others are only compared with; at: its place on each axis.

    base: the number of what it is compared with in ``Plan.cells``, None for nothing.
    """

    settings: Settings
    index: int | None
    at: tuple[int, ...] = ()
    base: int | None = None


@dataclass(frozen=True)
class Plan:
    """axes: x first. cells: in reading order, x innermost; behind them those that are only compared with. order: the numbers of all
    cells as they are drawn."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    order: tuple[int, ...]

    @property
    def shown(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.index is not None)

    def labels(self, cell: Cell) -> list[str]:
        return [axis.labels[place] for axis, place in zip(self.axes, cell.at, strict=True)]


def plan(
    plain: Settings, found: Sequence[Axis], layout: Layout | None, compare: str = STRENGTH_ZERO, chosen: int = 1
) -> Plan:
    """The cells of a sweep. plain: the settings without any axis; layout: the blocks of the model, for axes of blocks; chosen: the
    number (from 1) of the cell that all are compared with, where ``compare`` is "cell".

    Raises StrataError for too many cells, and for a value that the settings cannot take.
    """
    counts = [len(axis.values) for axis in found]
    total = 1
    for count in counts:
        total *= count
    if total > MAX_CELLS:
        sizes = " x ".join(map(str, counts))
        raise StrataError(f"{sizes} are {total} cells; the most are {MAX_CELLS}. Use fewer values.")
    _refuse_doubles(found)
    places = [place[::-1] for place in product(*map(range, reversed(counts)))]
    cells = [Cell(_at(plain, found, place, layout), index, place) for index, place in enumerate(places)]
    if compare == CELL:
        if not 1 <= chosen <= total:
            raise StrataError(f"compare_cell is {chosen}: this sweep has the cells 1 to {total}.")
        cells = [replace(cell, base=chosen - 1) for cell in cells]
    elif compare != NOTHING:
        cells = _compared(cells, plain, found, layout, compare)
    return Plan(tuple(found), tuple(cells), _order(cells))


def _refuse_doubles(found: Sequence[Axis]) -> None:
    """Two axes that set the same thing: the second would hide the first."""
    taken: dict[tuple, str] = {}
    for letter, axis in zip("xyz", found, strict=False):
        for about in _set_by(axis):
            if about in taken:
                raise StrataError(f"The axes {taken[about]} and {letter} both set the {axis.name}. Choose another one.")
            taken[about] = letter


def overlaps(found: Sequence[Axis], layout: Layout | None) -> list[str]:
    """Where an axis of a block's weight sets blocks that an axis before it sets too, in words: the later one decides there. Leaving a
    block out, or all but one, is meant to."""
    told = []
    numbered = [(letter, axis) for letter, axis in zip("xyz", found, strict=False) if layout is not None]
    for at, (letter, axis) in enumerate(numbered):
        for other_letter, other in numbered[at + 1 :]:
            if axis.kind not in _OF_BLOCKS or other.kind != axes.WEIGHT or not set(axis.rows) & set(other.rows):
                continue
            shared = _shared(axis, parse_selector(other.block), layout)
            if shared:
                shown = ", ".join(shared[:6]) + (f" and {len(shared) - 6} more" if len(shared) > 6 else "")
                told.append(
                    f"The axes {letter} ({axis.name}) and {other_letter} ({other.name}) both set {shown}: there "
                    f"{other_letter} decides"
                )
    return told


_OF_BLOCKS = (axes.WITHOUT, axes.ONLY, axes.WEIGHT)


def _shared(axis: Axis, other: Selector, layout: Layout) -> list[str]:
    """The blocks of a selector that an axis sets in any of its cells; one that leaves only some sets all of them."""
    if axis.kind == axes.ONLY:
        return _names(other, layout)
    selectors = [parse_selector(text) for text in ((axis.block,) if axis.kind == axes.WEIGHT else axis.values)]
    of_other = _names(other, layout)
    together = {
        name
        for one in selectors
        if not _other_parts(one, other)
        for name in _names(one, layout)
        if name in set(of_other)
    }
    return [name for name in of_other if name in together]


def _names(selector: Selector, layout: Layout) -> list[str]:
    if selector.kind == "other":
        return ["OTHER"]
    if selector.kind == "te":
        return [f"TE:{name}" for name in layout.encoders if selector.name in ("", name)]
    return [block.name for block in selector.blocks(layout)]


def _other_parts(one: Selector, other: Selector) -> bool:
    """Whether two selectors mean different parts of whatever block: D*.attn and D*.mlp."""
    if None not in (one.sub, other.sub) and one.sub != other.sub:
        return True
    for kinds in (STREAMS, set(FILTERS) - set(STREAMS)):
        mine, theirs = set(one.filters) & set(kinds), set(other.filters) & set(kinds)
        if mine and theirs and not mine & theirs:
            return True
    return False


def _set_by(axis: Axis) -> list[tuple]:
    """What an axis sets. Leaving a block out, and replacing words, can be done twice."""
    if axis.kind in (axes.WITHOUT, axes.PROMPT):
        return []
    if axis.kind in axes.STRENGTHS:
        model, clip = axes.STRENGTHS[1:]
        kinds = (model, clip) if axis.kind == axes.STRENGTHS[0] else (axis.kind,)
        return [(kind, row) for kind in kinds for row in axis.rows]
    return [(axis.kind, row, axis.block) for row in axis.rows or (None,)]


def _at(plain: Settings, found: Sequence[Axis], place: Sequence[int], layout: Layout | None) -> Settings:
    settings = plain
    # Another file comes first: the strengths and blocks of the others are for it.
    for axis, number in sorted(zip(found, place, strict=True), key=lambda pair: pair[0].kind != axes.LORA):
        settings = changed(settings, axis, axis.values[number], layout)
    return settings


def _compared(
    cells: list[Cell], plain: Settings, found: Sequence[Axis], layout: Layout | None, compare: str
) -> list[Cell]:
    """The cells, each with what it is compared with, and these behind them where no cell is that already."""
    touched = tuple(dict.fromkeys(row for axis in found for row in axis.rows)) or tuple(range(len(plain.rows)))
    known = {key(cell.settings): number for number, cell in reversed(list(enumerate(cells)))}
    compared, bases = [], []
    for cell in cells:
        if compare == STRENGTH_ZERO:
            settings = _without(cell.settings, touched)
        else:
            others = [(axis, number) for axis, number in zip(found, cell.at, strict=True) if not axis.rows]
            settings = _at(plain, [axis for axis, _ in others], [number for _, number in others], layout)
        number = known.get(key(settings))
        if number is None:
            number = known[key(settings)] = len(cells) + len(bases)
            bases.append(Cell(settings, None))
        compared.append(replace(cell, base=number))
    return [*compared, *bases]


def _without(settings: Settings, rows: Sequence[int]) -> Settings:
    kept = [_with(row, strengths=(0.0, 0.0)) if at in rows else row for at, row in enumerate(settings.rows)]
    return replace(settings, rows=tuple(kept))


def changed(settings: Settings, axis: Axis, value, layout: Layout | None) -> Settings:
    """The settings with one value of an axis."""
    if axis.kind == axes.SEED:
        return replace(settings, seed=value)
    if axis.kind == axes.STEPS:
        return replace(settings, steps=value)
    if axis.kind == axes.CFG:
        return replace(settings, cfg=value)
    if axis.kind == axes.PROMPT:
        old, new = value
        if old not in settings.positive and old not in settings.negative:
            raise StrataError(f"'{old[:80]}' stands in neither prompt, so that nothing can take its place.")
        replaced = {"positive": settings.positive.replace(old, new), "negative": settings.negative.replace(old, new)}
        return replace(settings, **replaced)
    rows = list(settings.rows)
    for at in axis.rows:
        rows[at] = _row(rows[at], axis, value, layout)
    return replace(settings, rows=tuple(rows))


def _row(row: StackEntry, axis: Axis, value, layout: Layout | None) -> StackEntry:
    name, model, clip = row
    if axis.kind in axes.STRENGTHS:
        by_model, by_clip = (model * value, clip * value) if axis.factor else (value, value)
        model = by_model if axis.kind != axes.STRENGTHS[2] else model
        clip = by_clip if axis.kind != axes.STRENGTHS[1] else clip
        return _with(row, strengths=(model, clip))
    if axis.kind == axes.LORA:
        return StackEntry(value, model, clip, row.block_weights, row.keyframes, None, row.mask)
    if axis.kind == axes.TIME:
        return StackEntry(name, model, clip, row.block_weights, value, row.lora, row.mask)
    if layout is None:
        raise StrataError("An axis of blocks needs a MODEL: connect one.")
    weights = BlockWeights() if row.block_weights is None else row.block_weights.read(layout)
    if axis.kind == axes.WEIGHT:
        weights = with_rule(weights, parse_selector(axis.block), value)
    elif axis.kind == axes.WITHOUT:
        weights = with_rule(weights, parse_selector(value), 0.0)
    else:
        weights = only(weights, parse_selector(value), layout, plain=row.block_weights is None)
    return StackEntry(name, model, clip, BlockSpec(format_weights(weights)), row.keyframes, row.lora, row.mask)


def _with(row: StackEntry, strengths: tuple[float, float]) -> StackEntry:
    return StackEntry(row[0], *strengths, row.block_weights, row.keyframes, row.lora, row.mask)


def with_rule(weights: BlockWeights, selector: Selector, value: float) -> BlockWeights:
    """The last rule that fits a weight decides."""
    return BlockWeights((*weights.rules, Rule(selector, value)), weights.default)


def only(weights: BlockWeights, selector: Selector, layout: Layout, plain: bool) -> BlockWeights:
    """The weights of the chosen blocks as they are, 0 for all else. plain: whether these are the weights of nobody's making, all 1.

    Raises StrataError for parts of blocks (D*.attn) beside weights of one's own: no rule says "all but these" of them.
    """
    if plain:
        return BlockWeights((Rule(Selector("te"), 0.0), Rule(Selector("other"), 0.0), Rule(selector, 1.0)), 0.0)
    if selector.filters or selector.sub is not None or selector.layer or selector.kind == "other":
        raise StrataError(
            f"only block {selector} asks for a part of a block, and this LoRA has block weights of its own. Choose whole blocks."
        )
    kept = {block.name for block in selector.blocks(layout)}
    if selector.kind == "te":
        rest = [Rule(Selector("te", name.lower()), 0.0) for name in layout.encoders if selector.name not in ("", name)]
    else:
        rest = [Rule(Selector("te"), 0.0)]
        rest += [Rule(Selector("te", name.lower()), 0.0) for name in layout.encoders]
    rest.append(Rule(Selector("other"), 0.0))
    for block in (*layout.blocks, *layout.aux):
        if block.name not in kept:
            rest.append(Rule(parse_selector(block.name), 0.0))
    return BlockWeights((*weights.rules, *rest), weights.default)


def key(settings: Settings) -> tuple:
    """Equal for settings that draw the same picture, within one run."""
    return (
        rows_key(settings.acting),
        settings.positive,
        settings.negative,
        settings.seed,
        settings.steps,
        settings.cfg,
    )


def rows_key(rows: Sequence[StackEntry]) -> tuple:
    """Equal for LoRAs that do the same to MODEL and CLIP. What only exists in memory is known by what it is."""
    return tuple(
        (*row, row.block_weights, _by_value(row.keyframes), _by_value(row.lora), _by_value(row.mask)) for row in rows
    )


def _by_value(what):
    return what if what is None or isinstance(what, str) else id(what)


def model_key(settings: Settings) -> tuple:
    """Equal for cells that sample the same patched model."""
    return tuple(
        (row[0], row[1], row.block_weights, _by_value(row.keyframes), _by_value(row.lora), _by_value(row.mask))
        for row in settings.acting
        if row[1] != 0
    )


def clip_key(settings: Settings) -> tuple:
    """Equal for cells whose prompts meet the same patched text encoders."""
    return tuple((row[0], row[2], row.block_weights, _by_value(row.lora)) for row in settings.acting if row[2] != 0)


def _order(cells: Sequence[Cell]) -> tuple[int, ...]:
    """Cells that others are compared with first, then by files, by patched models, by text encoders: each in the order in which it comes
    first, so that a model is patched, and a prompt encoded, as seldom as can be."""
    bases = {cell.base for cell in cells}
    first: dict[tuple, int] = {}

    def rank(*part) -> int:
        return first.setdefault(part, len(first))

    keys = []
    for number, cell in enumerate(cells):
        files = tuple(row[0] for row in cell.settings.acting)
        ranks = (rank("files", files), rank("model", model_key(cell.settings)), rank("clip", clip_key(cell.settings)))
        keys.append((number not in bases, *ranks, number))
    return tuple(number for *_, number in sorted(keys))
