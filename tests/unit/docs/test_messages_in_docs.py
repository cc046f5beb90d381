"""The messages that docs/wrong-input.md shows are those of the code, as far as they are fixed text."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHANGING = re.compile(  # names, numbers and what other libraries say
    r"'[^']*'|\d+|-1|\.\.\.|\([^)]*\)|[\w/.-]*name[\w/.-]*|a\.jsonl(?:\.gz)?|--set \S+|--[a-z-]+|[\w.]+(?=: )"
    r"|\bcvar\b|\btail_mass\b|mapping values are not allowed here|input should be a valid integer"
)


@pytest.fixture(scope="module")
def source() -> str:
    """All source text, with strings that are broken over lines joined."""
    text = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_their_fixed_parts_are_in_the_source(source):
    page = (ROOT / "docs" / "wrong-input.md").read_text()
    rows = [row.split(" | ") for row in page.splitlines() if re.search(r"\| [0-9] \|$", row)]
    assert len(rows) > 20
    checked = 0
    for _, message, *_ in rows:
        for span in re.findall(r"`([^`]+)`", message):
            for part in CHANGING.split(span):
                fixed = part.strip(" ,;:.-")
                if len(fixed) > 11:
                    assert fixed in source, f"{span}: {fixed}"[:300]
                    checked += 1
    assert checked > 20
