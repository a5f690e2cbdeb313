"""What the desk and the strength over time ask for. By LoRA name only; nothing is written but presets that a person saves or deletes."""

from __future__ import annotations

import asyncio

from aiohttp import web

from ..lora_math import families, schedule
from ..lora_math.blocks import FAMILIES, BlockTextError, Layout, builtin_layout, delete_preset, save_preset
from ..lora_math.errors import StrataError
from .comfy import noise_steps
from .desk import words as desk
from .desk.profile import profile, shown_file
from .fitting.block_spec import BlockSpec, preset_names, presets_of, user_preset_file
from .requests import BadRequest, as_json, body_of, optional_text, query, text_of
from .sweep.carried import known_of


@as_json
async def lora(request: web.Request) -> dict:
    """``?name=``: what the file is, its layout, and the LoRA's share in each block."""
    return (await asyncio.to_thread(profile, query(request, "name"))).answer


@as_json
async def carried_blocks(request: web.Request) -> dict:
    """``?name=``: which blocks carry the picture, as a sweep of this LoRA found it."""
    return await asyncio.to_thread(lambda name: known_of(*shown_file(name)), query(request, "name"))


@as_json
async def layout(request: web.Request) -> dict:
    """``?family=``: the faders of a family, when no LoRA says more; of the usual one where it is empty."""
    layout = _builtin(request.query.get("family") or families.DEFAULT)
    return {"family": layout.family, "groups": desk.groups(layout)}


@as_json
async def weights(request: web.Request) -> dict:
    """``{"text", "family" or null, "lora" or null, "seed", "invert"}``: what a text means there.

    ``invert``: the answer is about 1 minus each weight of the text.
    """
    body = await body_of(request)
    text, family, lora = text_of(body, "text"), optional_text(body, "family"), optional_text(body, "lora")
    seed, invert = body.get("seed", 0), body.get("invert", False)
    if not isinstance(seed, int) or not isinstance(invert, bool):
        raise BadRequest("seed is a whole number and invert true or false.")
    return await asyncio.to_thread(_read, text, family, lora, seed, invert)


def _read(text: str, family: str | None, lora: str | None, seed: int, invert: bool) -> dict:
    layout = _layout_for(text, family, lora, seed)
    spec = BlockSpec(text, family, seed)
    if invert:
        spec = BlockSpec(str(spec.read(layout).invert()), family, seed)
    return desk.settings(spec, layout)


def _layout_for(text: str, family: str | None, lora: str | None, seed: int) -> Layout:
    """As the node does: the family that was chosen, else the LoRA's model, else whatever can read the text."""
    found = None
    if lora is not None:
        try:
            found = profile(lora).layout
        except StrataError:
            # The desk shows what is wrong with the LoRA; the weights are still weights.
            found = None
    if family is not None:
        return found if found is not None and found.family == family else _builtin(family)
    return found if found is not None else desk.guess_layout(text, seed)


def _builtin(family: str) -> Layout:
    if family not in FAMILIES:
        raise BadRequest(f"There is no model family {family[:80]!r}.")
    return builtin_layout(family)


@as_json
async def strength_over_time(request: web.Request) -> dict:
    """``{"text"}``: what it says of a strength over time, and the ready-made ones. Raises StrataError for a text that says none."""
    text = text_of(await body_of(request), "text")
    ready = [{"name": name, **_curve(schedule.parse(name))} for name in schedule.PRESETS]
    return {**_curve(schedule.parse(text)), "presets": ready}


def _curve(found: schedule.Schedule) -> dict:
    told = {"text": str(found), "points": found.written, "unit": found.unit, "shape": found.shape}
    return told if found.again is None else {**told, "again": found.written_again}


@as_json
async def noise_of_steps(request: web.Request) -> dict:
    """``{"run", "way": [{"node", "slot", "values"}]}``: noise and percent of the sampling at each step, for the model of a node's run
    and the nodes that its sampler's steps come through; ``{"steps": null}`` where they are not known. Raises StrataError for settings
    that a node does not have."""
    body = await body_of(request)
    run, way = text_of(body, "run"), body.get("way")
    if not isinstance(way, list) or not all(isinstance(each, dict) for each in way):
        raise BadRequest("way is a list of nodes.")
    made = [noise_steps.Made(text_of(each, "node"), _slot(each), _values(each)) for each in way]
    return {"steps": await asyncio.to_thread(noise_steps.steps_of, run, made)}


def _slot(each: dict) -> int:
    slot = each.get("slot")
    if isinstance(slot, bool) or not isinstance(slot, int) or slot < 0:
        raise BadRequest("slot is the number of an output.")
    return slot


def _values(each: dict) -> dict:
    if not isinstance(each.get("values"), dict):
        raise BadRequest("values are settings by name.")
    return each["values"]


@as_json
async def presets(request: web.Request) -> dict:
    """``?family=`` (may be empty): presets that fit, the pack's and the person's own, and the names that the node's list has."""
    family = request.query.get("family") or None
    return await asyncio.to_thread(_list_presets, family)


def _list_presets(family: str | None) -> dict:
    shown = [
        {"name": p.name, "weights": p.weights, "about": p.about, "families": list(p.families), "user": p.user}
        for p in presets_of(family).values()
    ]
    return {"presets": shown, "names": preset_names()}


@as_json
async def keep_preset(request: web.Request) -> dict:
    """``{"name", "weights", "family" or null, "about"}``"""
    body = await body_of(request)
    name, family = text_of(body, "name").strip(), optional_text(body, "family")
    about = body.get("about", "")
    if not isinstance(about, str):
        raise BadRequest("about is a text.")
    if family is not None:
        _builtin(family)
    await asyncio.to_thread(save_preset, user_preset_file(), family, name, text_of(body, "weights"), about)
    return await asyncio.to_thread(_list_presets, family)


@as_json
async def drop_preset(request: web.Request) -> dict:
    """``{"name", "family" or null}``: the person's own of that name that this family has. Those of the pack cannot be deleted."""
    body = await body_of(request)
    name, family = text_of(body, "name"), optional_text(body, "family")
    if family is not None:
        _builtin(family)
    if not await asyncio.to_thread(delete_preset, user_preset_file(), family, name):
        raise BlockTextError(f"{name[:80]!r} is not one of your own presets.")
    return await asyncio.to_thread(_list_presets, family)
