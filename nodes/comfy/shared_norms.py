"""What adapters have to know of several weights together: DoRA's norms over q, k and v, of which this model has each apart."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from ...lora_math.adapters import Adapter
from .live_layers import current
from .targets import Key, taken_apart

Group = Sequence[tuple[Key, Adapter]]

_known: WeakKeyDictionary[Adapter, tuple[object, Adapter]] = WeakKeyDictionary()


def completed(model, groups: Sequence[Group]) -> dict[Adapter, Adapter]:
    """An adapter that awaits something -> the adapter that knows it, for the weights as a MODEL's or CLIP's patches leave them.

    Read once for a model with these patches: a moved slider finds it done.
    """
    patcher = getattr(model, "patcher", model)
    found: dict[Adapter, Adapter] = {}
    for group in groups:
        for (_, adapter), ready in zip(group, _completed(patcher, group), strict=True):
            found[adapter] = ready
    return found


def _completed(patcher, group: Group) -> list[Adapter]:
    known = [_known.get(adapter) for _, adapter in group]
    if all(one is not None and one[0] == patcher.patches_uuid for one in known):
        return [one[1] for one in known]
    columns = [adapter.columns(_weight(patcher, key)) for key, adapter in group]
    ready = []
    for at, (_, adapter) in enumerate(group):
        others = columns[:at] + columns[at + 1 :]
        ready.append(adapter.knowing(sum(others) if others else columns[at] * 0))
        _known[adapter] = patcher.patches_uuid, ready[-1]
    return ready


def _weight(patcher, key: Key):
    name, part, rows = taken_apart(key)
    weight = current(patcher, name, patcher.load_device)
    weight = weight if part is None else weight.narrow(*part)
    return weight if rows is None else rows(weight)
