"""Block weights on their way from the node that states them to the loader whose model gives them meaning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ...lora_math.blocks import (
    FAMILIES,
    BlockTextError,
    BlockWeights,
    Layout,
    Preset,
    ResolvedWeights,
    builtin_layout,
    layout_of,
    parse,
    texts,
)
from ...lora_math.blocks.presets import PresetFile, builtin_presets, read_preset_file, with_builtin
from ...lora_math.blocks.text import innermost, invert_text, is_random, preset_name, seed_text
from ...lora_math.blocks.vectors import is_vector
from ...lora_math.errors import StrataError
from ..comfy.user_files import user_file

if TYPE_CHECKING:
    from ..comfy.targets import Targets

AUTO = "auto"
# Of the person's preset file: its path, inode, size [bytes] and modification time [ns]; None while there is none.
Stamp = tuple[str, int, int, int] | None


@dataclass(frozen=True)
class BlockSpec:
    """What a person stated: the value of a BLOCK_WEIGHTS wire.

    text: any form that ``lora_math.blocks.parse`` reads; family: whose layout it is written for, None for the model it meets;
    seed: for random entries; invert: 1 - weight.
    """

    text: str
    family: str | None = None
    seed: int = 0
    invert: bool = False

    @classmethod
    def of(cls, value) -> BlockSpec | None:
        """Whatever arrives on the wire: a BlockSpec, its text, or nothing. Raises StrataError for anything else."""
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        raise StrataError(
            "The block_weights input takes the BLOCK_WEIGHTS of a 'LoRA Block Weights (Strata)' node, "
            f"not a {type(value).__name__}."
        )

    def read(self, layout: Layout) -> BlockWeights:
        """The weights for a model with this layout. Raises BlockTextError."""
        written_for = layout if self.family in (None, layout.family) else builtin_layout(self.family)
        found = parse(self.text, written_for, seed=self.seed, presets=preset_texts(written_for.family))
        return found.invert() if self.invert else found

    def presets_named(self) -> str:
        """The weights of the preset that the text names, in each family that has it; empty where it names none. Never raises."""
        try:
            name = preset_name(self.text)
            found = [preset_texts(family) for family in ((self.family,) if self.family else (None, *FAMILIES))]
        except BlockTextError as problem:
            return str(problem)
        lower = name.lower()
        named = (
            [next((text for known, text in texts.items() if known.lower() == lower), "") for texts in found]
            if name
            else []
        )
        return "|".join(dict.fromkeys(filter(None, named)))

    def canonical(self) -> str:
        """The text by names, as far as it can be told without a model. Raises BlockTextError when no family can read it.

        A vector that no family or more than one reads stays as it is: the loader, which knows the model, decides.
        """
        if self.family is not None:
            return str(self.read(builtin_layout(self.family)))
        found, problems = set(), []
        for family in FAMILIES:
            try:
                found.add(str(replace(self, family=family).read(builtin_layout(family))))
            except BlockTextError as problem:
                problems.append(problem)
        # A model of unusual depth takes vectors that no family does.
        if not found and not is_vector(innermost(self.text)[0]):
            raise BlockTextError(problems[0].anywhere or str(problems[0]))
        return found.pop() if len(found) == 1 else self._unread_text()

    def for_tag(self) -> str:
        """The text for a tag's ``lbw=``, which says neither a seed, nor an inversion, nor a family beside it. Never raises."""
        if self.family is not None:
            try:
                return self.canonical()
            except BlockTextError:
                pass
        return self._unread_text()

    def _unread_text(self) -> str:
        """The text itself, with its seed and inversion written into it where they matter."""
        text = self.text.strip()
        try:
            needs_seed = any(is_random(text, preset_texts(family)) for family in FAMILIES)
        except BlockTextError:
            # The person's own presets cannot be read.
            needs_seed = is_random(text, {})
        if needs_seed:
            text = seed_text(self.seed, text)
        return invert_text(text) if self.invert else text


def resolved(spec: BlockSpec, layout: Layout) -> ResolvedWeights:
    """The weight of every weight of a model with this layout; kept for a while, as a moved slider asks again. Raises BlockTextError."""
    return _resolved(spec, layout, presets_stamp())


@lru_cache(maxsize=16)
def _resolved(spec: BlockSpec, layout: Layout, presets: Stamp) -> ResolvedWeights:
    return spec.read(layout).resolve(layout)


_layouts: WeakKeyDictionary[Targets, Layout] = WeakKeyDictionary()


def layout_for(model: Targets | None, clip: Targets | None) -> Layout:
    """The blocks of what is connected. Computed once for a model and once for its text encoders."""
    found = _layout(model, True) if model is not None else layout_of(())
    if clip is None:
        return found
    encoders = _layout(clip, False)
    return replace(
        found, text_encoders=encoders.text_encoders, encoders=encoders.encoders, places=found.places | encoders.places
    )


def _layout(targets: Targets, is_model: bool) -> Layout:
    if targets not in _layouts:
        keys = targets.shapes.keys()
        _layouts[targets] = layout_of(keys, family=targets.family) if is_model else layout_of((), keys)
    return _layouts[targets]


def user_preset_file() -> str:
    """Where a person's own presets are kept: JSON in ComfyUI's user folder."""
    return user_file("block_presets.json")


def presets_of(family: str | None) -> dict[str, Preset]:
    """The pack's presets for a family and the person's own. Raises BlockTextError when the person's file is broken."""
    return _presets_of(family, presets_stamp())


def preset_texts(family: str | None) -> Mapping[str, str]:
    """Every name that a preset of this family has, with its text. Raises BlockTextError as ``presets_of`` does."""
    return _preset_texts(family, presets_stamp())


def presets_stamp() -> Stamp:
    """Changes when the person's preset file does."""
    path = user_preset_file()
    try:
        found = os.stat(path)
    except OSError:
        return None
    return path, found.st_ino, found.st_size, found.st_mtime_ns


def preset_names() -> list[str]:
    """Every preset of every family, for a combo. A broken user file hides only itself: the node says what is wrong when it runs."""
    try:
        own = [preset for preset, _ in _user_presets(presets_stamp()).presets]
    except BlockTextError:
        own = []
    return list(dict.fromkeys(preset.name for preset in (*builtin_presets(), *own)))


# The person's file is read once for each of its contents, and its texts once for each family that asks.
@lru_cache(maxsize=4)
def _user_presets(stamp: Stamp) -> PresetFile:
    return PresetFile(()) if stamp is None else read_preset_file(stamp[0], user=True)


@lru_cache(maxsize=64)
def _presets_of(family: str | None, stamp: Stamp) -> dict[str, Preset]:
    return with_builtin(family, _user_presets(stamp).checked(family))


@lru_cache(maxsize=64)
def _preset_texts(family: str | None, stamp: Stamp) -> Mapping[str, str]:
    return MappingProxyType(texts(_presets_of(family, stamp)))
