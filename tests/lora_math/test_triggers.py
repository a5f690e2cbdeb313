"""Trigger words from headers and sidecars: the precedence, each format, and hostile ones."""

import json

import pytest

from strata.lora_math.reading.trigger_words import MAX_WORDS, trigger_words

HEADER = {
    "modelspec.trigger_phrase": "phrase one, phrase two",
    "ss_datasets": json.dumps([{"subsets": [{"class_tokens": "ohwx woman"}, {"class_tokens": None}]}]),
    "ss_dataset_dirs": json.dumps({"10_sks_dog": {"n_repeats": 10, "img_count": 5}}),
    "ss_tag_frequency": json.dumps({"10_sks_dog": {"always": 5, "often": 4}}),
}


@pytest.fixture
def lora(tmp_path):
    return tmp_path / "style.v1.safetensors"


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_the_order_of_trust(lora):
    """From the weakest source to the strongest: each new one replaces all before it."""
    folder, stem = lora.parent, "style.v1"
    words = lambda header: trigger_words(str(lora), header)  # noqa: E731
    write(folder / f"{stem}.txt", "from notes")
    assert words({}) == ["from notes"]
    tags = {key: HEADER[key] for key in ("ss_tag_frequency", "ss_dataset_dirs")}
    tags["ss_dataset_dirs"] = tags["ss_dataset_dirs"].replace("10_sks_dog", "images")
    tags["ss_tag_frequency"] = tags["ss_tag_frequency"].replace("10_sks_dog", "images")
    assert words(tags) == ["always"]
    assert words({k: v for k, v in HEADER.items() if k != "modelspec.trigger_phrase"}) == ["ohwx woman", "sks dog"]
    assert words(HEADER) == ["phrase one", "phrase two"]
    write(folder / f"{stem}.civitai.info", {"trainedWords": ["civitai one, civitai two"]})
    assert words(HEADER) == ["civitai one", "civitai two"]
    write(folder / f"{stem}.json", {"activation text": "typed by hand"})
    assert words(HEADER) == ["typed by hand"]


@pytest.mark.parametrize("key", ["modelspec.trigger_phrase", "trained_words"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ohwx woman, sks", ["ohwx woman", "sks"]),
        ('["ohwx", ["sks, dog"], null, {"a": 1}]', ["ohwx", "sks", "dog"]),
        ('"ohwx"', ["ohwx"]),
        ("2001", ["2001"]),
        ("null", []),
        ("true", []),
        ('{"a": 1}', []),
        ("[ohwx", ["[ohwx"]),
    ],
)
def test_words_in_a_header_are_text_or_json(lora, key, text, expected):
    assert trigger_words(str(lora), {key: text}) == expected


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("style.v1.metadata.json", {"civitai": {"trainedWords": ["a", "b"]}}, ["a", "b"]),
        ("style.v1.metadata.json", {"trainedWords": ["a"]}, ["a"]),
        (
            "style.v1.safetensors.rgthree-info.json",
            {"trainedWords": [{"word": "a", "civitai": True}, {"word": "b"}]},
            ["a", "b"],
        ),
        (
            "style.v1.safetensors.rgthree-info.json",
            {"trainedWords": [{"word": "a"}, {"word": "b", "user": True}]},
            ["b"],
        ),
        ("style.v1.civitai.info", {"trainedWords": ["A", "a", " a ,", ""]}, ["A"]),
    ],
)
def test_each_sidecar(lora, name, content, expected):
    write(lora.parent / name, content)
    assert trigger_words(str(lora), {}) == expected


MALFORMED = [
    b"",
    b"not json",
    b"[" * 100_000,
    b"[]",
    b"null",
    b'"text"',
    b'{"trainedWords": 7}',
    b'{"trainedWords": [[1], {"word": 5}]}',
    b"\xed\xa0\x80",  # half of a surrogate pair
]


@pytest.mark.parametrize("content", MALFORMED)
def test_malformed_sources_are_silent(lora, content):
    for name in (
        "style.v1.json",
        "style.v1.civitai.info",
        "style.v1.metadata.json",
        "style.v1.safetensors.rgthree-info.json",
    ):
        path = lora.parent / name
        path.write_bytes(content)
    header = {key: "[" * 100_000 for key in HEADER if key != "modelspec.trigger_phrase"} | {
        "ss_datasets": '[{"subsets": 5}]'
    }
    assert trigger_words(str(lora), header) == []


def test_words_are_bounded_and_printable(lora):
    write(
        lora.parent / "style.v1.civitai.info",
        {"trainedWords": [f"word{i}\n\x07" for i in range(5000)] + ["x" * 10_000]},
    )
    words = trigger_words(str(lora), {})
    assert len(words) == MAX_WORDS
    assert words[0] == "word0"
    write(lora.parent / "style.v1.civitai.info", {"trainedWords": ["x" * 10_000]})
    assert len(trigger_words(str(lora), {})[0]) == 500


def test_half_a_character_never_reaches_a_tokenizer(lora):
    lora.parent.joinpath("style.v1.json").write_text('{"activation text": "a\\ud83d b, \\udc00"}', encoding="utf-8")
    assert trigger_words(str(lora), {}) == ["a b"]
