"""How far two pictures are from each other, in numbers and as a map, and where a curve of such numbers bends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

# Wang et al. (2004), "Image quality assessment: from error visibility to structural similarity".
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
# ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
# From nothing to the largest difference: dark to light, told apart without colours too.
_HEAT = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))


@dataclass(frozen=True)
class Difference:
    """Between two pictures whose colours go from 0 to 1. rms, mean: root mean square and mean of the absolute difference of a colour;
    similarity: SSIM of the luma, 1 for the same picture; most: the largest value of ``difference_map``."""

    rms: float
    mean: float
    similarity: float
    most: float


def difference(one: NDArray[numpy.uint8], other: NDArray[numpy.uint8]) -> Difference:
    """Of two pictures [count, height, width, 3] of 8 bits. Raises ValueError where their sizes differ."""
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} is not {other.shape}")
    a, b = (torch.from_numpy(picture.astype(numpy.float32) / 255) for picture in (one, other))
    apart = (a - b).double()
    most = float(apart.abs().mean(dim=-1).amax())
    return Difference(float(apart.square().mean().sqrt()), float(apart.abs().mean()), ssim(a, b), most)


def difference_map(one: NDArray[numpy.uint8], other: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """[count, height, width]: the mean absolute difference of the three colours of each pixel, from 0 to 1."""
    return numpy.abs(one.astype(numpy.float32) - other.astype(numpy.float32)).mean(axis=-1) / 255


def heat(values: NDArray[numpy.float32], scale: float) -> NDArray[numpy.uint8]:
    """[..., 3]: colours for values from 0 to ``scale``, the same scale for all maps that are to be compared."""
    place = numpy.clip(values / scale if scale > 0 else numpy.zeros_like(values), 0, 1) * (len(_HEAT) - 1)
    low = numpy.minimum(place.astype(numpy.int64), len(_HEAT) - 2)
    colours = numpy.asarray(_HEAT, dtype=numpy.float32)
    share = (place - low)[..., None]
    return numpy.rint(colours[low] * (1 - share) + colours[low + 1] * share).astype(numpy.uint8)


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of two pictures [count, height, width, 3], of their luma, in Gaussian windows that lie wholly inside."""
    weights = torch.tensor(LUMA, dtype=torch.float64)
    x, y = ((picture.double() @ weights)[:, None] for picture in (a, b))
    size = min(WINDOW, *x.shape[-2:])
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(at**2) / (2 * SIGMA**2))
    line /= line.sum()

    def blurred(picture: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(picture, line[None, None, :, None])
        return torch.nn.functional.conv2d(rows, line[None, None, None, :])

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    cov = blurred(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    alike = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float((alike / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def knee(places: Sequence[float], values: Sequence[float]) -> int | None:
    """Where a rising curve begins to flatten: the point furthest above the straight line from its first to its last point, both axes
    made to go from 0 to 1 (Satopaa et al. 2011, "Finding a kneedle in a haystack"). places: ascending.

    None for fewer than four points, a curve that does not rise, and one that lies nowhere clearly above that line: it has no knee.
    """
    if len(places) < 4 or places[-1] <= places[0] or values[-1] - values[0] <= 1e-9:
        return None
    heights = [
        (value - values[0]) / (values[-1] - values[0]) - (place - places[0]) / (places[-1] - places[0])
        for place, value in zip(places, values, strict=True)
    ]
    best = max(range(len(heights)), key=heights.__getitem__)
    return best if heights[best] > 0.05 else None
