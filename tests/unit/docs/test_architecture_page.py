"""docs/architecture.md: every file, function and line that it names is in the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "tailguard"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATH = r"`((?:\w+/)+\w+\.py)`"


def defined(path: Path) -> set[str]:
    """Names that a module defines, those of methods as ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}  # type: ignore[attr-defined]
    return found


def quoted_lines() -> list[tuple[str, str]]:
    """(file, line) of every line that the page quotes: the file is the last one named before it."""
    found = []
    where = PAGE.partition("## Where to add")[2]
    for block in re.finditer(r"^```text\n(.*?)^```$", where, re.M | re.S):
        before = re.findall(PATH, where[: block.start()])
        found += [(before[-1], line) for line in block[1].splitlines() if line.strip()]
    return found


def test_files_exist():
    named = set(re.findall(PATH, PAGE))
    assert len(named) > 25
    for name in named:
        assert (SOURCE / name).is_file(), name


def test_folders_exist():
    for package in re.findall(r"^\| (`[\w/`, ]+`) \|", PAGE, re.M):
        for name in re.findall(r"`([\w/]+)`", package):
            assert (SOURCE / name).is_dir(), name


def test_the_table_of_packages_is_complete():
    rows = re.findall(r"^\| (`[\w/`, ]+`) \|", PAGE, re.M)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    there = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert listed == there


def test_each_step_of_the_walks_names_a_function_that_is_there():
    walks = PAGE.partition("## A prompt, from")[2].partition("## Where to add")[0]
    steps = re.findall(rf"{PATH},\s+`([\w.]+)`", walks)
    assert len(steps) >= 24
    for name, function in steps:
        assert function in defined(SOURCE / name), f"{name}: {function}"
    for function, name in re.findall(rf"`([\w.]+)` in {PATH}", PAGE):
        text = (SOURCE / name).read_text(encoding="utf-8")
        assert re.search(rf"^(?:async )?(?:def |class )?{function}\b", text, re.M), function


@pytest.mark.parametrize(("name", "line"), quoted_lines(), ids=lambda part: part.strip()[:40])
def test_each_quoted_line_is_in_its_file(name, line):
    assert line in (SOURCE / name).read_text(encoding="utf-8").splitlines(), f"{name}: {line}"


def test_every_place_to_add_quotes_a_line():
    sections = PAGE.partition("## Where to add")[2].split("\n### ")[1:]
    assert len(sections) >= 13
    for section in sections:
        assert "```text" in section, section.splitlines()[0]
