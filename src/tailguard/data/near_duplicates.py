"""Prompts of different splits that differ in little: counted, so that a user knows of them.

MinHash (Broder, 1997) finds candidates in time linear in the text; each is then compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tailguard.data.identity import canonical_prompt
from tailguard.data.records import Prompt

SIMILARITY = 0.8
"""Share of common pieces from which two prompts count as near-duplicates (their Jaccard index)."""

_PIECE = 5  # characters
_LONGEST = 1000  # characters of a prompt that are compared, so that time is bounded
# 16 bands of 5 rows: prompts of similarity 0.8 meet in some band in 998 of 1,000 cases, of 0.9 always.
_BANDS, _ROWS = 16, 5
_CHARACTERS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Overlap:
    """Near-duplicates between two splits.

    Attributes:
        first: name of one split.
        second: name of the other.
        count: how many prompts of ``second`` have a near-duplicate in ``first``.
        example: one of ``first`` and one of ``second``.
    """

    first: str
    second: str
    count: int
    example: tuple[str, str]


def find_near_duplicates(splits: Mapping[str, Sequence[Prompt]]) -> list[Overlap]:
    """Count prompts that share most of their text with a prompt of another split.

    Args:
        splits: name → prompts. Of two splits, those of the later one are counted.

    Returns:
        Pairs of splits that have near-duplicates, in the order of ``splits``. Counted are nearly all
        prompts of similarity `SIMILARITY` and above, and none below; where thousands are made from
        one template, the count is the least that there are. Prompts that are the same in another
        spelling count too.
    """
    texts = {
        name: [canonical_prompt(prompt)[:_LONGEST] for prompt in prompts]
        for name, prompts in splits.items()
    }
    sketches = {name: _sketch(rows) for name, rows in texts.items()}
    found: list[Overlap] = []
    for first, second in combinations(splits, 2):
        close: dict[int, int] = {}
        for i, j in _candidates(sketches[first], sketches[second]):
            if j not in close and _similarity(texts[first][i], texts[second][j]) >= SIMILARITY:
                close[j] = i
        if close:
            j = min(close)
            example = (texts[first][close[j]], texts[second][j])
            found.append(Overlap(first, second, len(close), example))
    return found


def describe_near_duplicates(overlaps: Sequence[Overlap]) -> str:
    """One line on all of them; empty if there are none."""
    if not overlaps:
        return ""
    counts = ", ".join(f"{o.count} of {o.second} are close to {o.first}" for o in overlaps)
    first, second = (text if len(text) <= 60 else f"{text[:57]}..." for text in overlaps[0].example)
    return f"near-duplicates across splits, which are kept: {counts} (the first: '{first}' and '{second}')"


def _pieces(text: str) -> set[str]:
    return {text[k : k + _PIECE] for k in range(max(1, len(text) - _PIECE + 1))}


def _similarity(first: str, second: str) -> float:
    one, other = _pieces(first), _pieces(second)
    return len(one & other) / len(one | other)


def _sketch(texts: Sequence[str]) -> np.ndarray:
    """One key for each text and band, [texts, bands]: equal where the band's smallest hashes are."""
    keys = [_sketch_part(part) for part in _parts(texts)]
    return np.concatenate(keys) if keys else np.empty((0, _BANDS), np.uint64)


def _parts(texts: Sequence[str]) -> Iterable[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= _CHARACTERS_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _sketch_part(texts: Sequence[str]) -> np.ndarray:
    # A text is followed by blanks, so that every one has a piece and none reaches into the next.
    padded = [text + "\0" * max(0, _PIECE - len(text)) for text in texts]
    codes = np.frombuffer(
        "".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32
    ).astype(np.uint64)
    lengths = np.array([len(text) for text in padded])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    pieces = np.zeros(len(codes) - _PIECE + 1, np.uint64)
    for k in range(_PIECE):  # a piece as a polynomial in its characters; products wrap
        pieces = pieces * np.uint64(0x100000001B3) + codes[k : k + len(pieces)]
    inside = np.repeat(starts + lengths - _PIECE, lengths)[: len(pieces)] >= np.arange(len(pieces))
    firsts = starts - np.arange(len(texts)) * (_PIECE - 1)  # those that reach over are dropped
    hashed = _mixed(pieces[inside])
    generator = np.random.default_rng(0)  # always the same functions: the counts must not vary
    odd = generator.integers(2**63, size=(_BANDS, _ROWS), dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    keys = np.zeros((len(texts), _BANDS), np.uint64)
    for band in range(_BANDS):
        for row in range(_ROWS):
            smallest = np.minimum.reduceat(hashed * odd[band, row], firsts)
            keys[:, band] = _mixed(keys[:, band] + smallest)
    return keys


def _mixed(values: np.ndarray) -> np.ndarray:
    """A permutation of 64-bit numbers in which every bit depends on every bit (SplitMix64's)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _candidates(first: np.ndarray, second: np.ndarray) -> Iterable[tuple[int, int]]:
    """Rows of the two that share a key, for each row of the second and band at most one."""
    for band in range(_BANDS if len(first) else 0):
        keys, index = np.unique(first[:, band], return_index=True)
        places = np.minimum(np.searchsorted(keys, second[:, band]), len(keys) - 1)
        for j in np.flatnonzero(keys[places] == second[:, band]).tolist():
            yield int(index[places[j]]), j
