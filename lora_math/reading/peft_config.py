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
from dataclasses import dataclass, field

from ..adapters.stored import Rule
from ..numbers import finite
from .patterns import Patterns, UnreadPattern

COMPONENTS = ("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "prior")
PEFT_PREFIX = "base_model.model."
# The most characters; PEFT writes some ten for each layer that it treats apart.
MAX_PACKED = 8_000_000
# The most expressions that are not read one by one: each is looked at for every module.
MAX_UNREAD = 64
_PLAIN = re.compile(r"[A-Za-z0-9_]*")
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


@dataclass(frozen=True, eq=False)
class NumberPatterns:
    """PEFT's ``alpha_pattern`` or ``rank_pattern``: numbers by the expressions of the modules that they are for.

    places: of each readable expression among all of them; unread: (place, what a module's name must hold for it to fit, why it cannot be
    read, with the expression) of the others; what those would say is unknown for the modules that they could fit.
    """

    numbers: tuple[float, ...] = ()
    patterns: Patterns | None = None
    places: tuple[int, ...] = ()
    unread: tuple[tuple[int, str, str], ...] = ()

    @classmethod
    def of(cls, name: str, values) -> NumberPatterns:
        numbers = {text: _number(value) for text, value in values.items()} if isinstance(values, dict) else {}
        known = {text: number for text, number in numbers.items() if number is not None}
        texts, unread = list(known), []
        try:
            patterns = Patterns(texts) if known else None
        except UnreadPattern:
            texts = []
            for place, text in enumerate(known):
                try:
                    Patterns([text])
                    texts.append(text)
                except UnreadPattern as problem:
                    unread.append((place, _needed(text), f"the file's {name} is not understood: {problem}"))
            try:
                patterns = Patterns(texts)
            except UnreadPattern as problem:
                return cls(unread=((-1, "", f"the file's {name} is not understood: {problem}"),))
            if len(unread) > MAX_UNREAD:
                return cls(unread=((-1, "", unread[0][2]),))
        readable = set(texts)
        places = tuple(place for place, text in enumerate(known) if text in readable)
        return cls(tuple(known[text] for text in texts), patterns, places, tuple(unread))

    def number(self, module: str) -> float | None:
        """The number of the first expression that fits (PEFT ``get_pattern_key``). Raises UnreadPattern where one that is not read could
        fit before it."""
        found = None if self.patterns is None else self.patterns.first(module)
        for place, needed, why in self.unread:
            if needed in module and (found is None or place < self.places[found]):
                raise UnreadPattern(why)
        return None if found is None else self.numbers[found]


def _needed(expression: str) -> str:
    """What every name that the expression fits holds: the plain characters that it begins with, but for one that may be missing."""
    if "|" in expression:
        return ""
    plain = _PLAIN.match(expression.removeprefix("^"))[0]
    rest = expression.removeprefix("^")[len(plain) :]
    return plain[:-1] if rest[:1] in ("*", "?", "{") else plain


NO_PATTERNS = NumberPatterns()


@dataclass(frozen=True)
class ComponentRules:
    """PEFT's configuration of one component.

    ``rule`` is what holds for all modules. LoKr alone needs the configured rank, as it divides by it even where no tensor shows one.
    feedforward: IA3's modules that are scaled on their input: a pattern for the whole name, or endings; None where nothing says.
    """

    rule: Rule
    alpha_pattern: NumberPatterns = NO_PATTERNS
    rank_pattern: NumberPatterns = NO_PATTERNS
    feedforward: Patterns | UnreadPattern | tuple[str, ...] | None = None

    def for_module(self, module: str) -> Rule:
        """The rule for ``module``, named as inside its component; the first expression that fits wins. Raises UnreadPattern."""
        rule = self.rule
        alpha, rank = self.alpha_pattern.number(module), self.rank_pattern.number(module)
        if alpha is not None:
            rule = rule._replace(alpha=alpha)
        if _is_rank(rank) and rule.rank is not None:
            rule = rule._replace(rank=int(rank))
        if self.feedforward is not None:
            rule = rule._replace(on_input=_is_feedforward(self.feedforward, module))
        return rule


@dataclass(frozen=True)
class Rules:
    """Rules by module name for a whole file; empty when nothing says anything."""

    components: Mapping[str, ComponentRules] = field(default_factory=dict)

    @classmethod
    def from_header(cls, metadata: Mapping[str, str]) -> Rules:
        """Reads ``lora_adapter_metadata``; a header that is not what diffusers writes gives no rules."""
        text = metadata.get("lora_adapter_metadata", "{}")
        if len(text) > MAX_PACKED:
            why = f"the file's lora_adapter_metadata is {len(text)} characters long, more than any LoRA needs"
            unread = NumberPatterns(unread=((-1, "", why),))
            return cls({"": ComponentRules(Rule(), unread)})
        try:
            packed = json.loads(text)
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
        return rule._replace(peft=True) if PEFT_PREFIX in module else rule

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
        rule,
        NumberPatterns.of("alpha_pattern", values.get("alpha_pattern")),
        NumberPatterns.of("rank_pattern", values.get("rank_pattern")),
        feedforward,
    )


def _neumann_terms(values: Mapping) -> int | None:
    if values.get("use_cayley_neumann") is False:
        return 0
    terms = _number(values.get("num_cayley_neumann_terms", 5))
    return None if terms is None or math.isnan(terms) else int(min(max(terms, 0), 64))


def _feedforward(value) -> Patterns | UnreadPattern | tuple[str, ...] | None:
    if isinstance(value, str):
        try:
            return Patterns([value], whole=True)
        except UnreadPattern as problem:
            return UnreadPattern(f"the file's feedforward_modules are not understood: {problem}")
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, (list, tuple, set)) else None


def _is_feedforward(feedforward: Patterns | UnreadPattern | tuple[str, ...], module: str) -> bool:
    """PEFT ``IA3Model._check_target_module_feedforward``. Raises UnreadPattern."""
    if isinstance(feedforward, UnreadPattern):
        raise feedforward
    if isinstance(feedforward, tuple):
        return module.endswith(feedforward)
    return feedforward.first(module) is not None


def _number(value) -> float | None:
    """A number out of JSON, which knows integers of any length, Infinity and NaN, or a text of one; None for anything else."""
    if isinstance(value, str):
        return finite(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_rank(number: float | None) -> bool:
    return number is not None and 1 <= number < math.inf
