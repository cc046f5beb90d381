"""The one check that any scorer can be held to, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from tailguard.data import Prompt
from tailguard.errors import ScoreError
from tailguard.scorers.direction import DirectionCheck, check_direction, checked_scores
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.scorer import WITHHELD, Scorer

_TOLERANCE = 1e-3  # of a score's size: batches of other shapes round otherwise
_FEWEST_RATIO = 0.1  # of the spread within prompts to that between them
_PROMPTS: tuple[Prompt, ...] = (
    "How do I open a locked door?",
    [{"role": "user", "content": "Which mushrooms can I eat?"}],
    "Write a poem about rain.",
)
_RESPONSES = ("Call a locksmith.", "I cannot help with that.", "It falls on every roof, and sings.")
_LONG = " ".join(_RESPONSES * 100)


@dataclass(frozen=True)
class ScorerCheck:
    """What `check_scorer` found.

    Attributes:
        num_members: members that the scorer gives.
        direction: what the pairs say; None without pairs.
        within_spread: standard deviation of scores within a prompt; None without pairs.
        between_spread: that of the prompts' own means, less what the former explains.
        warnings: what is allowed and yet wants attention.
    """

    num_members: int
    direction: DirectionCheck | None = None
    within_spread: float | None = None
    between_spread: float | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All fields, those of the direction beside the others."""
        fields = asdict(self)
        direction = fields.pop("direction") or {"direction": "not checked: no pairs given"}
        return fields | direction


def check_scorer(
    scorer: Scorer,
    pairs: ResponsePairs | None = None,
    *,
    kind: Literal["reward", "cost"] = "reward",
    significance: float = 0.05,
) -> ScorerCheck:
    """Hold a scorer to what everything that uses it relies on.

    Scores are float64 [n, members] and finite; the same again, one by one, and in another order; an
    empty answer, a long one and a withheld prompt have scores too. With pairs, their direction is
    tested (`check_direction`), and whether the scorer can rank the answers to a prompt.

    Args:
        scorer: yours.
        pairs: whose order is known.
        kind: what the scores mean.
        significance: of the test of direction.

    Raises:
        ScoreError: a promise is broken; it says which, and how scores differed.
        InputError: reads reversed, or the pairs do not show a direction.
    """
    num_members = _check_promises(scorer, kind)
    if pairs is None:
        return ScorerCheck(num_members)
    higher = checked_scores(scorer, pairs.prompts, pairs.higher)
    lower = checked_scores(scorer, pairs.prompts, pairs.lower)
    direction = check_direction(higher, lower, pairs, kind=kind, significance=significance)
    both = np.concatenate([higher, lower]).mean(axis=1)
    within, between = spreads(both, np.tile(pairs.prompt_index(), 2))
    warned = cannot_rank(within, between, kind)
    return ScorerCheck(num_members, direction, within, between, (warned,) if warned else ())


def spreads(
    scores: Float[np.ndarray, " n"], prompt_index: Int[np.ndarray, " n"]
) -> tuple[float, float]:
    """Standard deviation of scores within prompts, and of the prompts' means beyond that.

    Args:
        scores: one per answer.
        prompt_index: number of each answer's prompt, from 0 without gaps.
    """
    counts = np.bincount(prompt_index)
    means = np.bincount(prompt_index, weights=scores) / counts
    freedom = len(scores) - len(counts)
    within = float(np.square(scores - means[prompt_index]).sum() / freedom) if freedom > 0 else 0.0
    noise = within * float(np.mean(1.0 / counts))
    between = float(means.var(ddof=1)) - noise if len(counts) > 1 else 0.0
    return float(np.sqrt(within)), float(np.sqrt(max(between, 0.0)))


def cannot_rank(within: float, between: float, kind: Literal["reward", "cost"]) -> str | None:
    """A warning where a scorer tells prompts apart and hardly the answers to one; else None."""
    if within >= _FEWEST_RATIO * between and within > 0.0:
        return None
    free = "; a plan on it reads as if safety were free" if kind == "cost" else ""
    return (
        f"{kind}: scores differ by {within:.2g} within a prompt and by {between:.2g} between prompts;"
        f" this scorer cannot rank the answers to a prompt{free}"
    )


def _check_promises(scorer: Scorer, kind: str) -> int:
    prompts, responses = list(_PROMPTS), list(_RESPONSES)
    together = checked_scores(scorer, prompts, responses)
    _require_same(together, checked_scores(scorer, prompts, responses), f"{kind}: asked twice")
    alone = [checked_scores(scorer, [p], [r]) for p, r in zip(prompts, responses, strict=True)]
    _require_same(together, _stacked(alone, kind), f"{kind}: answers one by one")
    backwards = checked_scores(scorer, prompts[::-1], responses[::-1])[::-1]
    _require_same(together, backwards, f"{kind}: answers in another order")
    odd: Sequence[tuple[Prompt, str]] = (
        (prompts[0], ""),
        (prompts[0], _LONG),
        (_LONG, responses[0]),
        (WITHHELD, responses[0]),
    )
    checked_scores(scorer, [p for p, _ in odd], [r for _, r in odd])
    return together.shape[1]


def _stacked(rows: Sequence[np.ndarray], kind: str) -> np.ndarray:
    if len({row.shape for row in rows}) > 1:
        raise ScoreError(f"{kind}: the number of members changes from call to call")
    return np.concatenate(rows)


def _require_same(expected: np.ndarray, found: np.ndarray, what: str) -> None:
    same = expected.shape == found.shape
    if same and (np.abs(expected - found) <= _TOLERANCE * (1.0 + np.abs(expected))).all():
        return
    shown = [np.array2string(scores[:, 0], precision=4) for scores in (expected, found)]
    raise ScoreError(f"{what} have other scores: {shown[0]}, then {shown[1]}")
