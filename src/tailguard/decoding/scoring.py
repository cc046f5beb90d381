"""Scores of answers, failing closed: where there is no finite score there is no answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailguard.data import Prompt
from tailguard.scorers.doubt import error_doubt
from tailguard.scorers.pessimism import pessimistic, spread
from tailguard.scorers.scorer import Scorer
from tailguard.scorers.shift import score_with_shift

SCORE_UNAVAILABLE = "score unavailable"
"""Reason of an abstention where a scorer or the model gave no finite number."""

_QUANTILE_LEVELS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class ScoreSummary:
    """What an ensemble makes of one answer.

    Attributes:
        mean: over members; the score.
        std: sample standard deviation over members; None for a single member, whose
            spread is unknown.
        quantiles: over members, by level.
    """

    mean: float
    std: float | None
    quantiles: dict[str, float]


# Not Exception: what is missing here (an interrupt, no memory) must end the process.
SCORER_FAILURES = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Scored:
    """One answer's members: what is reported of them, and the bound that decides; None if unknown.

    Attributes:
        summary: of the members.
        bound: mean + κ·spread; +inf where there is no score.
        doubt: `error_doubt` of the verdict in bits; None where there is no score.
        shift: how unlike the answers that the scorer was fitted on; NaN where unknown.
    """

    summary: ScoreSummary | None
    bound: float
    doubt: float | None = None
    shift: float = math.nan


def score_closed(
    scorer: Scorer | None,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    pessimism: float = 0.0,
) -> list[Scored]:
    """Summary and upper bound of each answer; +inf where there is no finite score.

    Raises:
        InputError: a single member with pessimism > 0. It is raised outside `_members_closed`,
            which would take it for a failing scorer and abstain on every prompt without a word.
    """
    return [
        Scored(None, math.inf)
        if found is None
        else Scored(
            _summary(found[0]),
            float(pessimistic(found[0][None], pessimism)[0]),
            float(error_doubt(found[0][None])[0]),
            found[1],
        )
        for found in _members_closed(scorer, prompts, responses)
    ]


def _members_closed(
    scorer: Scorer | None, prompts: Sequence[Prompt], responses: Sequence[str]
) -> list[tuple[np.ndarray, float] | None]:
    """Members' scores and shift of each answer, None where the scores are not all finite.

    If the whole batch fails, each answer is tried alone, so that one does not take the others down.
    """
    if scorer is None or len(prompts) == 0:
        return [None] * len(prompts)
    try:
        scores, shift = score_with_shift(scorer, prompts, responses)
        scores, shift = (np.asarray(part, dtype=np.float64) for part in (scores, shift))
    except SCORER_FAILURES:
        if len(prompts) == 1:
            return [None]
        pairs = zip(prompts, responses, strict=True)
        return [_members_closed(scorer, [p], [r])[0] for p, r in pairs]
    rows = (len(prompts),)
    if scores.ndim != 2 or scores.shape[:1] != rows or scores.shape[1] < 1 or shift.shape != rows:
        return [None] * len(prompts)
    return [
        (members, float(far)) if np.isfinite(members).all() else None
        for members, far in zip(scores, shift, strict=True)
    ]


def _summary(members: np.ndarray) -> ScoreSummary:
    deviation = float(spread(members[None])[0])
    quantiles = np.quantile(members, _QUANTILE_LEVELS)
    return ScoreSummary(
        mean=float(members.mean()),
        std=None if math.isnan(deviation) else deviation,
        quantiles={
            f"{level:g}": float(q) for level, q in zip(_QUANTILE_LEVELS, quantiles, strict=True)
        },
    )
