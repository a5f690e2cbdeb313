"""Strength over the sampling: its text, and what lies between its points."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.lora_math.errors import StrataError
from strata.lora_math.schedule import PRESETS, SHAPES, Place, Schedule, of_steps, parse


def at(schedule, value):
    return schedule.at(Place(value, value, value))


TEXTS = [
    ("0@0, 1@.5, 0@1", Schedule(((0, 0), (0.5, 1), (1, 0)))),
    ("0@0,1@.5,0@1", Schedule(((0, 0), (0.5, 1), (1, 0)))),
    ("0@0;1@0.5;\n0@1;", Schedule(((0, 0), (0.5, 1), (1, 0)))),
    ("1@0%, -0.5@ 50 %", Schedule(((0, 1), (0.5, -0.5)))),
    ("0@0, 1@10", Schedule(((0, 0), (10, 1)), "step")),
    ("0@0s, 1@4s", Schedule(((0, 0), (4, 1)), "step")),
    ("1@14.6sigma, 0@2sigma", Schedule(((14.6, 1), (2, 0)), "sigma")),
    ("hold: 1@0, 0@33%", Schedule(((0, 1), (0.33, 0)), "percent", "hold")),
    ("Smooth 0@0, 1@1", Schedule(((0, 0), (1, 1)), "percent", "smooth")),
    ("0.8", Schedule(((0, 0.8),))),
    ("Fade  In", Schedule(((0, 0), (1, 1)))),
]


@pytest.mark.parametrize("text, schedule", TEXTS, ids=[text for text, _ in TEXTS])
def test_texts(text, schedule):
    assert parse(text) == schedule
    assert parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty"),
        (", ;", "is empty"),
        ("0@0, 1", "'1' says no place"),
        ("x@0", "'x@0' is no point"),
        ("1@nan", "'1@nan' is no point"),
        ("1@0, 1e999@1", "is no point"),
        ("1_0@0", "'1_0@0' is no point"),
        ("1e30@0", "is no point"),
        ("1@-1", "is no point"),
        ("1@@1", "is no point"),
        ("1@50%, 0@4s", "one unit"),
        ("1@0, 0.5@1, 0@10", "'0.5@1' could be a part of the sampling or a step"),
        ("1@4s, 0@10", "'0@10' says no unit"),
        ("1@1, 0@0.5", "stand in order"),
        ("1@2sigma, 0@14sigma", "from much noise to little"),
        (", ".join(["1@0"] * 1001), "1 to 1000 points"),
        ("1@0," * 10_000, "characters long"),
    ],
)
def test_what_is_no_schedule_says_where(text, words):
    with pytest.raises(StrataError, match=words):
        parse(text)


def test_between_points():
    linear = parse("0@0.2, 1@0.6")
    assert [at(linear, x) for x in (0, 0.2, 0.3, 0.6, 1)] == pytest.approx([0, 0, 0.25, 1, 1])
    smooth = parse("smooth: 0@0.2, 1@0.6")
    assert [at(smooth, x) for x in (0.2, 0.3, 0.4, 0.6)] == pytest.approx([0, 0.15625, 0.5, 1])
    hold = parse("hold: 1@0.2, -2@0.6")
    assert [at(hold, x) for x in (0, 0.59, 0.6, 1)] == [1, 1, -2, -2]
    jump = parse("1@0, 1@0.5, 0@0.5, 0@1")
    assert [at(jump, x) for x in (0, 0.49, 0.5, 1)] == [1, 1, 0, 0]


def test_sigmas_fall():
    schedule = parse("1@10sigma, 0@2sigma")
    assert [schedule.at(Place(0, 0, sigma)) for sigma in (14, 10, 6, 2, 0)] == pytest.approx([1, 1, 0.5, 0, 0])


def test_a_list_is_a_strength_for_each_step():
    schedule = of_steps([0.2, -1, 3])
    assert [schedule.at(Place(0, step, 0)) for step in (0, 0.9, 1, 2, 7)] == [0.2, 0.2, -1, 3, 3]
    with pytest.raises(StrataError, match="1 to 1000 points, not 0"):
        of_steps([])
    with pytest.raises(StrataError, match="no point"):
        of_steps([1, math.nan])


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    schedule = parse(name)
    assert not schedule.is_constant
    assert {strength for _, strength in schedule.points} == {0, 1}


numbers = st.floats(-1e6, 1e6)


@st.composite
def schedules(draw):
    unit = draw(st.sampled_from(["percent", "step", "sigma"]))
    most = {"percent": 1.0, "step": 1e4, "sigma": 1e5}[unit]
    places = sorted(draw(st.lists(st.floats(0, most), min_size=1, max_size=12)), reverse=unit == "sigma")
    again = None if unit == "sigma" or draw(st.booleans()) else places[-1] + draw(st.floats(0.01, 100))
    return Schedule(tuple((place, draw(numbers)) for place in places), unit, draw(st.sampled_from(SHAPES)), again)


@given(schedules())
@settings(deadline=None)
def test_text_and_schedule_are_inverse(schedule):
    read = parse(str(schedule))
    assert (read.unit, read.shape) == (schedule.unit, schedule.shape)
    assert [s for _, s in read.points] == [s for _, s in schedule.points]
    assert (read.again is None) == (schedule.again is None)
    assert read.again == schedule.again or math.isclose(read.again, schedule.again, rel_tol=1e-15)
    for (a, _), (b, _) in zip(read.points, schedule.points, strict=True):
        assert a == b or math.isclose(a, b, rel_tol=1e-15)
    assert str(parse(str(read))) == str(read)


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("hold: 1@0s, 0@2s, again@6s", [1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1]),
        ("hold: 0@0s, 1@4s, again@6s", [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0]),
        ("0@0s, 1@2s, AGAIN@4s", [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0]),
        ("0@0,1@2,again@4", [0, 0.5, 1, 1, 0]),
    ],
)
def test_points_that_come_again(text, strengths):
    found = parse(text)
    assert [found.at(Place(0.0, float(step), 1.0)) for step in range(len(strengths))] == strengths
    assert found.at(Place(0.0, 6000.0, 1.0)) == strengths[0]


@pytest.mark.parametrize("steps", [10, 20, 40, 30, 60])
def test_turns_in_percent_begin_where_their_points_stand(steps):
    """A fraction of a whole divided by another leaves a rest that is a little less than the fraction it is."""
    found = parse("hold: 1@0%, 0@5%, again@10%")
    for step in range(steps):
        exact = Fraction(step, steps) % Fraction(1, 10) < Fraction(1, 20)
        assert found.at(Place(step / steps, float(step), 1.0)) == exact, step


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1@0s, again@0s", "again stands behind all points"),
        ("1@0s, again@2s, 0@3s", "'again@2s' is no point: again stands once, behind all points"),
        ("again@2s", "'again@2s' is no point"),
        ("1@0s, again@2s, again@3s", "'again@2s' is no point"),
        ("1@2sigma, again@1sigma", "Noise never comes again"),
        ("1@0s, again@50%", "counts in one unit"),
        ("1@0, again@nan", "no point"),
    ],
)
def test_again_is_refused_where_it_means_nothing(text, words):
    with pytest.raises(StrataError, match=words):
        parse(text)


@given(schedules(), st.floats(0, 1e5))
@settings(deadline=None)
def test_it_never_leaves_its_points(schedule, value):
    strengths = [strength for _, strength in schedule.points]
    slack = 1e-9 * max(1.0, *map(abs, strengths))
    assert min(strengths) - slack <= at(schedule, value) <= max(strengths) + slack


@given(st.text(alphabet="0123456789.@,;%sigmahold: -e_\n", max_size=60))
@settings(deadline=None)
def test_any_text_is_read_or_refused_in_words(text):
    try:
        schedule = parse(text)
    except StrataError as problem:
        assert str(problem)
    else:
        assert str(parse(str(schedule))) == str(schedule)
