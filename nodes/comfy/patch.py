"""Our adapters as ComfyUI weight patches.

ComfyUI rebuilds a patch as ``type(p)(p.loaded_keys, moved(p.weights))`` whenever it prefetches weights, so everything a patch knows lies
in ``weights``, as nested tuples of tensors, numbers and strings, and nothing is ever written to it.
"""

from __future__ import annotations

from collections.abc import Iterable

import comfy.model_management
import torch
from comfy.weight_adapter.base import WeightAdapterBase

from ...lora_math.adapters import Adapter, from_record


class StrataPatch(WeightAdapterBase):
    """One or more adapters on one weight. ``weights`` is ((coefficient, adapter record), ...), applied in that order."""

    name = "strata"

    def __init__(self, loaded_keys, weights):
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def of(cls, terms: Iterable[tuple[float, Adapter]]) -> StrataPatch:
        return cls(set(), tuple((coefficient, adapter.record()) for coefficient, adapter in terms))

    def calculate_shape(self, key):
        shapes = [from_record(record).shape_after for _, record in self.weights]
        return next((shape for shape in reversed(shapes) if shape is not None), None)

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset,
        function,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight=None,
    ) -> torch.Tensor:
        # In place: with an offset, ``weight`` is a view into the fused weight and what is returned gets dropped.
        rows = None if getattr(function, "__name__", "") == "<lambda>" else function
        for coefficient, record in self.weights:
            if strength * coefficient != 0:
                adapter = from_record(record).map_tensors(
                    lambda t: comfy.model_management.cast_to_device(t, weight.device, t.dtype)  # noqa: B023
                )
                weight = adapter.apply_(weight, strength * coefficient, intermediate_dtype, rows)
        return weight
