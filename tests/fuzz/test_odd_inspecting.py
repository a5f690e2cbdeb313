"""hypothesis over every algorithm's tensors in right and wrong shapes: all of it can be inspected and compared, and nothing raises."""

import json
import math

import odd_state_dicts
from hypothesis import given
from test_odd_state_dicts import WEIGHTS, quickly, seeds

from strata.lora_math.baking import layers_by_name
from strata.lora_math.inspecting.layers import measure
from strata.lora_math.inspecting.library import PROBES, fingerprint
from strata.lora_math.inspecting.one import numbers
from strata.lora_math.inspecting.several import meet, together
from strata.lora_math.reading import contents, state_dict
from strata.lora_math.reading.training_facts import trainer, training_facts
from strata.nodes.inspecting.shapes import Picture, printable, shortened, text_width


def drawn(rng):
    """(entries, keys of tensors whose numbers are not to be looked at), as the pack opens a file."""
    tensors = odd_state_dicts.draw(rng, WEIGHTS)
    broken = contents.check_numbers({key: t for key, t in tensors.items() if not key.endswith(".alpha")}).broken
    return state_dict.parse(tensors).entries, broken


@quickly
@given(seeds)
def test_every_layer_has_numbers_or_is_broken_or_unknown(rng):
    entries, broken = drawn(rng)
    layers = measure(entries, broken)
    found = numbers(layers, [entry.module for entry in entries])
    assert len(layers) == len(entries)
    for layer in layers:
        assert layer.norm is None or (math.isfinite(layer.norm) and not layer.broken)
        assert layer.values is None or bool(layer.values.isfinite().all())
    whole = found.whole
    assert math.isfinite(whole.energy) and math.isfinite(whole.effective)
    assert whole.rank is None or 1 <= whole.rank <= len(whole.kept)
    assert found.broken + whole.layers == len(entries)


@quickly
@given(seeds)
def test_any_two_can_be_compared_and_have_fingerprints(rng):
    sources = []
    for _ in range(2):
        entries, broken = drawn(rng)
        sources.append([entry for entry in entries if not broken.intersection(entry.keys)])
        assert len(fingerprint(entries)) == PROBES and bool(fingerprint(entries).isfinite().all())
    found = meet(layers_by_name(sources))
    both = together(found.layers, [[0.5] * len(meeting.at) for meeting in found.layers], 2)
    assert math.isfinite(both.norm) and math.isfinite(both.ratio) and both.kind
    assert all(len(why) < 400 for _, why in found.unknown)


@quickly
@given(seeds)
def test_any_header_is_facts_that_can_be_written(rng):
    header = odd_state_dicts.draw_metadata(rng, list(WEIGHTS))
    facts = training_facts(header)
    assert len(facts) < 40 and all(len(text) < 200 for _, text in facts)
    assert trainer(header) is None or trainer(header)
    json.dumps(facts)


def test_a_name_of_any_letters_is_one_line():
    name = "a\nb\0c\ud800\u202e" * 1000
    assert printable(name).isprintable() and len(printable(name)) <= 600
    picture = Picture(100)
    picture.text(0, 0, name, room=50)
    (shape,) = picture.shapes
    assert shape.text.isprintable() and shape.hover.isprintable()
    assert shortened("x" * 10_000, 12, 50).endswith("...")


def test_a_name_that_is_cut_keeps_its_end():
    for size in (11, 12, 18):
        for room in (40, 122, 400):
            cut = shortened(f"a_{'name' * 200}_v12", size, room, ends=True)
            start, end = cut.split("...")
            assert start.startswith("a") and f"{'name' * 30}_v12".endswith(end) and text_width(cut, size) <= room
            assert room < 122 or end.endswith("v12")
    assert shortened("short_v12", 12, 200, ends=True) == "short_v12"
