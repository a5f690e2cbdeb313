"""Block weights as a value: ordered rules of which the last that fits a weight decides, and a default for the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from ..numbers import show_number
from .errors import BlockTextError
from .layout import Layout, Location
from .selector import Selector


@dataclass(frozen=True)
class Rule:
    """``selector = value``, or a ramp from ``value`` on its first block to ``end`` on its last."""

    selector: Selector
    value: float
    end: float | None = None

    def __post_init__(self) -> None:
        for value in (self.value, self.end):
            if value is not None and not math.isfinite(value):
                raise BlockTextError(f"{self.selector}: {value} is not a weight.")
        encoder = self.selector.kind == "te" and not self.selector.spans and self.selector.layer != "*"
        if self.end is not None and (encoder or self.selector.kind == "other"):
            raise BlockTextError(f"{self.selector}: a ramp needs numbered blocks, such as D*=0..1 or TE:clip_l.*=0..1.")

    def __str__(self) -> str:
        ramp = "" if self.end is None else f"..{show_number(self.end)}"
        return f"{self.selector}={show_number(self.value)}{ramp}"


@dataclass(frozen=True)
class BlockWeights:
    """Weights that multiply a LoRA's strength, block by block.

    The three remainders are always stated: ``rules`` holds a rule for ``TE`` and one for ``OTHER`` (put
    first, at the default, where the caller gives none), and ``default`` is the weight of every block without
    a rule. ``notes`` say how an ambiguous text was read and which names the model lacks; they are not part of
    the value.
    """

    rules: tuple[Rule, ...] = ()
    default: float = 1.0
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.default):
            raise BlockTextError(f"default: {self.default} is not a weight.")
        stated = {rule.selector.whole for rule in self.rules}
        missing = [Rule(Selector(kind), self.default) for kind in ("te", "other") if kind not in stated]
        object.__setattr__(self, "rules", (*missing, *self.rules))

    def __str__(self) -> str:
        return format_weights(self)

    def of_text_encoders(self) -> float | None:
        """The weight of everything in text encoders, None where parts of them have one of their own."""
        rules = [rule for rule in self.rules if rule.selector.kind == "te"]
        whole = len(rules) == 1 and rules[0].selector.whole == "te" and rules[0].end is None
        return rules[0].value if whole else None

    def smallest(self) -> float:
        """No block's weight is nearer to 0 than this; 0 where one may be 0."""
        ends = [(rule.value, rule.value if rule.end is None else rule.end) for rule in self.rules]
        return min(0.0 if a * b < 0 else min(abs(a), abs(b)) for a, b in (*ends, (self.default, self.default)))

    def resolve(self, layout: Layout) -> ResolvedWeights:
        return ResolvedWeights(self, layout)

    def invert(self) -> BlockWeights:
        """1 - w for every entry, remainders included (Inspire's ``inverse``). Twice is the original."""
        rules = tuple(
            Rule(rule.selector, _inverse(rule.value), None if rule.end is None else _inverse(rule.end))
            for rule in self.rules
        )
        return BlockWeights(rules, _inverse(self.default), self.notes)


class ResolvedWeights:
    """Block weights on one layout: ``weight(key)`` for thousands of keys, computed once per place."""

    def __init__(self, weights: BlockWeights, layout: Layout) -> None:
        self.weights, self.layout = weights, layout
        self._rules = [_OnLayout(rule, layout) for rule in reversed(weights.rules)]
        self._by_location: dict[Location, float] = {}
        self._by_key: dict[str, float] = {}

    def weight(self, key: str) -> float:
        """The weight of a model or text encoder weight, by its full key."""
        value = self._by_key.get(key)
        if value is None:
            value = self._by_key[key] = self.at(self.layout.locate(key))
        return value

    def at(self, location: Location) -> float:
        if location not in self._by_location:
            found = (rule.value(location) for rule in self._rules if rule.matches(location))
            self._by_location[location] = next(found, self.weights.default)
        return self._by_location[location]


class _OnLayout:
    def __init__(self, rule: Rule, layout: Layout) -> None:
        self.rule = rule
        names = [block.name for block in rule.selector.blocks(layout)]
        self.names = frozenset(names)
        self.ramp = _ramp(rule, names) if rule.end is not None else {}

    def matches(self, location: Location) -> bool:
        fits = self.rule.selector.matches(location, self.names)
        return fits and (self.rule.end is None or location.block in self.ramp)

    def value(self, location: Location) -> float:
        return self.ramp[location.block] if self.rule.end is not None else self.rule.value


def _ramp(rule: Rule, names: Iterable[str]) -> dict[str, float]:
    names = list(names)
    steps = max(len(names) - 1, 1)
    return {name: rule.value * (1 - at / steps) + rule.end * (at / steps) for at, name in enumerate(names)}


def _inverse(value: float) -> float:
    # In decimal, so that 1 - 0.8 is 0.2.
    return float(Decimal(1) - Decimal(repr(value)))


def format_weights(weights: BlockWeights) -> str:
    """The canonical text: one line, rules in order, the default last. ``parse(format_weights(w)) == w``."""
    return ", ".join([*map(str, weights.rules), f"default={show_number(weights.default)}"])
