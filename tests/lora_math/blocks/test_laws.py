"""Laws of the weights text, for any text and any weights."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math.blocks import FAMILIES, BlockTextError, BlockWeights, Rule, builtin_layout, format_weights, parse
from strata.lora_math.blocks.groups import FILTERS
from strata.lora_math.blocks.layout import Location
from strata.lora_math.blocks.selector import Selector
from strata.lora_math.blocks.vectors import forms

LAYOUTS = [builtin_layout(family) for family in FAMILIES]
FLUX = builtin_layout("FLUX.1")
numbers = st.floats(-1e6, 1e6).map(lambda value: value + 0.0)
small = st.integers(-3000, 3000).map(lambda value: value / 1000)
spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: tuple(sorted(pair))), max_size=4
).map(tuple)
filters = st.sets(st.sampled_from(FILTERS), max_size=2).map(lambda chosen: tuple(f for f in FILTERS if f in chosen))
percents = (
    st.tuples(st.integers(0, 99), st.integers(1, 100))
    .filter(lambda p: p[0] < p[1])
    .map(lambda p: (float(p[0]), float(p[1])))
)
parities = st.sampled_from([None, 0, 1])
subs = st.none() | st.integers(0, 20)
letters = st.sampled_from(["D", "S", "IN", "OUT", "B", "CR"])
encoders = st.sampled_from(["", "clip_l", "t5xxl"])
selectors = st.one_of(
    st.builds(Selector, st.just("group"), letters, spans, parity=parities, filters=filters, sub=subs),
    st.builds(Selector, st.just("group"), letters, percent=percents, parity=parities, filters=filters, sub=subs),
    st.builds(Selector, st.just("all"), percent=st.none() | percents, parity=parities, filters=filters, sub=subs),
    st.builds(Selector, st.just("range"), st.just("D"), st.just(((3, 3),)), end=st.just(("S", 7)), parity=parities),
    st.builds(Selector, st.just("te"), st.sampled_from(["clip_l", "t5xxl"]), spans, parity=parities, filters=filters),
    st.builds(Selector, st.just("te"), st.sampled_from(["clip_l", "t5xxl"]), layer=st.sampled_from(["*", "other"])),
    st.builds(Selector, st.just("te"), encoders, filters=filters),
    st.builds(Selector, st.just("other"), st.sampled_from(["", "final_layer", "*_in", "w", "lbw"])),
)


@st.composite
def rules(draw):
    selector = draw(selectors)
    no_ramp = selector.kind == "other" or (selector.kind == "te" and not selector.spans and selector.layer != "*")
    return Rule(selector, draw(numbers), None if no_ramp else draw(st.none() | numbers))


weights = st.builds(BlockWeights, st.lists(rules(), max_size=6).map(tuple), numbers)


@given(weights)
def test_parse_reads_what_format_writes(value):
    text = format_weights(value)
    assert parse(text, FLUX) == value
    assert format_weights(parse(text, FLUX)) == text
    assert "TE=" in text and "OTHER=" in text and "default=" in text and "\n" not in text


@given(weights, st.sampled_from(LAYOUTS))
def test_no_block_has_a_weight_nearer_to_zero_than_the_smallest(value, layout):
    resolved, smallest = value.resolve(layout), value.smallest()
    found = [abs(resolved.at(Location(block.name, block.group, block.index))) for block in layout.blocks]
    # A ramp's steps are rounded, and the least numbers that there are round to 0.
    assert all(weight >= smallest * (1 - 1e-12) - 1e-300 for weight in found)
    if all(rule.end is None for rule in value.rules):
        assert smallest == min(abs(number) for number in (value.default, *(rule.value for rule in value.rules)))


@given(st.builds(BlockWeights, st.lists(st.builds(Rule, selectors, small), max_size=4).map(tuple), small))
def test_inverting_twice_changes_nothing(value):
    assert value.invert().invert() == value


@given(
    weights,
    st.sampled_from(["double_blocks.3.img_attn.qkv", "single_blocks.20.linear1", "final_layer.linear", "img_in"]),
)
def test_the_last_rule_that_fits_decides(value, name):
    """Against the rules taken one by one, the slow way."""
    key, expected = f"diffusion_model.{name}.weight", value.default
    for rule in value.rules:
        one = BlockWeights((Rule(Selector("te"), 0.0), Rule(Selector("other"), value.default), rule), value.default)
        alone = one.resolve(FLUX).weight(key)
        other = BlockWeights(
            (Rule(Selector("te"), 0.0), Rule(Selector("other"), value.default + 7), rule), value.default + 7
        )
        if alone == other.resolve(FLUX).weight(key):  # the default does not show: the rule applies
            expected = alone
    assert value.resolve(FLUX).weight(key) == expected


ALPHABET = "DSLBTE0123456789.,;=-{}()%*: \nRUAXabxnorm<>\"'#" + "\u00e9\u0665"


@settings(max_examples=400)
@given(
    st.one_of(st.text(ALPHABET, max_size=60), st.text(max_size=40), st.text(string.printable, max_size=60)),
    st.sampled_from(LAYOUTS),
)
def test_any_text_is_read_or_refused_in_words(text, layout):
    try:
        value = parse(text, layout)
    except BlockTextError as error:
        assert str(error)
        return
    assert parse(format_weights(value), layout) == value


@given(st.lists(numbers, min_size=2, max_size=70), st.sampled_from(LAYOUTS))
def test_a_vector_is_taken_by_its_length_alone(values, layout):
    text = ", ".join(map(str, values))
    if len(values) in forms(layout):
        value = parse(text, layout)
        assert value.notes and parse(format_weights(value), layout) == value
    else:
        with pytest.raises(BlockTextError, match=f"has {len(values)} entries, but {layout.title} takes"):
            parse(text, layout)


@given(
    st.sampled_from(
        [
            "{" * 9000,
            "[" * 9000,
            "even(" * 4000,
            "lbw=" * 4000,
            "<lora:" * 3000,
            "D{1," * 4000,
            '{"a":' * 4000,
        ]
    )
)
def test_deep_nonsense_does_not_overflow(text):
    with pytest.raises(BlockTextError):
        parse(text, FLUX)
    with pytest.raises(BlockTextError):
        parse('{"double_blocks.3.": ' + "9" * 5000 + "}", FLUX)
