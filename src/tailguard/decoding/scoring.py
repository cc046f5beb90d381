"""Scores of answers, failing closed: where there is no finite score there is no answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailguard.data import Prompt
from tailguard.scorers.doubt import error_doubt
from tailguard.scorers.pessimism import pessimistic, pessimistic_to_raters, spread
from tailguard.scorers.readings import Reading, read_answers
from tailguard.scorers.scorer import Scorer

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
        rater_bounds: mean + κ·spread to each rater; none where the scorer knows none.
    """

    summary: ScoreSummary | None
    bound: float
    doubt: float | None = None
    shift: float = math.nan
    rater_bounds: tuple[float, ...] = ()


def score_closed(
    scorer: Scorer | None,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    pessimism: float = 0.0,
) -> list[Scored]:
    """Summary and upper bound of each answer; +inf where there is no finite score.

    Raises:
        InputError: a single member with pessimism > 0. It is raised outside `_readings_closed`,
            which would take it for a failing scorer and abstain on every prompt without a word.
    """
    return [
        Scored(None, math.inf) if found is None else _scored(found, pessimism)
        for found in _readings_closed(scorer, prompts, responses)
    ]


def _scored(found: Reading, pessimism: float) -> Scored:
    """Of one answer's reading."""
    by_rater = found.by_rater
    return Scored(
        _summary(found.scores[0]),
        float(pessimistic(found.scores, pessimism)[0]),
        float(error_doubt(found.scores)[0]),
        float(found.shift[0]),
        () if by_rater is None else tuple(pessimistic_to_raters(by_rater, pessimism)[0].tolist()),
    )


def _readings_closed(
    scorer: Scorer | None, prompts: Sequence[Prompt], responses: Sequence[str]
) -> list[Reading | None]:
    """The reading of each answer, None where its scores are not all finite.

    If the whole batch fails, each answer is tried alone, so that one does not take the others down.
    """
    if scorer is None or len(prompts) == 0:
        return [None] * len(prompts)
    try:
        found = read_answers(scorer, prompts, responses)
        scores, shift = (np.asarray(part, dtype=np.float64) for part in (found.scores, found.shift))
        by_rater = None if found.by_rater is None else np.asarray(found.by_rater, dtype=np.float64)
    except SCORER_FAILURES:
        if len(prompts) == 1:
            return [None]
        pairs = zip(prompts, responses, strict=True)
        return [_readings_closed(scorer, [p], [r])[0] for p, r in pairs]
    rows = (len(prompts),)
    if scores.ndim != 2 or scores.shape[:1] != rows or scores.shape[1] < 1 or shift.shape != rows:
        return [None] * len(prompts)
    sound = np.asarray(np.isfinite(scores).all(axis=1))
    if by_rater is not None:
        if by_rater.ndim != 3 or by_rater.shape[:1] != rows:
            return [None] * len(prompts)
        sound = sound & np.isfinite(by_rater).all(axis=(1, 2))
    return [
        Reading(scores[[i]], shift[[i]], None if by_rater is None else by_rater[[i]])
        if sound[i]
        else None
        for i in range(len(prompts))
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
