"""TC-LoRA as DiffSynth-Studio trains it for FLUX (``utils/lora/flux_timestep.py``): a LoRA whose rank columns follow the timestep.

f'(x) = f(x) + scale * up ((down x) * gamma(t) + beta(t)), gamma(t) = G e(t) + g, beta(t) = B e(t) + b, and e(t) the sinusoids of the
timestep, cosines first, as diffusion models have them (Ho et al. 2020, arXiv 2006.11239; Perez et al. 2017, arXiv 1709.07871, for gamma and
beta).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import StrataError
from ..extremes import largest
from .base import register
from .lora import LoRA
from .matrices import show
from .stored import Parts, Rule

MAX_PERIOD = 10000.0
FACTORS = ("lora_up", "lora_down")
OF_TIME = ("time_gamma", "time_gamma_bias", "time_beta", "time_beta_bias")


@register
@dataclass(frozen=True, eq=False)
class TCLoRA(LoRA):
    """gamma, beta [rank, n] with gamma_bias, beta_bias [rank]: of n sinusoids of the timestep. All that does not look at the time says
    what gamma = 1 and beta = 0 do."""

    gamma: Tensor | None = None
    gamma_bias: Tensor | None = None
    beta: Tensor | None = None
    beta_bias: Tensor | None = None

    name = "TC-LoRA"
    varies = True
    adds_by_itself = True
    suffixes = {
        ".lora_time_gamma.weight": "time_gamma",
        ".lora_time_gamma.bias": "time_gamma_bias",
        ".lora_time_beta.weight": "time_beta",
        ".lora_time_beta.bias": "time_beta_bias",
    }
    together = ((*OF_TIME, *FACTORS),)
    spelled = {}

    @classmethod
    def lacks(cls, roles: Collection[str]) -> str | None:
        return super().lacks(roles) if any(role in roles for role in OF_TIME) else None

    @classmethod
    def parse(cls, parts: Parts, rule: Rule) -> TCLoRA | None:
        lacking = cls.lacks(parts)
        if lacking is not None:
            raise StrataError(f"a TC-LoRA with {lacking}")
        gamma, gamma_bias, beta, beta_bias = (parts.pop(role) for role in OF_TIME)
        product = LoRA.parse(parts, rule)
        rank, count = product.rank, gamma.shape[-1] if gamma.ndim == 2 else 0
        fits = gamma.shape == beta.shape == (rank, count) and gamma_bias.shape == beta_bias.shape == (rank,)
        if not fits or not count or count % 2 or product.mid is not None:
            shown = ", ".join(show(tensor.shape) for tensor in (gamma, gamma_bias, beta, beta_bias))
            raise StrataError(f"a TC-LoRA of rank {rank} whose gamma and beta ({shown}) do not fit it")
        return cls(product.up, product.down, None, product.scale, gamma, gamma_bias, beta, beta_bias)

    def written(self) -> tuple[Parts, Rule]:
        raise StrataError("TC-LoRA is another LoRA at each step of a sampling, which no plain file can hold")

    @property
    def reach(self) -> float:
        return super().reach * self._most

    def reach_within(self, largest: float) -> float:
        return super().reach_within(largest) * (self.gamma.shape[1] + 1) * largest

    @property
    def _most(self) -> float:
        """No number of gamma(t) is larger."""
        return self.gamma.shape[1] * largest(self.gamma) + largest(self.gamma_bias)

    def columns_at(self, timestep: float) -> Tensor:
        return self._of_time(self.gamma, self.gamma_bias, timestep)

    def offsets_at(self, timestep: float) -> Tensor:
        return self._of_time(self.beta, self.beta_bias, timestep)

    @staticmethod
    def _of_time(weight: Tensor, bias: Tensor, timestep: float) -> Tensor:
        half = weight.shape[1] // 2
        angles = timestep * torch.exp(-math.log(MAX_PERIOD) / half * torch.arange(half, dtype=torch.float64))
        waves = torch.cat([angles.cos(), angles.sin()]).float()
        return weight.cpu().float() @ waves + bias.cpu().float()

    def at(self, timestep: float) -> LoRA:
        """What it does to the weight; ``offsets_at`` no weight can hold."""
        columns = self.columns_at(timestep).to(self.up.device)
        up = self.up.float().flatten(1) * columns
        return LoRA(up.reshape(self.up.shape), self.down, None, self.scale)

    def cut(self, start: int, length: int, total: int) -> TCLoRA | None:
        return replace(self, up=self.up.narrow(0, start, length)) if self.up.shape[0] == total else None
