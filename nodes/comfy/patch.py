"""Our adapters as ComfyUI weight patches.

ComfyUI rebuilds a patch as ``type(p)(p.loaded_keys, moved(p.weights))`` whenever it prefetches weights, so everything a patch
knows lies in ``weights``, as nested tuples of tensors, numbers and strings, and nothing is ever written to it.
"""

from __future__ import annotations

from collections.abc import Iterable

import comfy.model_management
import torch
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...lora_math.adapters import Adapter, from_record


class StrataPatch(WeightAdapterBase):
    """Adapters on one weight, applied in order. ``weights`` is (moves rows, ((coefficient, adapter record), ...))."""

    name = "strata"

    def __init__(self, loaded_keys, weights):
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def of(cls, terms: Iterable[tuple[float, Adapter]], moves_rows: bool) -> StrataPatch:
        """terms: (coefficient, adapter). moves_rows: whether the target's key names a function that reorders the delta's rows."""
        records = tuple((float(coefficient), adapter.record()) for coefficient, adapter in terms if coefficient != 0)
        return cls(set(), (moves_rows, records))

    def calculate_shape(self, key):
        shapes = [from_record(record).shape_after for _, record in self.weights[1]]
        return next((shape for shape in reversed(shapes) if shape is not None), None)

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset,
        function,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight=None,
    ) -> Tensor:
        # In place: with an offset, ``weight`` is a view into the fused weight and what is returned gets dropped.
        moves_rows, terms = self.weights
        device = weight.device

        def moved(tensor: Tensor) -> Tensor:
            return comfy.model_management.cast_to_device(tensor, device, tensor.dtype)

        for coefficient, record in terms:
            if strength * coefficient != 0:
                adapter = from_record(record).map_tensors(moved)
                weight = adapter.apply_(
                    weight, strength * coefficient, intermediate_dtype, function if moves_rows else None
                )
        return weight
