"""Which cells a sweep has: settings by hand-made tables, what they are compared with, their order, and their hashes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from strata.lora_math.blocks import builtin_layout
from strata.lora_math.errors import StrataError
from strata.lora_math.schedule import Variation
from strata.nodes.comfy.live_time import read_variation
from strata.nodes.fitting.block_spec import BlockSpec
from strata.nodes.stack import StackEntry
from strata.nodes.sweep import identity
from strata.nodes.sweep.axes import Known, read_axis
from strata.nodes.sweep.plan import CELL, NOTHING, STRENGTH_ZERO, UNCHANGED, Settings, model_key, plan

LAYOUT = builtin_layout("FLUX.1")
ROWS = (StackEntry("a.safetensors", 0.8, 0.5), StackEntry("b.safetensors", 1.0, 1.0))
PLAIN = Settings(ROWS, "a fox, oil", "bad", 5, 20, 7.0)
KNOWN = Known([row[0] for row in ROWS], lambda: ["a.safetensors", "b.safetensors", "c.safetensors"], lambda _: ["D00"])


def axes(*asked):
    return [read_axis(letter, kind, text, KNOWN) for letter, (kind, text) in zip("xyz", asked, strict=False)]


def made(*asked, compare=NOTHING, chosen=1, plain=PLAIN):
    return plan(plain, axes(*asked), LAYOUT, compare, chosen)


def strengths(cell):
    return [(row[1], row[2]) for row in cell.settings.rows]


def test_x_is_innermost():
    found = made(("strength", "row 1: 0, 1"), ("seed", "7, 8"), ("cfg", "1, 2"))
    told = [(cell.settings.rows[0][1], cell.settings.seed, cell.settings.cfg) for cell in found.cells]
    assert told == [
        *((0, 7, 1), (1, 7, 1), (0, 8, 1), (1, 8, 1)),
        *((0, 7, 2), (1, 7, 2), (0, 8, 2), (1, 8, 2)),
    ]
    assert found.labels(found.cells[6]) == ["0", "8", "2"]


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        (("strength", "row 2: 0.3"), [(0.8, 0.5), (0.3, 0.3)]),
        (("strength model", "row 1: -1"), [(-1, 0.5), (1, 1)]),
        (("strength clip", "row 1: 2"), [(0.8, 2), (1, 1)]),
        (("strength", "all rows: 0.5"), [(0.4, 0.25), (0.5, 0.5)]),
        (("strength model", "all rows: 2"), [(1.6, 0.5), (2, 1)]),
    ],
)
def test_strengths(asked, rows):
    assert strengths(made(asked).cells[0]) == rows


def test_the_rest():
    assert made(("prompt", "fox, cat")).cells[1].settings.positive == "a cat, oil"
    assert made(("prompt", "bad, worse")).cells[1].settings.negative == "worse"
    assert made(("steps", "4")).cells[0].settings.steps == 4
    other = made(("LoRA file", "row 2: c.safetensors"), ("strength", "row 2: 0.2")).cells[0].settings
    assert [tuple(row) for row in other.rows] == [("a.safetensors", 0.8, 0.5), ("c.safetensors", 0.2, 0.2)]
    timed = made(("strength over time", "row 1: fade in")).cells[0].settings.rows
    assert read_variation(timed[0].keyframes).time.written == [(0, 0), (100, 1)] and timed[1].keyframes is None
    with pytest.raises(StrataError, match="'dog' stands in neither prompt"):
        made(("prompt", "dog, cat"))


BLOCKS = [("D00", "double_blocks.0"), ("D03", "double_blocks.3"), ("S05", "single_blocks.5")]


def weights_of(cell):
    """Block by block as the loader reads the text."""
    found = cell.settings.rows[0].block_weights.read(LAYOUT).resolve(LAYOUT)
    keys = [f"diffusion_model.{prefix}.x.weight" for _, prefix in BLOCKS]
    return [found.weight(key) for key in (*keys, "diffusion_model.img_in.weight", "clip_l.transformer.x.weight")]


@pytest.mark.parametrize(
    ("kind", "text", "own", "found"),
    [
        ("without block", "D3", None, [1, 0, 1, 1, 1]),
        ("without block", "S*", None, [1, 1, 0, 1, 1]),
        ("without block", "TE", None, [1, 1, 1, 1, 0]),
        ("without block", "D3", "D*=0.5, TE=0.2, default=0.7", [0.5, 0, 0.7, 0.7, 0.2]),
        ("only block", "D3", None, [0, 1, 0, 0, 0]),
        ("only block", "D3", "D*=0.5, TE=0.2, OTHER=0.1, default=0.7", [0, 0.5, 0, 0, 0]),
        ("only block", "S*", "D*=0.5, TE=0.2, OTHER=0.1, default=0.7", [0, 0, 0.7, 0, 0]),
        ("only block", "TE", "D*=0.5, TE=0.2, OTHER=0.1, default=0.7", [0, 0, 0, 0, 0.2]),
        ("only block", "OTHER", None, [0, 0, 0, 1, 0]),
        ("block weight", "D*: 0.25", None, [0.25, 0.25, 1, 1, 1]),
        ("block weight", "D3: -1", "D*=0.5, default=0.7", [0.5, -1, 0.7, 0.7, 0.7]),
    ],
)
def test_blocks(kind, text, own, found):
    row = StackEntry("a.safetensors", 1.0, 1.0, None if own is None else BlockSpec(own))
    plain = replace(PLAIN, rows=(row, ROWS[1]))
    assert weights_of(made((kind, f"row 1: {text}"), plain=plain).cells[0]) == found


def test_leaving_two_blocks_out_at_once():
    found = made(("without block", "row 1: D00, D03"), ("without block", "row 1: S5, D0"))
    assert [weights_of(cell)[:3] for cell in found.cells] == [[0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_a_part_of_a_block_beside_weights_of_ones_own_is_refused():
    row = StackEntry("a.safetensors", 1.0, 1.0, BlockSpec("D*=0.5, default=1"))
    with pytest.raises(StrataError, match="Choose whole blocks"):
        made(("only block", "row 1: D3.attn"), plain=replace(PLAIN, rows=(row, ROWS[1])))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("strength", "row 1: 0, 1"), ("strength model", "row 1: 1")),
        (("strength", "all rows: 0, 1"), ("strength", "row 2: 1")),
        (("seed", "1"), ("seed", "2")),
        (("block weight", "row 1: D*: 1"), ("block weight", "row 1: D*: 1")),
    ],
)
def test_two_axes_of_one_thing_are_refused(one, other):
    with pytest.raises(StrataError, match="The axes x and y both set"):
        made(one, other)


def test_two_axes_of_different_rows_and_blocks():
    assert len(made(("strength", "row 1: 0, 1"), ("strength", "row 2: 0, 1")).cells) == 4
    assert len(made(("strength clip", "row 1: 0, 1"), ("strength model", "row 1: 0, 1")).cells) == 4
    assert len(made(("block weight", "row 1: D*: 0, 1"), ("block weight", "row 1: S*: 0, 1")).cells) == 4


def test_too_many_cells():
    with pytest.raises(StrataError, match="1000 x 2 are 2000 cells; the most are 1000"):
        made(("seed", "1-1000"), ("cfg", "1, 2"))


def test_strength_zero_is_a_cell_of_its_own_where_no_cell_is_that():
    found = made(("strength", "row 1: 0.5, 1"), ("seed", "7, 8"), compare=STRENGTH_ZERO)
    assert [cell.base for cell in found.shown] == [4, 4, 5, 5]
    assert [(strengths(cell)[0], strengths(cell)[1], cell.settings.seed) for cell in found.cells[4:]] == [
        ((0, 0), (1, 1), 7),
        ((0, 0), (1, 1), 8),
    ]
    within = made(("strength", "row 1: 0, 1"), ("seed", "7, 8"), compare=STRENGTH_ZERO)
    assert [cell.base for cell in within.cells] == [0, 0, 2, 2]
    every = made(("seed", "7, 8"), compare=STRENGTH_ZERO)
    assert [strengths(cell) for cell in every.cells[2:]] == [[(0, 0), (0, 0)]] * 2
    files = made(("LoRA file", "row 2: a, b, c"), compare=STRENGTH_ZERO)
    assert len(files.cells) == 4 and {cell.base for cell in files.shown} == {3}


def test_no_change_is_the_settings_without_the_axes_of_loras():
    found = made(("without block", "row 1: D0, D1"), ("seed", "7, 8"), compare=UNCHANGED)
    assert [cell.base for cell in found.shown] == [4, 4, 5, 5]
    assert [(cell.settings.rows[0].block_weights, cell.settings.seed) for cell in found.cells[4:]] == [
        (None, 7),
        (None, 8),
    ]


def test_a_chosen_cell():
    assert [cell.base for cell in made(("seed", "7, 8, 9"), compare=CELL, chosen=2).cells] == [1, 1, 1]
    with pytest.raises(StrataError, match="compare_cell is 4: this sweep has the cells 1 to 3"):
        made(("seed", "7, 8, 9"), compare=CELL, chosen=4)


def test_the_order_has_the_fewest_changes_of_the_model():
    found = made(("strength", "row 1: 0-1[5]"), ("seed", "7, 8, 9"), compare=STRENGTH_ZERO)
    assert sorted(found.order) == list(range(len(found.cells)))
    models = [model_key(found.cells[number].settings) for number in found.order]
    assert sum(one != other for one, other in pairwise(models)) == 4
    # In reading order it would be at every cell.
    models = [model_key(cell.settings) for cell in found.cells]
    assert sum(one != other for one, other in pairwise(models)) == 14


def test_what_others_are_compared_with_comes_first():
    found = made(("strength", "row 1: 0.5, 1"), ("seed", "7, 8"), compare=STRENGTH_ZERO)
    assert found.order[:2] == (4, 5)


PROMPT = {
    "1": {"class_type": "Load", "inputs": {"name": "a.safetensors"}},
    "2": {"class_type": "Shift", "inputs": {"model": ["1", 0], "by": 3.0}},
    "9": {"class_type": "StrataSweep", "inputs": {"model": ["2", 0], "clip": ["1", 1], "seed": 5}},
}


def upstream(prompt, stamp=lambda _: None, many=lambda _: False):
    return identity.upstream(prompt, "9", ("model", "clip"), stamp, many)


def test_what_is_before_a_sweep_is_known_by_what_it_is_and_not_by_its_number():
    renamed = {
        "7": PROMPT["1"],
        "x": {"class_type": "Shift", "inputs": {"model": ["7", 0], "by": 3.0}},
        "9": {"class_type": "StrataSweep", "inputs": {"model": ["x", 0], "clip": ["7", 1], "seed": 6}},
    }
    assert upstream(PROMPT) == upstream(renamed)
    changed = [
        {**PROMPT, "1": {"class_type": "Load", "inputs": {"name": "b.safetensors"}}},
        {**PROMPT, "2": {"class_type": "Shift", "inputs": {"model": ["1", 0], "by": 3.5}}},
        {**PROMPT, "2": {"class_type": "Other", "inputs": {"model": ["1", 0], "by": 3.0}}},
        {**PROMPT, "9": {"class_type": "StrataSweep", "inputs": {"model": ["1", 0], "clip": ["1", 1]}}},
        {**PROMPT, "9": {"class_type": "StrataSweep", "inputs": {"model": ["2", 0], "clip": ["1", 0]}}},
        {**PROMPT, "9": {"class_type": "StrataSweep", "inputs": {"model": ["2", 0]}}},
    ]
    found = [upstream(prompt) for prompt in (PROMPT, *changed)]
    assert len(set(found)) == len(found) and None not in found
    assert upstream(PROMPT, {"a.safetensors": (5, 6)}.get) != upstream(PROMPT, {"a.safetensors": (5, 7)}.get)


@pytest.mark.parametrize("prompt", [None, [], {}, {"9": 5}, {"9": {}}, {"9": {"inputs": {"model": ["9", 0]}}}])
def test_odd_prompts(prompt):
    assert upstream(prompt) is None or isinstance(upstream(prompt), str)


def test_a_long_chain_of_nodes_is_no_recursion():
    chain = {str(at): {"class_type": "A", "inputs": {"model": [str(at + 1), 0]}} for at in range(5000)}
    chain["5000"] = {"class_type": "Load", "inputs": {}}
    prompt = {**chain, "sweep": chain["0"]}
    assert identity.upstream(prompt, "sweep", ("model",), lambda _: None, lambda _: False)


def test_behind_a_node_that_gives_lists_nothing_is_known():
    """ComfyUI runs a sweep once for each item, and tells the same prompt every time."""
    assert upstream(PROMPT, many=lambda kind: kind == "Shift") is None
    assert upstream(PROMPT, many=lambda kind: kind == "StrataSweep") == upstream(PROMPT)


def test_files_in_settings_of_any_form_are_looked_at():
    rows = {"rows": [{"lora": "a.safetensors", "on": True}, 5, None]}
    stacked = {**PROMPT, "2": {"class_type": "Shift", "inputs": {"model": ["1", 0], "row_1": rows}}}
    stamps = [{"a.safetensors": (5, size)}.get for size in (6, 7)]
    assert upstream(stacked, stamps[0]) != upstream(stacked, stamps[1])


def test_hashes_differ_where_the_picture_does():
    row, plain = StackEntry("a", 0.8, 0.5), Variation()
    hashes = set()

    def add(rows, settings, around):
        hashes.add(identity.cell_hash(settings, rows, around))

    one = identity.row_identity(row, ("file", 1), "", plain)
    add([one], PLAIN, {"latent": "x"})
    add([one], PLAIN, {"latent": "x"})
    assert len(hashes) == 1
    for rows in (
        [],
        [one, one],
        [identity.row_identity(row, ("file", 2), "", plain)],
        [identity.row_identity(StackEntry("a", 0.8, 0.6), ("file", 1), "", plain)],
        [identity.row_identity(row, ("file", 1), "D*=0", plain)],
        [identity.row_identity(row, ("file", 1), "", Variation(positive=0.5))],
        [identity.row_identity(row, ("file", 1), "", read_variation("fade in"))],
        [identity.row_identity(StackEntry("a", 0.8, 0.5, mask=torch.ones(1, 2, 2)), ("file", 1), "", plain)],
        [identity.row_identity(StackEntry("a", 0.8, 0.5, mask=torch.zeros(1, 2, 2)), ("file", 1), "", plain)],
    ):
        add(rows, PLAIN, {"latent": "x"})
    for change in ({"positive": ""}, {"negative": ""}, {"seed": 6}, {"steps": 21}, {"cfg": 7.5}):
        add([one], replace(PLAIN, **change), {"latent": "x"})
    add([one], PLAIN, {"latent": "y"})
    assert len(hashes) == 16


def test_tensors_are_known_by_their_numbers_shape_and_type():
    ones = torch.ones(2, 3)
    digests = [ones, torch.ones(3, 2), torch.zeros(2, 3), ones.half(), ones.bfloat16(), torch.tensor(1.0), None]
    found = [identity.tensor_digest(tensor) for tensor in digests]
    assert len(set(found)) == len(found)
    assert identity.tensor_digest(ones.clone().t().contiguous().t()) == found[0]
