"""The quick benchmark beside the results that are checked in: what is read, and what is marked as worse."""

import re

import pytest

from strata.benchmarks.compare import LESS, MORE, Case, Spread, compare, is_worse, read
from strata.benchmarks.results import merged, table
from strata.devtools.environment import ROOT

RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


SPREAD = re.compile(r"\([0-9.]+ to [0-9.]+\)")


def test_every_ratio_of_the_checked_in_results_is_read_or_not_ours():
    found = read(RESULTS)
    assert found[Case("Building the MODEL: chained loaders", ("SD1.5", "16", "10", "warm"), "ratio")].low > 1
    written = [line for line in RESULTS.splitlines() if line.startswith("| ")]
    cells = sum(len(SPREAD.findall(line)) for line in written)
    foreign = sum(len(SPREAD.findall(line)) for line in written if "| ComfyUI" in line)
    # "ComfyUI / floor" says how well ComfyUI does.
    floors = sum(case.column == "Strata / floor" for case in found)
    assert len(found) == cells - foreign - floors > 50


CASES = [
    # column, then, today, whether it is worse
    ("ratio", (10, 9, 12), (7.1, 7, 7.2), False),
    ("ratio", (10, 9, 12), (6.9, 6, 8), True),
    ("ratio", (10, 9, 12), (30, 30, 30), False),
    ("live / without", (1.02, 1.01, 1.04), (1.04, 1.04, 1.04), False),
    ("live / without", (1.02, 1.01, 1.04), (1.06, 1.06, 1.06), True),
    ("live / without", (1.02, 1.01, 1.04), (0.5, 0.5, 0.5), False),
    ("first / second", (1.1, 1.1, 1.1), (9, 9, 9), False),
]


@pytest.mark.parametrize(("column", "then", "today", "worse"), CASES)
def test_what_is_worse_by_more_than_its_spread(column, then, today, worse):
    """Seven is ten less the whole spread of three; one round has no spread."""
    assert is_worse(column, Spread(*then), Spread(*today)) is worse


def test_the_comparison_marks_and_counts():
    columns = ("model", "LoRAs", "", "seconds", "ratio", "live / without", "ComfyUI / floor")

    def of(ratio, live):
        ours = ("SD1.5", 1, "Strata", "3.1 s", ratio, live, "1 (1 to 1)")
        return [ours, ("SD1.5", 1, "ComfyUI", "1 s", "5 (1 to 9)", "", "")]

    before = read(
        table("A", columns, of("10.0 (9.0 to 12.0)", "1.02 (1.01 to 1.04)")) + "\n\n" + table("B", columns, [])
    )
    text = table("A", columns, of("6.0 (6.0 to 6.0)", "1.030 (1.030 to 1.030)"))
    today = read(text + "\n" + table("C", columns[:1] + columns[4:5], [("new", "2 (1 to 3)")]))
    told = compare(before, today)
    assert "| A | SD1.5, 1, Strata | ratio | more | 10 (9 to 12) | 6 (6 to 6) | WORSE |" in told
    assert "| A | SD1.5, 1, Strata | live / without | less | 1.02 (1.01 to 1.04) | 1.03 (1.03 to 1.03) |  |" in told
    assert "1 of 2 are worse by more than the spread of their rounds then; 1 of today's are not in RESULTS.md." in told
    assert "ComfyUI / floor" not in told and "| C |" not in told


def test_a_part_that_is_measured_again_takes_its_own_place():
    kept = "# Benchmark\n\nHead.\n\n## A\n\nold\n\n## B ## b\n\n| kept |\n"
    assert merged(kept, "other head\n\n## A\n\nnew\n") == kept.replace("old", "new")
    assert merged(kept, "## C\n\nfirst") == kept + "\n## C\n\nfirst\n"
    assert merged(RESULTS, RESULTS) == RESULTS


def test_no_ratio_is_both():
    assert not MORE & LESS
