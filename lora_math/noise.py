"""How much noise each part of a sampling has, as ComfyUI counts its percents for each family as long as no node shifts them.

Flow models: sigma = s t / (1 + (s - 1) t) with the family's shift s, at t = 1 - percent (Esser et al. 2024). Stable Diffusion's UNets:
the scaled linear schedule of a thousand steps that they were trained with (Rombach et al. 2022), in which percents go along the steps.
"""

from __future__ import annotations

import math
from functools import lru_cache

from .families import FAMILIES, SCALED_LINEAR

STEPS = 1000
BETAS = 0.00085, 0.012
# Places at which it is told.
PLACES = 21


def noise_of(family: str | None) -> list[float] | None:
    """Sigma at 0 %, 5 %, ..., 100 %, falling to 0; None where nothing is known of the family."""
    kind = FAMILIES[family].noise if family in FAMILIES else None
    if kind is None:
        return None
    parts = [1 - at / (PLACES - 1) for at in range(PLACES)]
    if kind == SCALED_LINEAR:
        return [_of_step(part * (STEPS - 1)) if part else 0.0 for part in parts]
    return [float(kind) * part / (1 + (float(kind) - 1) * part) for part in parts]


def _of_step(step: float) -> float:
    """Between whole steps the logarithm goes straight."""
    low = min(int(step), STEPS - 2)
    first, second = (math.log(sigma) for sigma in _scaled_linear()[low : low + 2])
    return math.exp(first + (step - low) * (second - first))


@lru_cache(maxsize=1)
def _scaled_linear() -> tuple[float, ...]:
    kept, found = 1.0, []
    low, high = map(math.sqrt, BETAS)
    for step in range(STEPS):
        kept *= 1 - (low + (high - low) * step / (STEPS - 1)) ** 2
        found.append(math.sqrt((1 - kept) / kept))
    return tuple(found)
