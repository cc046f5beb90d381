"""The protocol of scorers: anything that gives numbers to (prompt, response) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from tailguard.data import Prompt
from tailguard.errors import ScoreError

# Not the empty text: some chat templates, and functions of users, refuse an empty turn.
WITHHELD: Prompt = "…"
"""What a scorer reads where the prompt is withheld."""


@runtime_checkable
class Scorer(Protocol):
    """Scores answers. The mean over members is the score; their spread says how uncertain it is."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores, float64 [n, members], one row per (prompt, response)."""
        ...


def require_finite(scores: np.ndarray, name: str = "scores") -> np.ndarray:
    """The same array, if every entry is finite.

    Raises:
        ScoreError: a NaN or an infinity; safety code stops rather than read it as harmless.
    """
    bad = ~np.isfinite(scores)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ScoreError(
            f"{name}: {int(bad.sum())} of {bad.size} are not finite (first at {first}:"
            f" {scores[first]}); check the scorer's weights and its input length"
        )
    return scores


def require_members(scores: np.ndarray, name: str) -> np.ndarray:
    """The same array, if it is what `Scorer.score` promises and every entry is finite.

    Raises:
        ScoreError: another shape (a scorer of one's own that gives [n] is the usual slip), or as
            in `require_finite`.
    """
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ScoreError(
            f"{name}: the scorer gave an array of shape {scores.shape}; it must be [n, members],"
            " one row per answer"
        )
    return require_finite(scores, name)
