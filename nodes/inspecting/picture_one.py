"""The picture of one LoRA."""

from __future__ import annotations

import re

from ...lora_math.inspecting.one import KEEP
from ...lora_math.reading.training_facts import trainer, training_facts
from ..report.lora import describe
from . import words
from .look import One
from .shapes import SERIES, Picture, text_width

PAD, GAP = 16, 10
# As narrow that two stand side by side in the narrowest picture.
TILE_WIDTH, TILE_HEIGHT = 84, 52
# Px of height.
BARS, RANKS, CURVE = 84, 56, 84
LINE = 17
MAX_FACTS, MAX_SPIKES, MAX_BLOCKS = 18, 4, 400


def picture_of(one: One, width: float) -> Picture:
    """width: px that there are, at least 220."""
    picture = Picture(max(width, 220.0))
    whole = one.numbers.whole
    told = [describe(one.lora), words.kept(whole)]
    picture.said = f"{one.short}: {'; '.join(filter(None, told))}"
    y = _head(picture, one)
    y = _tiles(picture, one, y)
    y = _blocks(picture, one, y)
    if len(whole.kept) > 1:
        y = _curve(picture, one, y)
    y = _standing_out(picture, one, y)
    y = _facts(picture, one, y)
    picture.height = y + PAD
    return picture


def heading(picture: Picture, y: float, text: str) -> float:
    for line in wrapped(text, 11, picture.width - 2 * PAD, 2):
        picture.text(PAD, y + 12, line, "dim", 11, room=picture.width - 2 * PAD)
        y += 14
    return y + 6


def _head(picture: Picture, one: One) -> float:
    room = picture.width - 2 * PAD
    picture.text(PAD, PAD + 16, one.short, "text", 18, room=room, hover=one.name)
    lines = wrapped(describe(one.lora), 12, room, 2)
    y = PAD + 36
    for line in lines:
        picture.text(PAD, y, line, "dim", 12)
        y += LINE
    return y - 4


def wrapped(text: str, size: float, room: float, most: int) -> list[str]:
    """A text in lines; the last one takes what is left, and is cut where it is drawn."""
    lines, line = [], ""
    for word in text.split():
        more = f"{line} {word}".strip()
        if line and text_width(more, size) > room and len(lines) < most - 1:
            lines.append(line)
            line = word
        else:
            line = more
    return [*lines, line] if line else lines


def _tiles(picture: Picture, one: One, y: float) -> float:
    found, tiles = one.numbers, []
    whole = found.whole
    if whole.rank is not None:
        act = {"do": "save", "rank": whole.rank}
        hint = "Click: a Save LoRA node that keeps this rank"
        tiles.append((f"rank {whole.rank}", "keeps 99 %", "accent", f"{words.kept(whole)} of the energy. {hint}", act))
        tiles.append(
            (words.size(whole.effective), "effective rank", "text", "exp of the entropy of the energies", None)
        )
    if whole.stored is not None:
        tiles.append((str(whole.stored), "stored rank", "text", "The largest rank that a layer is stored with", None))
    if one.fits is not None:
        used, total = one.fits
        role = "text" if used == total else "bad"
        tiles.append((f"{used} of {total}", "tensors fit", role, "Of those for what is connected or loaded", None))
    tiles.append((words.size(whole.norm), "size", "text", "Frobenius norm at strength 1, all layers", None))
    spikes = len(found.spikes)
    hint = "Layers whose energy is mostly in one direction, far larger than others': they may break in company"
    tiles.append((str(spikes), "spike" if spikes == 1 else "spikes", "warn" if spikes else "text", hint, None))
    if found.broken or found.dead:
        name, count = ("broken layers", found.broken) if found.broken else ("dead layers", found.dead)
        role = "bad" if found.broken else "dim"
        tiles.append(
            (str(count), name, role, "NaN, infinity or sizes that do not fit" if found.broken else "All zero", None)
        )
    most = max(1, int((picture.width - 2 * PAD + GAP) / (TILE_WIDTH + GAP)))
    # Rows of about as many.
    columns = -(-len(tiles) // -(-len(tiles) // most))
    each = (picture.width - 2 * PAD - (columns - 1) * GAP) / columns
    for at, (value, label, role, hover, act) in enumerate(tiles):
        x, top = PAD + (at % columns) * (each + GAP), y + (at // columns) * (TILE_HEIGHT + GAP)
        picture.rect(x, top, each, TILE_HEIGHT, "panel", radius=6, hover=hover, act=act)
        large = 18 if text_width(value, 18) <= each - 16 else 13
        picture.text(x + 10, top + 25, value, role, large, room=each - 16, hover=hover, act=act)
        small = 11 if text_width(label, 11) <= each - 16 else 9.5
        picture.text(x + 10, top + 43, label, "dim", small, room=each - 16, hover=hover, act=act)
    return y + -(-len(tiles) // columns) * (TILE_HEIGHT + GAP) + 4


def series_of(names) -> dict[str, str]:
    """Block -> a colour for each group: IN04 and IN05 have the same."""
    groups: dict[str, str] = {}
    found = {}
    for name in names:
        letters = "TE" if name.startswith("TE") else re.match(r"[^0-9]*", name)[0]
        found[name] = groups.setdefault(letters, f"series{len(groups) % SERIES}")
    return found


def columns(picture: Picture, names) -> tuple[float, dict[str, float]]:
    """(px of a bar, block -> its left edge)."""
    room = picture.width - 2 * PAD
    step = room / max(1, len(names))
    bar = min(max(step - max(1.0, step * 0.2), 1.0), 48.0)
    return bar, {name: PAD + at * step + (step - bar) / 2 for at, name in enumerate(names)}


def labels(picture: Picture, places: dict[str, float], bar: float, y: float) -> None:
    """As many names as have room."""
    free = 0.0
    for name, x in places.items():
        shown = name.removeprefix("TE:")
        half = text_width(shown, 10) / 2
        middle = min(max(x + bar / 2, PAD + half), picture.width - PAD - half)
        if middle - half >= free:
            picture.text(middle, y, shown, "dim", 10, "middle")
            free = middle + half + 6


def _blocks(picture: Picture, one: One, y: float) -> float:
    names = [name for name in one.order if one.numbers.blocks[name].energy > 0][:MAX_BLOCKS]
    if not names:
        return y
    parts, roles = one.numbers.blocks, series_of(names)
    bar, places = columns(picture, names)
    hovers = {name: words.block(name, parts[name], one.relative.get(name)) for name in names}
    most = max(parts[name].share for name in names)
    y = heading(picture, y, f"Where its energy lies (highest bar: {words.percent(most)})")
    y = _bars(picture, y, BARS, places, bar, {n: parts[n].share / most for n in names}, roles, hovers)
    changed = {name: one.relative[name] for name in names if one.relative.get(name)}
    if changed:
        top = max(changed.values())
        y = heading(picture, y + 4, f"How far it changes the model's weights (highest bar: {words.percent(top)})")
        y = _bars(picture, y, BARS * 0.7, places, bar, {n: v / top for n, v in changed.items()}, roles, hovers)
    ranked = [name for name in names if parts[name].rank is not None]
    if ranked:
        most_rank = max(max(parts[n].rank, parts[n].stored or 0) for n in ranked)
        y = heading(
            picture, y + 4, f"Rank that keeps 99 % of each block, in front of the stored one (highest: {most_rank})"
        )
        for name in ranked:
            stored, needed = (RANKS * (n or 0) / most_rank for n in (parts[name].stored, parts[name].rank))
            picture.rect(places[name], y + RANKS - stored, bar, stored, "faint", radius=1, hover=hovers[name])
            picture.rect(places[name], y + RANKS - needed, bar, needed, roles[name], radius=1, hover=hovers[name])
        picture.line([(PAD, y + RANKS + 0.5), (picture.width - PAD, y + RANKS + 0.5)], "faint")
        y += RANKS
    labels(picture, places, bar, y + 14)
    return y + 26


def _bars(picture: Picture, y, height, places, bar, values, roles, hovers) -> float:
    for name, value in values.items():
        tall = max(height * value, 1.0)
        # The whole column answers the pointer.
        picture.rect(places[name], y, bar, height, "none", hover=hovers[name])
        picture.rect(places[name], y + height - tall, bar, tall, roles[name], radius=1, hover=hovers[name])
    picture.line([(PAD, y + height + 0.5), (picture.width - PAD, y + height + 0.5)], "faint")
    return y + height + 4


def _curve(picture: Picture, one: One, y: float) -> float:
    whole = one.numbers.whole
    y = heading(picture, y + 4, "Energy that is kept when every layer is cut to a rank")
    left, right = PAD + 34, picture.width - PAD
    most = len(whole.kept)

    def place(rank: float, share: float) -> tuple[float, float]:
        return left + (right - left) * (rank - 1) / max(1, most - 1), y + CURVE * (1 - share)

    for share in (0.0, 0.5, 1.0):
        picture.line([place(1, share), place(most, share)], "faint")
        picture.text(left - 6, place(1, share)[1] + 4, f"{share:.0%}", "dim", 10, "end")
    kept = whole.kept.tolist()
    step = max(1, most // 200)
    ranks = sorted({*range(1, most + 1, step), whole.rank, most})
    picture.line([place(rank, kept[rank - 1]) for rank in ranks], "accent", 2)
    x, top = place(whole.rank, KEEP)
    picture.line([(x, y + CURVE), (x, top)], "accent", 1)
    picture.rect(x - 3, top - 3, 6, 6, "accent", radius=3, hover=words.kept(whole))
    # Each answers the pointer half way to its neighbours.
    for at, rank in enumerate(ranks):
        before, after = ranks[max(at - 1, 0)], ranks[min(at + 1, len(ranks) - 1)]
        start, end = place((before + rank) / 2, 0)[0], place((rank + after) / 2, 0)[0]
        picture.rect(start, y, end - start, CURVE, "none", hover=f"rank {rank} keeps {words.percent(kept[rank - 1])}")
    y += CURVE + 14
    for rank in sorted({1, whole.rank, most}):
        anchor = "start" if rank == 1 else "end" if rank == most else "middle"
        far = rank in (1, most) or min(abs(place(rank, 0)[0] - edge) for edge in (left, right)) > 40
        if far:
            picture.text(place(rank, 0)[0], y, f"rank {rank}" if rank == whole.rank else str(rank), "dim", 10, anchor)
    return y + 12


def _standing_out(picture: Picture, one: One, y: float) -> float:
    found = one.numbers
    lines = [("warn", words.spike(layer)) for layer in found.spikes[:MAX_SPIKES]]
    lines += [("dim", words.against(layer, ratio)) for layer, ratio in one.against[:2]]
    if found.little:
        lines.append(("dim", f"{found.little} of {len(found.layers)} layers together hold less than 1 % of the energy"))
    if found.unknown:
        lines.append(
            ("dim", f"{found.unknown} layers without singular values: stored whole, too large, or of the weight")
        )
    if not lines:
        return y
    y = heading(picture, y + 4, "What stands out")
    for role, text in lines:
        picture.text(PAD, y + 11, text, role, 12, room=picture.width - 2 * PAD)
        y += LINE
    return y + 4


def _facts(picture: Picture, one: One, y: float) -> float:
    facts = training_facts(one.lora.metadata)[:MAX_FACTS]
    made_by = trainer(one.lora.metadata)
    facts = [("trainer", made_by), *facts] if made_by else facts
    if one.lora.trigger_words:
        facts = [*facts, ("trigger words", ", ".join(one.lora.trigger_words[:12]))]
    if not facts:
        return y
    y = heading(picture, y + 4, "How it was trained, as the file says")
    inner = picture.width - 2 * PAD
    each = inner if inner < 440 else (inner - GAP) / 2
    label = min(each * 0.42, 150)
    rows = len(facts) if each == inner else -(-len(facts) // 2)
    for at, (name, value) in enumerate(facts):
        x, top = PAD + (at // rows) * (each + GAP), y + (at % rows) * LINE
        picture.text(x, top + 11, name, "dim", 12, room=label - 8)
        picture.text(x + label, top + 11, value, "text", 12, room=each - label)
    return y + rows * LINE
