"""One file per algorithm; see ``base.Adapter`` for what each can do."""

from .base import Adapter, from_record
from .boft import BOFT
from .dense import Diff, Padded, SetWeight
from .dora import DoRA
from .glora import GLoRA
from .ia3 import IA3
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .oft import OFT
from .peft_boft import PeftBOFT
from .peft_oft import PeftOFT
from .sparse import Sparse
from .stored import Parts, Rule
from .tclora import TCLoRA
from .tlora import TLoRA, TLoRAFromWeight

# In the order in which a module's adapters are applied: factors first, then what is stored whole.
WEIGHT_ADAPTERS: tuple[type[Adapter], ...] = (
    # With a LoRA's factors among its own.
    TCLoRA,
    LoRA,
    TLoRA,
    LoHa,
    LoKr,
    GLoRA,
    OFT,
    BOFT,
    PeftOFT,
    PeftBOFT,
    IA3,
    Sparse,
    Diff,
    SetWeight,
)

__all__ = [
    "BOFT",
    "IA3",
    "OFT",
    "WEIGHT_ADAPTERS",
    "Adapter",
    "Diff",
    "DoRA",
    "GLoRA",
    "LoHa",
    "LoKr",
    "LoRA",
    "Padded",
    "Parts",
    "PeftBOFT",
    "PeftOFT",
    "Rule",
    "SetWeight",
    "Sparse",
    "TCLoRA",
    "TLoRA",
    "TLoRAFromWeight",
    "from_record",
]
