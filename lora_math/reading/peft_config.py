"""What stands beside a file's tensors: PEFT's configuration, where PEFT keeps alpha and more.

``save_pretrained`` writes it next to the file as ``adapter_config.json``; diffusers (``loaders/lora_base.py``,
``LORA_ADAPTER_METADATA_KEY``) copies it into the safetensors header as JSON, each field prefixed by its component:
``{"unet.r": 16, "unet.lora_alpha": 32, "unet.use_rslora": false}``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..adapters.base import Rule

COMPONENTS = ("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "prior")
PEFT_PREFIX = "base_model.model."
MAX_PATTERNS = 2000  # each is tried on every module
_FIELDS = (
    "alpha",
    "alpha_pattern",
    "feedforward_modules",
    "lora_alpha",
    "num_cayley_neumann_terms",
    "peft_type",
    "r",
    "rank_pattern",
    "use_cayley_neumann",
    "use_rslora",
)

Patterns = tuple[tuple[re.Pattern, float], ...]


@dataclass(frozen=True)
class ComponentRules:
    """PEFT's configuration of one component.

    ``rule`` is what holds for all modules. LoKr alone needs the configured rank, as it divides by it even where no tensor shows one.
    feedforward: IA3's modules that are scaled on their input: a pattern for the whole name, or endings; None where nothing says.
    """

    rule: Rule
    alpha_pattern: Patterns = ()
    rank_pattern: Patterns = ()
    feedforward: re.Pattern | tuple[str, ...] | None = None

    def for_module(self, module: str) -> Rule:
        """The rule for ``module``, named as inside its component; the first pattern that fits wins (PEFT ``get_pattern_key``)."""
        rule = self.rule
        alpha, rank = _first(self.alpha_pattern, module), _first(self.rank_pattern, module)
        if alpha is not None:
            rule = replace(rule, alpha=alpha)
        if _is_rank(rank) and rule.rank is not None:
            rule = replace(rule, rank=int(rank))
        if self.feedforward is not None:
            rule = replace(rule, on_input=_is_feedforward(self.feedforward, module))
        return rule


@dataclass(frozen=True)
class Rules:
    """Rules by module name for a whole file; empty when nothing says anything."""

    components: Mapping[str, ComponentRules] = field(default_factory=dict)

    @classmethod
    def from_header(cls, metadata: Mapping[str, str]) -> Rules:
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

    @classmethod
    def from_adapter_config(cls, config: Mapping) -> Rules:
        """Reads the contents of PEFT's ``adapter_config.json``, which speaks of one component without naming it."""
        return cls({"": _component(config)}) if isinstance(config, Mapping) else cls()

    def for_module(self, module: str) -> Rule:
        """The rule for a module as the file names it, component prefix included: ``unet.down_blocks.0.attn1.to_q``."""
        rule = self._find(module)
        # PEFT's own saving puts its wrapper's name in front; nothing else does.
        return replace(rule, peft=True) if PEFT_PREFIX in module else rule

    def _find(self, module: str) -> Rule:
        head, _, tail = module.partition(".")
        if head in self.components:
            return self.components[head].for_module(tail.removeprefix(PEFT_PREFIX))
        # Files with one component are often written without its prefix, or under ComfyUI's "diffusion_model.".
        if "" in self.components:
            return self.components[""].for_module(module.rpartition(PEFT_PREFIX)[2])
        if len(self.components) == 1 and head not in COMPONENTS:
            return next(iter(self.components.values())).for_module(module.removeprefix(PEFT_PREFIX))
        return Rule()


def _component(values: Mapping) -> ComponentRules:
    kind, rank = values.get("peft_type"), _number(values.get("r"))
    rule = Rule(
        alpha=_number(values.get("lora_alpha", values.get("alpha"))),
        rank_stabilized=values.get("use_rslora") is True,
        rank=int(rank) if kind == "LOKR" and _is_rank(rank) else None,
        neumann_terms=_neumann_terms(values) if kind == "OFT" else None,
        peft=True,
    )
    feedforward = _feedforward(values.get("feedforward_modules")) if kind == "IA3" else None
    return ComponentRules(
        rule, _patterns(values.get("alpha_pattern")), _patterns(values.get("rank_pattern")), feedforward
    )


def _neumann_terms(values: Mapping) -> int | None:
    if values.get("use_cayley_neumann") is False:
        return 0
    terms = _number(values.get("num_cayley_neumann_terms", 5))
    return None if terms is None or math.isnan(terms) else int(min(max(terms, 0), 64))


def _patterns(values) -> Patterns:
    compiled = []
    for text, number in values.items() if isinstance(values, dict) else ():
        pattern, number = _pattern(r"(.*\.)?({})", text), _number(number)
        if pattern is not None and number is not None:
            compiled.append((pattern, number))
    return tuple(compiled[:MAX_PATTERNS])


def _feedforward(value) -> re.Pattern | tuple[str, ...] | None:
    if isinstance(value, str):
        return _pattern("{}", value)
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, (list, tuple, set)) else None


def _is_feedforward(feedforward: re.Pattern | tuple[str, ...], module: str) -> bool:
    """PEFT ``IA3Model._check_target_module_feedforward``."""
    if isinstance(feedforward, tuple):
        return module.endswith(feedforward)
    return feedforward.match(module) is not None


def _first(patterns: Patterns, module: str) -> float | None:
    return next((number for pattern, number in patterns if pattern.match(module)), None)


def _pattern(frame: str, text: str) -> re.Pattern | None:
    """PEFT's patterns are regular expressions for a module's name. The file is a stranger's: an expression that could take
    exponential time (repeats inside repeats) is taken literally, which is how nearly all of them are meant."""
    plain = text.replace(".*", "")
    if len(text) > 512 or text.count(".*") > 2 or set(plain) & set("*+?{}"):
        text = re.escape(text)
    try:
        return re.compile(frame.replace("{}", text) + "$")
    except (re.error, RecursionError):
        return None


def _number(value) -> float | None:
    """A number out of JSON, which knows integers of any length, Infinity and NaN; None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_rank(number: float | None) -> bool:
    return number is not None and 1 <= number < math.inf
