"""What the pages of the documentation hold: recipes, commands, code."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
PAGES = (
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: its path from the root of the repository.
        line: the line of its first fence.
        language: what stands behind the fence.
        text: what stands between the fences.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def fenced_blocks() -> list[Block]:
    """Every fenced block of every page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            inside = match[3].replace(f"\n{match[1]}", "\n").removeprefix(match[1])
            found.append(Block(str(page.relative_to(ROOT)), line, match[2], inside))
    return found


@pytest.fixture(scope="session")
def blocks() -> list[Block]:
    return fenced_blocks()


@pytest.fixture(scope="session")
def prose() -> dict[str, str]:
    """Page → its text without fenced blocks."""
    return {
        str(page.relative_to(ROOT)): re.sub(
            r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
        )
        for page in PAGES
    }
