"""The two halves of a pair, by name and by header, against hand-written names."""

import pytest

from strata.lora_math.errors import StrataError
from strata.lora_math.experts import Half, expert_in_name, expert_of_header, half_of

PAIRS = [
    ("style_high_noise.safetensors", "style_low_noise.safetensors"),
    ("high_noise_model.safetensors", "low_noise_model.safetensors"),
    ("lightx2v/high_noise_model.safetensors", "lightx2v/low_noise_model.safetensors"),
    ("Wan22_HighNoise_style.safetensors", "Wan22_LowNoise_style.safetensors"),
    ("WanHighNoiseStyle.safetensors", "WanLowNoiseStyle.safetensors"),
    ("style-HIGH.safetensors", "style-LOW.safetensors"),
    ("style HIGHNOISE v2.safetensors", "style LOWNOISE v2.safetensors"),
    ("style_highnoise.safetensors", "style_lownoise.safetensors"),
    ("style.high.safetensors", "style.low.safetensors"),
    ("wan\\high\\style.safetensors", "wan\\low\\style.safetensors"),
    ("high/style_high.safetensors", "low/style_low.safetensors"),
    ("high/style_high.safetensors", "high/style_low.safetensors"),
    ("high_quality_lownoise.safetensors", "high_quality_highnoise.safetensors"),
    ("high2.safetensors", "low2.safetensors"),
]


def silent(_):
    return None


@pytest.mark.parametrize(("high", "low"), PAIRS)
def test_each_half_finds_the_other_one(high, low):
    first, second = half_of(high, {high, low, "other.safetensors"}, silent), half_of(low, {high, low}, silent)
    assert first.bare is second.bare is ("noise" not in high.lower())
    assert (first.other, second.other) == (low, high)
    assert {first.expert, second.expert} == {"high", "low"}


@pytest.mark.parametrize(
    "name",
    ["highlight.safetensors", "slow.safetensors", "HIGHER.safetensors", "flow_x.safetensors", "Lowry.safetensors"],
)
def test_a_word_is_whole(name):
    swapped = name.replace("high", "low").replace("HIGH", "LOW") if "igh" in name.lower() else name.replace("ow", "OW")
    assert half_of(name, {name, swapped, name.replace("low", "high"), name.replace("Low", "High")}, silent) == Half()
    assert expert_in_name(name) is None


@pytest.mark.parametrize("other", ["style_LOW_noise.safetensors", "style_Low_noise.safetensors", "style_low_noise.pt"])
def test_the_swap_is_exact(other):
    assert half_of("style_high_noise.safetensors", {"style_high_noise.safetensors", other}, silent).other is None


def test_a_word_without_its_other_half_counts_with_noise_only():
    assert half_of("low_light.safetensors", {"low_light.safetensors"}, silent) == Half()
    assert half_of("style_low_noise.safetensors", {"style_low_noise.safetensors"}, silent) == Half("low")


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("p_low_rank_high_noise.safetensors", "high"),
        ("Style_LowRank_HighNoise.safetensors", "high"),
        ("low vram/q_high_noise.safetensors", "high"),
        ("high/low poly lownoise.safetensors", "low"),
        ("high_noise_or_low_noise.safetensors", None),
    ],
)
def test_a_word_with_noise_outranks_one_without(name, expert):
    assert half_of(name, {name}, silent) == Half(expert)
    assert expert_in_name(name) == expert


def test_only_the_word_with_noise_leads_to_the_other_half():
    names = {f"{angle}_angle_{noise}_noise.pt" for angle in ("low", "high") for noise in ("low", "high")}
    assert half_of("low_angle_high_noise.pt", names, silent) == Half("high", "low_angle_low_noise.pt")
    assert half_of("high_angle_low_noise.pt", names, silent) == Half("low", "high_angle_high_noise.pt")
    two = {"low_angle_high_noise.pt", "high_angle_high_noise.pt"}
    assert all(half_of(name, two, silent) == Half("high") for name in two)


def test_a_folder_of_both_experts_says_nothing():
    high, low = "HighNoise and LowNoise/x_high.pt", "HighNoise and LowNoise/x_low.pt"
    assert half_of(high, {high, low}, silent) == Half("high", low)
    assert half_of(low, {high, low}, silent) == Half("low", high)


def test_a_pair_by_a_word_alone_is_none_where_a_header_speaks_against_it():
    low, high = "low-angle.pt", "high-angle.pt"
    assert half_of(low, {low, high}, silent) == Half("low", high, bare=True)
    assert half_of(low, {low, high}, {low: "low"}.get) == Half("low", high)
    for headers in ({low: "high", high: "high"}, {high: "low"}, {low: "high"}):
        assert half_of(low, {low, high}, headers.get) == Half(headers.get(low))


def test_letters_count_where_both_headers_say_the_same():
    high, low = "style-H.safetensors", "style-L.safetensors"
    headers = {high: "high", low: "low"}
    assert half_of(high, {high, low}, headers.get) == Half("high", low)
    assert half_of(low, {high, low}, headers.get) == Half("low", high)
    for wrong in ({}, {high: "high"}, {low: "low"}, {high: "low", low: "high"}):
        assert half_of(high, {high, low}, wrong.get).other is None


def test_the_header_counts_more_than_the_name_and_the_doubt_is_said():
    name = "style_high_noise.safetensors"
    found = half_of(name, {name}, lambda _: "low")
    assert found.expert == "low"
    assert "its name says high" in found.doubt
    assert half_of("style.safetensors", {"style.safetensors"}, lambda _: "high") == Half("high")


def test_two_possible_halves_are_said():
    name = "high_a_high.safetensors"
    with pytest.raises(StrataError, match="2 files could be the other half"):
        half_of(name, {name, "low_a_high.safetensors", "high_a_low.safetensors"}, silent)


@pytest.mark.parametrize(
    ("text", "expert"),
    [
        ("875,1000", "high"),
        ("900, 1000", "high"),
        ("0,875", "low"),
        ("0,900", "low"),
        ("0,1000", None),
        ("100,900", None),
        ("1000,875", None),
        ("875", None),
        ("", None),
        ("nan,1000", None),
        ("-1,875", None),
        ("875,1e9", None),
        ("x,y", None),
    ],
)
def test_headers(text, expert):
    assert expert_of_header({"modelspec.timestep_range": text}) == expert
    assert expert_of_header({}) is None


def test_a_name_of_a_hundred_thousand_words_is_one_pass():
    name = "high_" * 100_000 + "noise" * 100_000
    assert half_of(name, {name}, silent).other is None
