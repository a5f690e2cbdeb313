"""From LoRAs to one LoRA: what each changes, layer by layer, merged, shrunk and spelled for a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from . import names
from .adapters import Adapter
from .adapters.stored import KOHYA, MAX_SCALE
from .algebra.budget import Budget
from .algebra.change import Change, OnDemand, Term, change_of
from .algebra.merge import compares, merge
from .algebra.shrink import Quality, Stored, passes, quality, shrink
from .choices import METHODS, Method
from .errors import StrataError
from .family import component
from .reading.state_dict import Entry, StateDict
from .writing import lora as writing


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight or bias and what every source does to it.

    module: its name in the file to be; parameter: "weight" or "bias"; terms: place among the sources -> (coefficient, adapter) in order;
    shape: the weight's, None where no model tells; weight: gives W in float32 or wider, for what depends on it; shown: its name in
    messages; cut: takes the rows out that this layer of the file holds, None for all.
    """

    module: str
    parameter: str
    terms: Mapping[int, Sequence[Term]]
    shape: tuple[int, ...] | None = None
    weight: Callable[[], Tensor] | None = None
    shown: str = ""
    cut: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Recipe:
    """How one LoRA is made of several. density and seed: as ``algebra.merge`` has them; clip: the largest singular value, 0 for any."""

    method: Method = "sum"
    budget: Budget = field(default_factory=Budget)
    clip: float = 0.0
    density: float = 0.5
    seed: int = 0
    dtype: torch.dtype = torch.float16
    style: str = KOHYA
    stubs: bool = False

    def __post_init__(self):
        if not 0 <= self.seed < 1 << 64:
            raise StrataError(f"The seed is a whole number from 0 to {(1 << 64) - 1}.")
        if self.method not in METHODS:
            raise StrataError(f"{self.method} is not a way of merging. There are {', '.join(METHODS)}.")
        if not 0 <= self.clip < float("inf"):
            raise StrataError(f"The limit of singular values is {self.clip:g}: it must be 0 for none, or above.")


@dataclass(frozen=True, eq=False)
class Baked:
    """tensors: of the file; layers: (module, parameter) -> what is stored there, the error included."""

    tensors: Mapping[str, Tensor]
    layers: Mapping[tuple[str, str], Stored]

    @property
    def quality(self) -> Quality:
        return quality(self.layers)

    @property
    def ranks(self) -> list[int]:
        return [layer.rank for layer in self.layers.values() if layer.rank]


def rounds(recipe: Recipe) -> int:
    """How many times ``bake`` goes through the layers."""
    return passes(recipe.budget) + compares(recipe.method)


def bake(
    layers: Sequence[Layer], weights: Sequence[float], recipe: Recipe, tick: Callable[[], None] = lambda: None
) -> Baked:
    """One LoRA out of ``layers``, at the sources' ``weights``, a layer at a time.

    tick: called at most ``rounds`` times for each layer, may raise to stop. Raises StrataError naming the layer that cannot be done.
    """
    places = {f"{layer.module}\0{layer.parameter}": layer for layer in layers}
    if len(places) < len(layers):
        raise StrataError("Two layers have one name in the file.")
    if recipe.method == "sum":
        makers = {}
        for place, layer in places.items():
            terms = [
                (weights[i] * coefficient, adapter)
                for i, of in sorted(layer.terms.items())
                for coefficient, adapter in of
            ]
            terms = [(coefficient, adapter) for coefficient, adapter in terms if coefficient != 0]
            if terms:
                makers[place] = partial(_change, layer, terms)
        merged = OnDemand(makers)
    else:
        loras: list[dict[str, Callable[[], Change]]] = [{} for _ in weights]
        for place, layer in places.items():
            for i, terms in layer.terms.items():
                loras[i][place] = partial(_change, layer, terms)
        used = [i for i, weight in enumerate(weights) if weight != 0 and loras[i]]
        if not used:
            raise StrataError("Every strength is 0: there is nothing to save.")
        given = [OnDemand(loras[i]) for i in used]
        merged = merge(given, [weights[i] for i in used], recipe.method, recipe.density, recipe.seed, tick)
    if not merged:
        raise StrataError("Nothing would change: every strength is 0, or no layer fits. There is nothing to save.")
    stored = shrink(
        merged,
        recipe.budget,
        recipe.dtype,
        recipe.clip,
        lambda place: writing.overhead(places[place].module),
        tick,
        recipe.stubs,
    )
    found = {(places[place].module, places[place].parameter): layer for place, layer in stored.items()}
    tensors = writing.tensors(found, recipe.style, recipe.stubs)
    if not tensors:
        raise StrataError("The LoRAs cancel each other out: nothing is left to save.")
    return Baked(tensors, found)


def _change(layer: Layer, terms: Sequence[Term]) -> Change:
    try:
        if varying := next((adapter for _, adapter in terms if adapter.varies), None):
            raise StrataError(
                f"{varying.name} is another LoRA at each step of a sampling, which no plain file can hold"
            )
        weight = (
            layer.weight() if layer.weight is not None and any(adapter.needs_weight for _, adapter in terms) else None
        )
        found = change_of(terms, layer.shape, weight)
        return found if layer.cut is None else found.rows(layer.cut)
    except StrataError as problem:
        raise StrataError(f"{layer.shown or layer.module}: {problem}.") from None


# Less is nothing, and a ratio to it is no number.
LEAST = 1e-12


def check_strength(name: str, strength: float) -> float:
    """The strength of a file that is to be saved, 0 where it is nothing. Raises StrataError for one that no file can hold."""
    if not abs(strength) <= MAX_SCALE:
        raise StrataError(
            f"{name}: {strength:g} is no strength that a file can hold. Use one between -{MAX_SCALE:g} and {MAX_SCALE:g}."
        )
    return 0.0 if abs(strength) < LEAST else strength


def check_file(name: str, contents: StateDict, broken: Collection[str]) -> None:
    """Raises StrataError where a file's change cannot be written into another one. broken: its tensors with NaN or infinity."""
    if broken:
        raise StrataError(
            f"{name}: {len(broken)} tensors hold NaN or infinity, such as {min(broken)}. A file with them would turn every image black. "
            "Take this LoRA out."
        )
    varying = next((entry for entry in contents.entries if entry.adapter.varies), None)
    if varying is not None:
        raise StrataError(
            f"{name} holds {varying.adapter.name}, which is another LoRA at each step of a sampling. A plain file cannot hold that: take "
            "it out."
        )
    if contents.orphans:
        raise StrataError(
            f"{name} has DoRA magnitudes without a layer, such as {min(contents.orphans)}: what it was trained to do is not known. "
            "Convert it again, or take it out."
        )


def once(entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    """(the entries of a file that act, those whose layer another module of the file changes already, under another spelling).

    As a loader has it: the first that is trained counts. Names that are alike only to a model are told apart by nothing here.
    """
    owners: dict[tuple[str, str, str], list[Entry]] = {}
    repeated: dict[Entry, None] = {}
    entries = list(entries)
    for entry in entries:
        of = owners.setdefault((component(entry.module), names.read(entry.module).body, entry.parameter), [])
        others = [other for other in of if other.module != entry.module]
        if others and (entry.adapter.is_untrained or not all(other.adapter.is_untrained for other in others)):
            repeated[entry] = None
            continue
        for other in others:
            of.remove(other)
            repeated[other] = None
        of.append(entry)
    return [entry for entry in entries if entry not in repeated], list(repeated)


def layers_by_name(
    sources: Sequence[Iterable[Entry]], coefficients: Sequence[Mapping[Entry, float]] = ()
) -> list[Layer]:
    """The layers of several files where no model tells which names mean the same: those whose names do without their wrappings.

    coefficients: for each file, what its entries are multiplied by, all by 1 where there are none. A layer is called as the first file
    calls it; one that stands in a file in several spellings counts once.
    """
    found: dict[tuple[str, str, str], tuple[str, dict[int, list[tuple[float, Adapter]]]]] = {}
    for i, entries in enumerate(sources):
        for entry in once(entries)[0]:
            part = component(entry.module)
            place = found.setdefault((part, names.read(entry.module).body, entry.parameter), (entry.module, {}))
            place[1].setdefault(i, []).append((coefficients[i][entry] if coefficients else 1.0, entry.adapter))
    return [Layer(module, parameter, terms) for (_, _, parameter), (module, terms) in found.items()]
