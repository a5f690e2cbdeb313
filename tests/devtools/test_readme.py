"""The two READMEs and the help pages: every link within the repository leads somewhere, and both languages make the same claims."""

import re

import pytest

from strata.devtools.server import ROOT

READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [
    *READMES,
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "web" / "docs").rglob("*.md"),
    *(ROOT / "docs").glob("*.md"),
]
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)|\bsrc=\"([^\"]+)\"", re.MULTILINE)


def links(page):
    return [next(filter(None, found)) for found in LINK.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository(page):
    # ComfyUI's help window resolves them against docs/, in every language.
    base = ROOT / "web" / "docs" if ROOT / "web" / "docs" in page.parents else page.parent
    local = [link.split("#")[0] for link in links(page) if not re.match(r"https?:|#", link)]
    assert not [link for link in local if not (base / link).exists()]


def test_both_readmes_say_the_same():
    english, chinese = READMES
    assert sorted(set(links(english)) - {"README.zh-CN.md"}) == sorted(
        {link.replace("/zh.md", ".md") for link in links(chinese)} - {"README.md"}
    )
    for pattern in (r"^#+ ", r"^\|", r"^```"):  # headings, rows of tables, code
        counts = [len(re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE)) for page in READMES]
        assert counts[0] == counts[1], pattern


def test_every_claim_of_the_comparison_has_its_proof():
    text = READMES[0].read_text(encoding="utf-8")
    table = text[text.index("## Compared") : text.index("What they do better")]
    named = dict(re.findall(r"^\[([^\]]+)\]:\s*(\S+)", text, re.MULTILINE))
    rows = [row.strip("|").split("|") for row in table.splitlines() if row.startswith("| ") and "---" not in row]
    assert len(rows) > 8
    for row in rows[1:]:
        for cell in row[1:]:
            proofs = [named[name] for name in re.findall(r"\]\[([^\]]+)\]", cell)]
            assert proofs or not cell.strip(), cell
            assert all(re.search(r"/(issues|pull)/\d+$", proof) or (ROOT / proof).exists() for proof in proofs)
