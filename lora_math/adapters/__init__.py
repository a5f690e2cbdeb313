"""One file per algorithm; see ``base.Adapter`` for what each can do."""

from .base import Adapter, Parts, Scaling, from_record
from .dense import Diff, Padded, SetWeight
from .dora import DoRA
from .lora import LoRA

# In the order in which a module's adapters are applied: factors first, then what is stored whole.
WEIGHT_ADAPTERS: tuple[type[Adapter], ...] = (LoRA, Diff, SetWeight)

__all__ = [
    "WEIGHT_ADAPTERS",
    "Adapter",
    "Diff",
    "DoRA",
    "LoRA",
    "Padded",
    "Parts",
    "Scaling",
    "SetWeight",
    "from_record",
]
