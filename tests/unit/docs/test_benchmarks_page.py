"""benchmarks/README.md lists every script, every result and every published table."""

import re
from pathlib import Path

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
PAGE = (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_every_script_has_its_line():
    listed = re.findall(r"^\| `(\w+\.py)` \|", PAGE, re.M)
    assert listed == sorted(path.name for path in BENCHMARKS.glob("*.py"))


def test_every_result_stands_beside_its_command():
    for path in (BENCHMARKS / "results").iterdir():
        rows = [row for row in PAGE.splitlines() if row.startswith("| ")]
        assert any(path.stem in row and "`python benchmarks/" in row for row in rows), path.name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (BENCHMARKS / target).exists(), target


def test_every_row_of_a_figure_names_its_commit_or_says_why_not():
    stated = PAGE.partition("## Figures that are stated")[2].partition("## Scripts")[0]
    rows = [row for row in stated.splitlines() if row.startswith("| ")]
    last = [row.rstrip(" |").rpartition("|")[2].strip() for row in rows]
    assert len(last) > 15
    for row, commit in zip(rows, last, strict=True):
        known = re.match(r"[0-9a-f]{7}\b|every run|see there|run on", commit)
        assert known or "none yet" in row, row
