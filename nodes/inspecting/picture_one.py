"""The picture of one LoRA."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...lora_math.inspecting.one import KEEP
from ...lora_math.reading.training_facts import trainer, training_facts
from ..report.lora import describe
from . import words
from .look import One
from .saying import Say, english
from .shapes import SERIES, Picture, printable, shortened, text_width

PAD, GAP = 16, 10
# As narrow that two stand side by side in the narrowest picture.
TILE_WIDTH, TILE_HEIGHT = 84, 52
# Px of height.
BARS, RANKS, CURVE = 84, 56, 84
LINE = 17
# Of one fact or one sentence, which are of bounded length themselves.
MAX_LINES = 12
MAX_FACTS, MAX_SPIKES, MAX_BLOCKS = 18, 4, 400


def picture_of(one: One, width: float, say: Say = english) -> Picture:
    """width: px that there are, at least 220."""
    picture = Picture(max(width, 220.0), say=say)
    whole = one.numbers.whole
    told = [describe(one.lora), words.kept(whole, say)]
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
    for line in wrapped(text, 11, picture.width - 2 * PAD, 4):
        picture.text(PAD, y + 12, line, "dim", 11, room=picture.width - 2 * PAD)
        y += 14
    return y + 6


def _head(picture: Picture, one: One) -> float:
    room = picture.width - 2 * PAD
    large = 18 if text_width(one.short, 18) <= room else 14
    y = PAD + 16
    for line in wrapped(printable(one.short), large, room, 4):
        picture.text(PAD, y, line, "text", large, room=room, ends=True, hover=one.name)
        y += LINE
    return paragraph(picture, y - 8, describe(one.lora), "dim", 12, 3) + 8


def wrapped(text: str, size: float, room: float, most: int) -> list[str]:
    """A text in at most so many lines; the last one takes what is left, and is cut where it is drawn. A word that is longer than a line,
    such as the name of a layer, goes on in the next one."""
    lines, line = [], ""
    for glue, piece in _pieces(text, size, room):
        more = f"{line}{glue if line else ''}{piece}"
        if line and text_width(more, size) > room and len(lines) < most - 1:
            lines.append(line)
            line = piece
        else:
            line = more
    return [*lines, line] if line else lines


def _pieces(text: str, size: float, room: float) -> Iterator[tuple[str, str]]:
    """(what stands before it, a part of a text that fits in a line)."""
    for word in text.split():
        glue = " "
        while text_width(word, size) > room and len(word) > 1:
            fits = len(shortened(word, size, room).removesuffix("...")) or 1
            # Names of layers and of files are read in parts.
            at = max(word.rfind(mark, 0, fits) for mark in "._/-") + 1
            at = at if at > fits // 2 else fits
            yield glue, word[:at]
            glue, word = "", word[at:]
        yield glue, word


def paragraph(
    picture: Picture, y: float, text: str, role: str, size: float, most: int, x=PAD, room=None, hover=""
) -> float:
    """A text in as many lines as it needs, at most so many. Gives where the next one goes."""
    room = picture.width - 2 * PAD if room is None else room
    for line in wrapped(printable(text), size, room, most):
        picture.text(x, y + 11, line, role, size, room=room, hover=hover or text)
        y += LINE
    return y


def _tiles(picture: Picture, one: One, y: float) -> float:
    found, say, tiles = one.numbers, picture.say, []
    whole = found.whole
    if whole.rank is not None:
        act = {"do": "save", "rank": whole.rank}
        hint = say("{kept} of the energy. Click: a Save LoRA node that keeps this rank", kept=words.kept(whole, say))
        tiles.append((say("rank {rank}", rank=whole.rank), say("keeps 99 %"), "accent", hint, act))
        hint = say("exp of the entropy of the energies")
        tiles.append((words.size(whole.effective), say("effective rank"), "text", hint, None))
    if whole.stored is not None:
        hint = say("The largest rank that a layer is stored with")
        tiles.append((str(whole.stored), say("stored rank"), "text", hint, None))
    if one.fits is not None:
        used, total = one.fits
        role = "text" if used == total else "bad"
        fits = say("{used} of {total}", used=used, total=total)
        tiles.append((fits, say("tensors fit"), role, say("Of those for what is connected or loaded"), None))
    tiles.append((words.size(whole.norm), say("size"), "text", say("Frobenius norm at strength 1, all layers"), None))
    spikes = len(found.spikes)
    hint = say("Layers whose energy is mostly in one direction, far larger than others': they may break in company")
    name = say("spike") if spikes == 1 else say("spikes")
    tiles.append((str(spikes), name, "warn" if spikes else "text", hint, None))
    if found.broken:
        hint = say("NaN, infinity or sizes that do not fit")
        tiles.append((str(found.broken), say("broken layers"), "bad", hint, None))
    elif found.dead:
        tiles.append((str(found.dead), say("dead layers"), "dim", say("All zero"), None))
    most = max(1, int((picture.width - 2 * PAD + GAP) / (_tile_width(tiles) + GAP)))
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


def _tile_width(tiles) -> float:
    """As wide as the longest text needs at its smallest."""
    return max([TILE_WIDTH, *(max(text_width(tile[0], 13), text_width(tile[1], 9.5)) + 16 for tile in tiles)])


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
    say, parts, roles = picture.say, one.numbers.blocks, series_of(names)
    bar, places = columns(picture, names)
    hovers = {name: words.block(name, parts[name], one.relative.get(name), say) for name in names}
    most = max(parts[name].share for name in names)
    y = heading(picture, y, say("Where its energy lies (highest bar: {most})", most=words.percent(most)))
    y = _bars(picture, y, BARS, places, bar, {n: parts[n].share / most for n in names}, roles, hovers)
    changed = {name: one.relative[name] for name in names if one.relative.get(name)}
    if changed:
        top = max(changed.values())
        text = "How far it changes the model's weights (highest bar: {most})"
        y = heading(picture, y + 4, say(text, most=words.percent(top)))
        y = _bars(picture, y, BARS * 0.7, places, bar, {n: v / top for n, v in changed.items()}, roles, hovers)
    ranked = [name for name in names if parts[name].rank is not None]
    if ranked:
        most_rank = max(max(parts[n].rank, parts[n].stored or 0) for n in ranked)
        text = "Rank that keeps 99 % of each block, in front of the stored one (highest: {most})"
        y = heading(picture, y + 4, say(text, most=most_rank))
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
    say, whole = picture.say, one.numbers.whole
    y = heading(picture, y + 4, say("Energy that is kept when every layer is cut to a rank"))
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
    picture.rect(x - 3, top - 3, 6, 6, "accent", radius=3, hover=words.kept(whole, say))
    # Each answers the pointer half way to its neighbours.
    for at, rank in enumerate(ranks):
        before, after = ranks[max(at - 1, 0)], ranks[min(at + 1, len(ranks) - 1)]
        start, end = place((before + rank) / 2, 0)[0], place((rank + after) / 2, 0)[0]
        hover = say("rank {rank} keeps {share}", rank=rank, share=words.percent(kept[rank - 1]))
        picture.rect(start, y, end - start, CURVE, "none", hover=hover)
    y += CURVE + 14
    for rank in sorted({1, whole.rank, most}):
        anchor = "start" if rank == 1 else "end" if rank == most else "middle"
        far = rank in (1, most) or min(abs(place(rank, 0)[0] - edge) for edge in (left, right)) > 40
        if far:
            shown = say("rank {rank}", rank=rank) if rank == whole.rank else str(rank)
            picture.text(place(rank, 0)[0], y, shown, "dim", 10, anchor)
    return y + 12


def _standing_out(picture: Picture, one: One, y: float) -> float:
    found, say = one.numbers, picture.say
    lines = [("warn", words.spike(layer, say)) for layer in found.spikes[:MAX_SPIKES]]
    lines += [("dim", words.against(layer, ratio, say)) for layer, ratio in one.against[:2]]
    if found.little:
        text = "{little} of {all} layers together hold less than 1 % of the energy"
        lines.append(("dim", say(text, little=found.little, all=len(found.layers))))
    if found.unknown:
        text = "{count} layers without singular values: stored whole, too large, or of the weight"
        lines.append(("dim", say(text, count=found.unknown)))
    if not lines:
        return y
    y = heading(picture, y + 4, say("What stands out"))
    for role, text in lines:
        y = paragraph(picture, y, text, role, 12, MAX_LINES)
    return y + 4


def _facts(picture: Picture, one: One, y: float) -> float:
    facts = training_facts(one.lora.metadata)[:MAX_FACTS]
    made_by = trainer(one.lora.metadata)
    facts = [("trainer", made_by), *facts] if made_by else facts
    if one.lora.trigger_words:
        facts = [*facts, ("trigger words", ", ".join(one.lora.trigger_words[:12]))]
    if not facts:
        return y
    y = heading(picture, y + 4, picture.say("How it was trained, as the file says"))
    inner = picture.width - 2 * PAD
    each = inner if inner < 440 else (inner - GAP) / 2
    label = min(each * 0.42, 150)
    rows = len(facts) if each == inner else -(-len(facts) // 2)
    bottom = y
    for start in range(0, len(facts), rows):
        x, top = PAD + start // rows * (each + GAP), y
        for name, value in facts[start : start + rows]:
            ends = [paragraph(picture, top, picture.say(name), "dim", 12, 2, x, label - 8)]
            ends.append(paragraph(picture, top, value, "text", 12, MAX_LINES, x + label, each - label))
            top = max(ends)
        bottom = max(bottom, top)
    return bottom
