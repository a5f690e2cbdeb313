"""What of a LoRA is where, counted once for what is connected: no strength changes it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary, ref

from ...lora_math.reading.state_dict import Entry
from ..comfy.library import Lora
from ..fitting.fit import count, text_encoder_of
from ..fitting.side import Side

T = TypeVar("T")
_lock = threading.Lock()
# A LoRA -> a function -> (what it was asked for, what it found).
_known: WeakKeyDictionary[Lora, dict[Callable, tuple[tuple, object]]] = WeakKeyDictionary()


def once(function: Callable[[Lora, Side, Side], T]) -> Callable[[Lora, Side, Side], T]:
    """Of a function of a LoRA, the model and the text encoders that looks at no strength: what it found last for each LoRA is kept."""

    @wraps(function)
    def found(lora: Lora, model: Side, clip: Side) -> T:
        # What a fit holds of a model is not kept longer than the model.
        on = (ref(model.fit), ref(clip.fit), model.targets is None, clip.targets is None)
        with _lock:
            before, answer = _known.setdefault(lora, {}).get(function, (None, None))
        if before != on:
            answer = function(lora, model, clip)
            with _lock:
                _known[lora][function] = on, answer
        return answer

    return found


def pieces(lora: Lora, side: Side) -> list[Entry]:
    """What fits, less what is damaged."""
    if not lora.broken:
        return [entry for _, entry in side.fit.pieces]
    return [entry for _, entry in side.fit.pieces if not lora.broken.intersection(entry.keys)]


@once
def used(lora: Lora, model: Side, clip: Side) -> int:
    """Tensors that are applied."""
    return count({entry for side in (model, clip) for entry in pieces(lora, side)})


@once
def _can_act(lora: Lora, model: Side, clip: Side) -> dict[tuple[bool, bool], int]:
    """(whether the model's strength is anything, whether the text encoders' is) -> tensors that change something then."""
    of_model, of_clip = ({e for e in pieces(lora, side) if e not in lora.idle} for side in (model, clip))
    return {(True, True): count(of_model | of_clip), (True, False): count(of_model), (False, True): count(of_clip)}


def acting(lora: Lora, model: Side, clip: Side) -> int:
    """Tensors whose change is multiplied by something else than 0."""
    acts = model.acts(), clip.acts()
    if None not in acts:
        return _can_act(lora, model, clip).get(acts, 0)
    unique = {
        entry
        for side in (model, clip)
        for target, entry in side.fit.pieces
        if not (lora.broken and lora.broken.intersection(entry.keys))
        and side.coefficient(target.key) != 0
        and entry not in lora.idle
    }
    return count(unique)


@once
def reachable(lora: Lora, model: Side, clip: Side) -> int:
    """Tensors for whatever is connected, plus those that nothing understands."""
    connected = {True: clip.targets is not None, False: model.targets is not None}
    return count(e for e in lora.contents.entries if connected[e.is_text_encoder]) + len(lora.contents.leftovers)


@once
def strangers(lora: Lora, model: Side, clip: Side) -> list[Entry]:
    """Entries that name nothing in what is connected, though the part they are for is connected."""
    known = {entry for side in (model, clip) for _, entry in side.fit.pieces}
    known |= {entry for side in (model, clip) for entry, _ in side.fit.refused}
    known |= {entry for side in (model, clip) for entry in side.fit.repeated}
    connected = {True: clip.targets is not None, False: model.targets is not None}
    # An optional entry without a counterpart lacks nothing: PEFT's IA3 changes a bias where there is one.
    return [e for e in lora.contents.entries if e not in known and connected[e.is_text_encoder] and not e.optional]


@once
def for_model(lora: Lora, model: Side, clip: Side) -> tuple[int, int]:
    """(tensors for a diffusion model that are applied, all of them in the file)."""
    return count(pieces(lora, model)), count(e for e in lora.contents.entries if not e.is_text_encoder)


@once
def by_encoder(lora: Lora, model: Side, clip: Side) -> Sequence[tuple[str, int]]:
    """(text encoder, tensors that are applied to it), by name."""
    encoders: dict[str, list[Entry]] = defaultdict(list)
    fine = set(pieces(lora, clip))
    for target, entry in clip.fit.pieces:
        if entry in fine:
            encoders[text_encoder_of(target)].append(entry)
    return [(name, count(entries)) for name, entries in sorted(encoders.items())]


@once
def for_encoders(lora: Lora, model: Side, clip: Side) -> int:
    """Tensors for text encoders in the file."""
    return count(e for e in lora.contents.entries if e.is_text_encoder)
