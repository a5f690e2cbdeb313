"""What a file's header says about scale, for trainers that store no ``alpha`` tensor.

PEFT keeps alpha in its configuration; diffusers (``loaders/lora_base.py``, ``LORA_ADAPTER_METADATA_KEY``) copies that configuration into
the safetensors header as JSON, each field prefixed by its component: ``{"unet.r": 16, "unet.lora_alpha": 32, "unet.use_rslora": false}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .adapters.base import Scaling

COMPONENTS = ("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "prior")
_FIELDS = ("lora_alpha", "use_rslora", "alpha_pattern", "r", "rank_pattern")


@dataclass(frozen=True)
class ComponentScale:
    """PEFT's scale fields for one component. The rank itself is read off the tensors: it cannot be wrong there."""

    lora_alpha: float | None = None
    use_rslora: bool = False
    alpha_pattern: tuple[tuple[re.Pattern, float], ...] = ()

    def scaling(self, module: str) -> Scaling:
        """The rule for ``module``, named as inside its component; the first pattern that fits wins (PEFT ``get_pattern_key``)."""
        for pattern, alpha in self.alpha_pattern:
            if pattern.match(module):
                return Scaling(alpha, self.use_rslora)
        return Scaling(self.lora_alpha, self.use_rslora)


@dataclass(frozen=True)
class ScaleRules:
    """Scale by module name for a whole file; empty when the header says nothing."""

    components: Mapping[str, ComponentScale] = field(default_factory=dict)

    @classmethod
    def from_header(cls, metadata: Mapping[str, str]) -> ScaleRules:
        """Reads ``lora_adapter_metadata``; a header that is not what diffusers writes gives no rules."""
        try:
            packed = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(packed, dict):
            return cls()
        grouped: dict[str, dict] = {}
        for key, value in packed.items():
            component, _, name = key.rpartition(".")
            if name in _FIELDS:
                grouped.setdefault(component, {})[name] = value
        return cls({component: _component(values) for component, values in grouped.items()})

    def for_module(self, module: str) -> Scaling:
        """The rule for a module as the file names it, component prefix included: ``unet.down_blocks.0.attn1.to_q``."""
        head, _, tail = module.partition(".")
        if head in self.components:
            return self.components[head].scaling(tail)
        # Files with one component are often written without its prefix, or under ComfyUI's "diffusion_model.".
        if "" in self.components:
            return self.components[""].scaling(module)
        if len(self.components) == 1 and head not in COMPONENTS:
            return next(iter(self.components.values())).scaling(module)
        return Scaling()


def _component(values: Mapping) -> ComponentScale:
    alpha, patterns = values.get("lora_alpha"), values.get("alpha_pattern")
    compiled = []
    for text, number in patterns.items() if isinstance(patterns, dict) else ():
        pattern = _pattern(str(text))
        if pattern is not None and _is_number(number):
            compiled.append((pattern, float(number)))
    return ComponentScale(
        float(alpha) if _is_number(alpha) else None, values.get("use_rslora") is True, tuple(compiled)
    )


def _pattern(text: str) -> re.Pattern | None:
    """PEFT's patterns are regular expressions for the tail of a module's name. The file is a stranger's: an expression that could take
    exponential time (repeats inside repeats) is taken literally, which is how nearly all of them are meant."""
    plain = text.replace(".*", "")
    if len(text) > 512 or text.count(".*") > 2 or set(plain) & set("*+?{}"):
        text = re.escape(text)
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except re.error:
        return None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
