"""What CONTRIBUTING.md shows and names is there."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_example_of_a_test_is_one_of_ours(blocks):
    (example,) = [b for b in blocks if b.page == "CONTRIBUTING.md" and b.language == "python"]
    assert example.text in (ROOT / "tests/unit/risk/test_measures.py").read_text(encoding="utf-8")


def test_files_that_it_names_are_there():
    named = set(re.findall(r"`((?![^`]*NAME)[\w./-]+/[\w.-]+|[\w-]+\.(?:toml|lock|txt|md))`", PAGE))
    assert len(named) > 10
    known = {"planning/pooled.py", "risk/measure.py"}  # from src/tailguard
    for name in named:
        assert (ROOT / ("src/tailguard" if name in known else ".") / name).exists(), name


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/tailguard/__init__.py"
    assert "version" not in project["project"]
