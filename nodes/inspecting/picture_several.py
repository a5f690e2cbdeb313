"""The picture of several LoRAs together."""

from __future__ import annotations

from . import words
from .look import Several
from .picture_one import GAP, PAD, columns, heading, labels, paragraph
from .saying import Say, english
from .shapes import SERIES, Picture

CELL, BLOCKS, DRIFT = 46, 70, 90
MAX_BLOCKS = 400


def picture_of_several(found: Several, width: float, say: Say = english) -> Picture:
    """width: px that there are, at least 220."""
    picture = Picture(max(width, 220.0), say=say)
    count = len(found.loras)
    picture.said = say("{count} LoRAs: {sum}", count=count, sum=words.sum_of(found, say))
    y = _head(picture, found)
    y = _lengths(picture, found, y)
    y = _matrix(picture, found, y)
    y = _blocks(picture, found, y)
    for group in found.drift:
        y = _drift(picture, found, group, y)
    for note in found.notes:
        y = paragraph(picture, y, note, "warn", 11, 4)
    picture.height = y + PAD
    return picture


def _head(picture: Picture, found: Several) -> float:
    say, room = picture.say, picture.width - 2 * PAD
    picture.text(PAD, PAD + 16, say("{count} LoRAs together", count=len(found.loras)), "text", 18, room=room)
    ratio, factor = found.whole.ratio, words.restores(found)
    told = say("{ratio} x as strong as the strongest alone", ratio=f"{ratio:.3g}")
    told = told if ratio else say("together they change nothing")
    y = paragraph(picture, PAD + 25, told, "text" if factor is None else "warn", 13, 2) + 6
    if factor is not None:
        act, text = {"do": "scale", "factor": factor}, say("x {factor} restores it", factor=f"{factor:g}")
        hint = say("Click: multiplies the strengths of all these LoRAs by {factor}", factor=f"{factor:g}")
        wide = min(room, 150)
        picture.rect(PAD, y, wide, 26, "panel", radius=6, hover=hint, act=act)
        picture.text(PAD + wide / 2, y + 17, text, "accent", 12, "middle", hover=hint, act=act)
        y += 34
    return y


def _colour(at: int) -> str:
    return f"series{at % SERIES}"


def _lengths(picture: Picture, found: Several, y: float) -> float:
    """A bar for each at its strength, and one for all of them."""
    say = picture.say
    y = heading(picture, y, say("Size of the change, at these strengths"))
    norms, total = found.whole.norms.tolist(), found.whole.norm
    most = max(*norms, total) or 1.0
    room = picture.width - 2 * PAD
    for at, (one, norm) in enumerate(zip(found.loras, norms, strict=True)):
        hover = f"{one.name} {words.strengths(one, say)}: {words.size(norm)}"
        picture.text(PAD, y + 11, one.short, "text", 12, room=room - 96, ends=True, hover=hover)
        picture.text(PAD + room, y + 11, f"x {one.strength_model:g}", "dim", 11, "end", hover=hover)
        picture.rect(PAD, y + 16, room, 7, "panel", radius=3, hover=hover)
        picture.rect(PAD, y + 16, max(room * norm / most, 1.0 if norm else 0.0), 7, _colour(at), radius=3, hover=hover)
        y += 32
    hover = say("All together: {size}", size=words.size(total))
    picture.text(PAD, y + 11, say("all together"), "dim", 12)
    picture.rect(PAD, y + 16, room, 7, "panel", radius=3, hover=hover)
    picture.rect(PAD, y + 16, room * total / most, 7, "text", radius=3, hover=hover)
    return y + 36


def _matrix(picture: Picture, found: Several, y: float) -> float:
    """Cosines of all pairs."""
    count = len(found.loras)
    say = picture.say
    y = heading(picture, y, say("Cosine of each pair: 1 the same, 0 nothing in common, -1 opposites"))
    cosines = found.whole.cosines
    name_room = min(140.0, (picture.width - 2 * PAD) * 0.4)
    each = min(CELL, (picture.width - 2 * PAD - name_room) / max(1, count - 1))
    for i in range(1, count):
        picture.rect(PAD, y + 5, 8, 8, _colour(i), radius=2)
        picture.text(PAD + 13, y + 14, found.loras[i].short, "text", 11, room=name_room - 18, ends=True)
        for j in range(i):
            x, value, hover = PAD + name_room + j * each, float(cosines[i, j]), words.pair(found, i, j, say)
            role = "panel" if value != value or abs(value) < 0.15 else "reinforce" if value > 0 else "cancel"
            picture.rect(x + 1, y + 1, each - 2, 18, role, radius=3, hover=hover)
            if each >= 26:
                shown = "-" if value != value else f"{value:.2f}".replace("-0.00", "0.00")
                on = "text" if role == "panel" else "back"
                picture.text(x + each / 2, y + 14, shown, on, 11, "middle", hover=hover)
        y += 20
    for j in range(count - 1):
        x = PAD + name_room + j * each + each / 2
        picture.rect(x - 4, y + 4, 8, 8, _colour(j), radius=2, hover=found.loras[j].name)
    return y + 22


def _blocks(picture: Picture, found: Several, y: float) -> float:
    """Energy of the sum in each block against that of its parts: above the line they reinforce each other, below they cancel."""
    names = [name for name, block in found.blocks.items() if block.kind != "alone"][:MAX_BLOCKS]
    if not names:
        return y
    say = picture.say
    y = heading(picture, y, say("Block by block: up they reinforce each other, down they cancel; amber: they collide"))
    bar, places = columns(picture, names)
    values = {name: max(-1.0, min(1.0, found.blocks[name].interference - 1)) for name in names}
    up, down = max(0.1, *values.values()), max(0.1, *(-value for value in values.values()))
    scale = BLOCKS / (up + down)
    middle = y + up * scale
    for name in names:
        block, value = found.blocks[name], values[name]
        energy = block.norm**2 / found.whole.norm**2 if found.whole.norm else 0.0
        text = "{name}: {kind}; {ratio} x the energy of independent ones; {share} of the whole"
        told = {
            "kind": words.they(block.kind, say),
            "ratio": f"{block.interference:.2f}",
            "share": words.percent(energy),
        }
        hover = say(text, name=name, **told)
        tall = max(abs(value) * scale, 1.5)
        picture.rect(places[name], y, bar, BLOCKS, "none", hover=hover)
        picture.rect(places[name], middle - tall if value > 0 else middle, bar, tall, block.kind, radius=1, hover=hover)
    picture.line([(PAD, middle), (picture.width - PAD, middle)], "faint")
    labels(picture, places, bar, y + BLOCKS + 14)
    return y + BLOCKS + 26


def _drift(picture: Picture, found: Several, group: tuple[int, ...], y: float) -> float:
    """Epochs of one training: how near each is to the last one, and how large it is."""
    say = picture.say
    y = heading(picture, y, say("Epochs of one training: cosine with the last (line), size (bars)"))
    last, norms = group[-1], found.whole.norms
    left, right = PAD + 34, picture.width - PAD
    step = (right - left) / len(group)
    most = max(float(norms[at]) for at in group) or 1.0
    points = []
    for place, at in enumerate(group):
        x, cosine = left + (place + 0.5) * step, float(found.whole.cosines[at, last])
        told = {"cosine": f"{cosine:.3f}", "size": words.size(float(norms[at]))}
        hover = say("{name}: cosine with the last {cosine}, size {size}", name=found.loras[at].name, **told)
        tall = DRIFT * float(norms[at]) / most
        picture.rect(x - step * 0.3, y + DRIFT - tall, step * 0.6, tall, "faint", radius=1, hover=hover)
        if cosine == cosine:
            points.append((x, y + DRIFT * (1 - max(cosine, 0.0)), hover))
    picture.text(left - 6, y + 8, "1", "dim", 10, "end")
    picture.text(left - 6, y + DRIFT, "0", "dim", 10, "end")
    if len(points) > 1:
        picture.line([(x, at) for x, at, _ in points], "accent", 2)
    for x, at, hover in points:
        picture.rect(x - 3, at - 3, 6, 6, "accent", radius=3, hover=hover)
    return y + DRIFT + GAP + 6
