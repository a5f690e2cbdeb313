"""The strengths of a model's live LoRAs: all that may change during a sampling, in one small tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .adapters import Adapter
from .errors import StrataError


class Gain:
    """A place in a ``Gains``. values: [n], or [samples, n] where the samples of a batch differ; once that is complete."""

    values: Tensor


class Gains:
    """Every coefficient of a model's live terms in one float32 tensor: coefficient * strength of its group, and for a rank column of an
    adapter that varies * the number that this column has at the moment."""

    def __init__(self):
        self._gains: list[Gain] = []
        self._varying: list[Adapter] = []
        self._columns: list[int] = []
        self._groups: list[int] = []
        self._base: list[list[float]] = []
        self._values = torch.zeros(0)

    def add(
        self, values: Sequence[float], group: int | Sequence[int], varying: Iterable[tuple[range, Adapter]] = ()
    ) -> Gain:
        """A place for these coefficients. varying: (which of them are an adapter's rank columns, that adapter)."""
        gain = Gain()
        for columns, adapter in varying:
            self._varying.append(adapter)
            self._columns += [len(self._groups) + column for column in columns]
        self._gains.append(gain)
        self._base.append(list(values))
        self._groups += [group] * len(values) if isinstance(group, int) else group
        return gain

    def complete(self, device: torch.device) -> None:
        self._start = torch.tensor([value for values in self._base for value in values])
        self._group = torch.tensor(self._groups, dtype=torch.int64)
        self._lay_out(self._start.to(device, copy=True))

    def set(self, strengths: Tensor, timestep: float) -> None:
        """strengths: [groups], or [samples, groups] for the samples of a batch; timestep: as in ``Adapter.columns_at``."""
        values = self._start * strengths[..., self._group]
        if self._varying:
            values[..., self._columns] *= torch.cat([adapter.columns_at(timestep) for adapter in self._varying])
        if values.shape == self._values.shape:
            self._values.copy_(values)
        else:
            self._lay_out(values.to(self._values.device))

    def _lay_out(self, values: Tensor) -> None:
        self._values = values
        lengths = [len(base) for base in self._base]
        for gain, own in zip(self._gains, values.split(lengths, -1) if lengths else (), strict=True):
            gain.values = own


def spread(values: Tensor, batch: int) -> Tensor:
    """[samples, n] for a layer whose input has ``batch`` rows, each sample's rows one after the other: [batch, n]."""
    if batch % len(values):
        raise StrataError(
            "A LoRA has another strength on the negative prompt, on a layer that runs once for both prompts. Give both one strength."
        )
    return values if batch == len(values) else values.repeat_interleave(batch // len(values), 0)
