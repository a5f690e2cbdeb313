"""Presets into a user's file and out of it: what is written, what stays, what is refused."""

import json
import os
import threading

import hypothesis.strategies as st
import pytest
from deadline import deadline
from hypothesis import given

from strata.lora_math.blocks import FAMILIES, BlockTextError, builtin_layout, grammar, parse
from strata.lora_math.blocks.preset_saving import delete_preset, save_preset
from strata.lora_math.blocks.presets import MAX_PRESETS, builtin_presets, load_presets, read_presets, texts
from strata.tests.lora_math.blocks.test_presets import MINE


def test_saving(tmp_path):
    path = tmp_path / "deep" / "mine.json"
    save_preset(path, "SDXL", "One", "IN=0", "first")
    save_preset(path, None, "Two", "default=0.5")
    save_preset(path, "SDXL", "One", "IN=0.25")
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "SDXL": {"One": "IN=0.25"},
        "*": {"Two": "default=0.5"},
    }
    assert os.listdir(path.parent) == ["mine.json"]


def test_saving_keeps_comments_beside_the_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(MINE, encoding="utf-8")
    save_preset(path, "SDXL", "New", "IN=0")
    assert (tmp_path / "mine.json.bak").read_text(encoding="utf-8") == MINE
    assert {"New", "Soft face", "Quiet"} <= load_presets("SDXL", [path]).keys()


@pytest.mark.parametrize(
    ("family", "name", "text"), [("SDXL", "a", "Q=1"), ("Nope", "a", "IN=1"), ("SDXL", " ", "IN=1")]
)
def test_what_cannot_be_read_is_not_saved(tmp_path, family, name, text):
    with pytest.raises(BlockTextError):
        save_preset(tmp_path / "mine.json", family, name, text)
    assert not os.listdir(tmp_path)


def test_a_broken_file_is_not_overwritten(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL": {', encoding="utf-8")
    with pytest.raises(BlockTextError, match=r"^mine\.json, line 1"):
        save_preset(path, "SDXL", "a", "IN=1")
    assert path.read_text(encoding="utf-8") == '{"SDXL": {'


def test_readers_never_see_half_a_file(tmp_path):
    """A reader beside a writer gets a whole file every time."""
    path = tmp_path / "mine.json"
    save_preset(path, "SDXL", "0", "IN=0")
    done = threading.Event()

    def write():
        for number in range(20):
            save_preset(path, "SDXL", str(number), "IN=0", "long" * 5000)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert "0" in json.loads(path.read_text(encoding="utf-8"))["SDXL"]
    writer.join()


def test_eight_clients_that_save_at_once_lose_nothing(tmp_path):
    path = tmp_path / "mine.json"

    def client(number):
        for at in range(10):
            save_preset(path, ("SDXL", "FLUX.1", None)[at % 3], f"{number} {at}", "default=0.5")

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert {p.name for p in read_presets(path)} == {f"{number} {at}" for number in range(8) for at in range(10)}


def test_a_family_title_that_comes_twice_keeps_both_sections(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL": {"a": "IN=0", "b": "IN=0.1"}, "*": {}, "SDXL": {"b": "IN=0.2"}}', encoding="utf-8")
    assert load_presets("SDXL", [path])["b"].weights == "IN=0.2"
    save_preset(path, "SDXL", "c", "IN=0.3")
    found = {name: preset.weights for name, preset in load_presets("SDXL", [path]).items() if preset.user}
    assert found == {"a": "IN=0", "b": "IN=0.2", "c": "IN=0.3"}


def test_deleting_is_for_one_family(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        '{"SDXL, SD1.5": {"a": "IN=0"}, "FLUX.1": {"a": "D=0"}, "*": {"a": "default=0", "b": "default=1"}}',
        encoding="utf-8",
    )
    weights = lambda family: {n: p.weights for n, p in load_presets(family, [path]).items() if p.user}  # noqa: E731
    assert weights("SDXL")["a"] == "default=0", "the last one counts"
    assert delete_preset(path, "SDXL", "a"), "the one that the family sees"
    assert weights("SDXL") == {"a": "IN=0", "b": "default=1"}
    assert delete_preset(path, "SDXL", "a")
    assert weights("SDXL") == {"b": "default=1"}
    assert weights("SD1.5") == {"a": "IN=0", "b": "default=1"}, "what it shared stays with the others"
    assert weights("FLUX.1") == {"a": "D=0", "b": "default=1"}
    assert not delete_preset(path, None, "a")
    assert delete_preset(path, None, "b")
    assert not delete_preset(tmp_path / "none.json", None, "b")


@pytest.mark.parametrize(
    ("sections", "family", "seen"),
    [
        ({"SDXL": {"other": "IN=0"}, "*": {"mine": "default=0.5"}}, "SDXL", {"SDXL": "IN=0.25", "Wan": "default=0.5"}),
        (
            {"SDXL": {"other": "IN=0"}, "SDXL, SD1.5": {"mine": "IN=0.5"}},
            "SDXL",
            {"SDXL": "IN=0.25", "SD1.5": "IN=0.5"},
        ),
        ({"*": {"other": "default=0"}, "SDXL": {"mine": "IN=0.5"}}, None, {"SDXL": "IN=0.25", None: "IN=0.25"}),
        ({"SDXL": {"mine": "IN=0.5", " mine ": "IN=0.75"}}, "SDXL", {"SDXL": "IN=0.25"}),
    ],
)
def test_what_was_saved_acts(tmp_path, sections, family, seen):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(sections), encoding="utf-8")
    save_preset(path, family, "mine", "IN=0.25")
    assert {known: load_presets(known, [path])["mine"].weights for known in seen} == seen
    # No other program reads a key that comes twice, so none is written where it can be avoided.
    assert len(json.loads(path.read_text(encoding="utf-8"))) == len(sections) + (
        family == "SDXL" and "SDXL" not in sections
    )


def test_deleting_for_one_family_leaves_another_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL, SD1.5": {"mine": "IN=0.1"}, "SD1.5": {"mine": "IN=0.9"}}', encoding="utf-8")
    assert delete_preset(path, "SDXL", "mine")
    assert load_presets("SD1.5", [path])["mine"].weights == "IN=0.9"
    assert "mine" not in load_presets("SDXL", [path])


SEEN_BY = ("SDXL", "SD1.5", "FLUX.1", "Wan", None)
own_sections = st.lists(
    st.tuples(
        st.sampled_from(["SDXL", "SD1.5", "*", "SDXL, SD1.5", "SD1.5,SDXL , FLUX.1", "FLUX.1, SDXL", "SD1.5, SD1.5"]),
        st.lists(st.sampled_from(["x", " x", "y", "z "]), max_size=3, unique=True),
    ),
    max_size=6,
)


def stacks(sections) -> dict:
    """(family, name) -> every text that a file holds for it, the one that counts last, and whether it is one for all families."""
    found = {}
    for title, entries in sections:
        # Spaces around a name make no other one of it.
        for name, text in {name.strip(): text for name, text in entries}.items():
            for family in SEEN_BY:
                if title == "*" or family in [known.strip() for known in title.split(",")]:
                    found.setdefault((family, name), []).append((text, title == "*"))
    return found


def own_texts(path) -> dict:
    return {(f, n): p.weights for f in SEEN_BY for n, p in load_presets(f, [path]).items() if p.user}


@given(
    own_sections,
    st.lists(st.tuples(st.booleans(), st.sampled_from(SEEN_BY), st.sampled_from("xyz")), min_size=1, max_size=4),
)
def test_saving_and_deleting_change_what_they_are_asked_to_and_nothing_else(tmp_path_factory, written, steps):
    path = tmp_path_factory.getbasetemp() / "law.json"
    sections = [(t, [(n, f"default=0.{at}{i}") for i, n in enumerate(names)]) for at, (t, names) in enumerate(written)]
    bodies = (
        f"{json.dumps(t)}: {{{', '.join(f'{json.dumps(n)}: {json.dumps(w)}' for n, w in e)}}}" for t, e in sections
    )
    path.write_text(f"{{{', '.join(bodies)}}}", encoding="utf-8")
    known = stacks(sections)
    expected = {key: texts[-1][0] for key, texts in known.items()}
    assert own_texts(path) == expected
    for number, (saves, family, name) in enumerate(steps):
        if saves:
            save_preset(path, family, name, f"default=7.{number}")
            asked = SEEN_BY if family is None else (family,)
            expected |= {(seen, name): f"default=7.{number}" for seen in asked}
            assert own_texts(path) == expected
        else:
            before = own_texts(path)
            mine = load_presets(family, [path]).get(name)
            assert delete_preset(path, family, name) == ((family, name) in before)
            after = own_texts(path)
            asked = {(family, name)}
            if mine is not None and not mine.families:
                asked = {(seen, name) for seen in SEEN_BY if before.get((seen, name)) == mine.weights}
            assert {key: text for key, text in after.items() if key not in asked} == {
                key: text for key, text in before.items() if key not in asked
            }
            assert all(key not in before or after.get(key) != before[key] for key in asked)
            if number == 0 and asked == {(family, name)} and (family, name) in known:
                assert after.get((family, name)) == next((text for text, _ in known[family, name][-2::-1]), None)
            expected = after


def test_names_with_spaces_around_are_one_name(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"SDXL": {" mine ": "IN=0"}}', encoding="utf-8")
    save_preset(path, "SDXL", " mine", "IN=0.5")
    assert [(p.name, p.weights) for p in read_presets(path)] == [("mine", "IN=0.5")]
    assert delete_preset(path, "SDXL", "mine  ")
    assert not read_presets(path)


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "shared.json", tmp_path / "mine.json"
    target.write_text("{}", encoding="utf-8")
    target.chmod(0o664)
    link.symlink_to(target)
    save_preset(link, "SDXL", "a", "IN=0")
    assert link.is_symlink()
    assert "a" in json.loads(target.read_text(encoding="utf-8"))["SDXL"]
    assert target.stat().st_mode & 0o777 == 0o664
    assert os.listdir(target.parent) == ["shared.json"]


def test_a_new_file_has_the_mode_that_files_have_here(tmp_path):
    save_preset(tmp_path / "mine.json", "SDXL", "a", "IN=0")
    (tmp_path / "other").touch()
    assert (tmp_path / "mine.json").stat().st_mode == (tmp_path / "other").stat().st_mode


BAD_NAMES = [
    "default=0",
    "IN4=0.5",
    "1,0,1",
    "a,R",
    "x;",
    "{a",
    "%a",
    "<lora:x:lbw=MIDD>",
    "",
    "  ",
    "a\nb",
    "\x7f",
    "\ud800",
    "x" * 101,
    "invert(MIDD)",
    "Invert (x",
    "seed(1, MIDD)",
    "even(IN)",
    "odd(D0-10)",
    "*",
    "IN*",
    "none",
    "None",
    "(none)",
    "<none>",
    "[]",
    "null",
    "auto",
    "Auto",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_reads_as_something_else_is_refused(tmp_path, name):
    with pytest.raises(BlockTextError, match="name"):
        save_preset(tmp_path / "mine.json", "SDXL", name, "IN=0")
    assert not os.listdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"SDXL": {"fine": "IN=0", name: "IN=1"}}), encoding="utf-8")
    with pytest.raises(BlockTextError, match=r"^mine\.json, line 1: "):
        load_presets("SDXL", [tmp_path / "mine.json"])


MEANS_BLOCKS = [
    *("TE", "te", "TE:clip_l", "TE:t5xxl.3", "OTHER", "other", "default", "Default", "even", "ODD"),
    *("IN4", "in4", "M", "OUT", "D0-10", "S{7,12}", "IN3-OUT2", "B", "IN4.attn", "0%-50%", "attn", "Img", "IN4, OUT2"),
]


@pytest.mark.parametrize("family", [*FAMILIES, None])
def test_every_block_and_group_of_a_family_is_a_name_that_means_blocks(tmp_path, family):
    layout = builtin_layout(family or "SDXL")
    names = {*layout.counts, *(block.name for block in layout.blocks), *(f"TE:{name}" for name in layout.encoders)}
    for name in sorted(names):
        with pytest.raises(BlockTextError, match="word of block weights"):
            save_preset(tmp_path / "mine.json", family, name, "default=0")


@pytest.mark.parametrize("name", MEANS_BLOCKS)
def test_a_name_that_means_blocks_is_not_saved_and_an_old_one_still_read(tmp_path, name):
    path = tmp_path / "mine.json"
    with pytest.raises(BlockTextError, match=r"word of block weights.*Give the preset another name"):
        save_preset(path, "SDXL", name, "IN*=0")
    assert not path.exists()
    path.write_text(json.dumps({"SDXL": {name: "IN*=0"}}), encoding="utf-8")
    layout, named = builtin_layout("SDXL"), texts(load_presets("SDXL", [path]))
    assert parse(name, layout, presets=named) == parse("IN*=0", layout)
    save_preset(path, "SDXL", "mine", "IN*=1")
    assert [preset.name for preset in read_presets(path)] == [name, "mine"]
    # It stays the person's own.
    assert save_preset(path, "SDXL", name, "IN*=0.5").weights == "IN*=0.5"
    assert delete_preset(path, "SDXL", name)


def test_no_preset_of_the_pack_is_called_as_blocks_are():
    names = {name for preset in builtin_presets() for name in (preset.name, *preset.also)}
    # Inspire publishes one of that name: all blocks at 1.
    assert {name for name in names if grammar.means_blocks(name)} == {"Default"}


@pytest.mark.parametrize(
    "name",
    [
        "MIDD 2",
        "IN4 soft",
        "S 2",
        "teal",
        "a: b",
        "\u4eba\u50cf",
        "\u4eba \u50cf\u3000x",
        "\U0001f469\u200d\U0001f3a8",
        "1",
        "50%",
        "Face (2-4)",
        "evening (x)",
        "NONE",
        "face(2)",
    ],
)
def test_other_names_are_the_persons_own(tmp_path, name):
    save_preset(tmp_path / "mine.json", "SDXL", name, "IN=0")
    layout, named = builtin_layout("SDXL"), texts(load_presets("SDXL", [tmp_path / "mine.json"]))
    assert parse(name, layout, presets=named) == parse("IN=0", layout)
    assert delete_preset(tmp_path / "mine.json", "SDXL", name)


@pytest.mark.parametrize("field", ["weights", "about"])
def test_half_a_character_is_refused(tmp_path, field):
    body = {"weights": "IN=0", "about": "", field: "IN=0 \udfff" if field == "weights" else "\udfff"}
    with pytest.raises(BlockTextError):
        save_preset(tmp_path / "mine.json", "SDXL", "a", **body)
    assert not os.listdir(tmp_path)


def test_half_a_character_in_the_file_survives_the_next_save(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(r'{"SDXL": {"a": {"weights": "IN=0", "about": "\ud800"}}}', encoding="utf-8")
    save_preset(path, "SDXL", "mine", "IN=1")
    assert [p.about for p in read_presets(path)] == ["\ud800", ""]


@pytest.mark.parametrize("size", [MAX_PRESETS + 1, 400_000])
def test_a_file_of_more_presets_than_anyone_has_is_refused(tmp_path, size):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"*": {f"p{n}": "default=0" for n in range(size)}}), encoding="utf-8")
    with deadline(), pytest.raises(BlockTextError, match=r"mine\.json (holds|is larger)"):
        load_presets("SDXL", [path])


def test_a_full_file_takes_no_more(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"*": {f"own {n}": "default=0" for n in range(MAX_PRESETS)}}), encoding="utf-8")
    save_preset(path, None, "own 7", "default=1")
    with pytest.raises(BlockTextError, match="Delete some"):
        save_preset(path, None, "one more", "default=1")
    assert len(load_presets(None, [path])) > MAX_PRESETS
