"""Does a scorer point the right way? Asserted on known pairs before anything relies on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.scorer import Scorer, require_finite

_MEANING = {
    "reward": "a larger reward must mean a better answer",
    "cost": "a larger cost must mean a riskier answer",
}


@dataclass(frozen=True)
class DirectionCheck:
    """What known pairs say about a scorer.

    Attributes:
        accuracy: share of pairs in the right order, ties counted half.
        margin: mean score of the higher answer minus the lower, over prompts.
        margin_error: its standard error, prompts being the independent unit.
        p_value: one-sided, of "the margin is not positive".
        num_prompts: distinct prompts.
    """

    accuracy: float
    margin: float
    margin_error: float
    p_value: float
    num_prompts: int


def check_scorer(
    scorer: Scorer,
    pairs: ResponsePairs,
    *,
    kind: Literal["reward", "cost"] = "reward",
    significance: float = 0.05,
) -> DirectionCheck:
    """Assert shape, finiteness and direction of a scorer on pairs whose order is known.

    The margins are averaged within each prompt, and their mean must be above zero by a one-sided
    t test over prompts.

    Raises:
        ScoreError: wrong shape or type, NaN or infinity.
        InputError: reads reversed, or the pairs do not show a direction.
    """
    higher = checked_scores(scorer, pairs.prompts, pairs.higher)
    lower = checked_scores(scorer, pairs.prompts, pairs.lower)
    return check_direction(higher, lower, pairs, kind=kind, significance=significance)


def check_direction(
    higher: np.ndarray,
    lower: np.ndarray,
    pairs: ResponsePairs,
    *,
    kind: Literal["reward", "cost"] = "reward",
    significance: float = 0.05,
) -> DirectionCheck:
    """`check_scorer` on scores that are there already, each [n, members]."""
    if higher.shape != lower.shape:
        raise ScoreError(f"scores: shape {higher.shape}, then {lower.shape}, on as many answers")
    margins = higher.mean(axis=1) - lower.mean(axis=1)
    index = pairs.prompt_index()
    # Pairs of one prompt share its difficulty; averaging them keeps the t test honest.
    by_prompt = np.bincount(index, weights=margins) / np.bincount(index)
    check = _direction(margins, by_prompt)
    if check.p_value < significance:
        return check
    figures = (
        f"margin {check.margin:.3g} ± {check.margin_error:.2g}, accuracy {check.accuracy:.1%}"
        f" on {len(pairs)} pairs of {check.num_prompts} prompts"
    )
    # The same test the other way round: reversed is another mistake than uninformative.
    if check.p_value > 1.0 - significance:
        raise InputError(f"{kind} scorer reads reversed: {figures}; {_MEANING[kind]}")
    raise InputError(
        f"{kind} scorer shows no direction: {figures}; give more known pairs or another scorer"
        f" ({_MEANING[kind]})"
    )


def checked_scores(
    scorer: Scorer, prompts: Sequence[Prompt], responses: Sequence[str]
) -> np.ndarray:
    """`scorer.score`, with its promise held: float64 [n, members], finite.

    Raises:
        ScoreError: the promise is broken.
    """
    scores = scorer.score(prompts, responses)
    if scores.dtype != np.float64 or scores.ndim != 2 or len(scores) != len(responses):
        raise ScoreError(
            f"scores: {scores.dtype} {scores.shape} for {len(responses)} answers; a scorer gives"
            " float64 [n, members]"
        )
    return require_finite(scores)


def _direction(margins: np.ndarray, by_prompt: np.ndarray) -> DirectionCheck:
    num_prompts = by_prompt.size
    mean = float(by_prompt.mean())
    if num_prompts < 2:
        # One prompt has no spread over prompts: no evidence either way.
        error, p_value = float("inf"), 0.5
    else:
        error = float(by_prompt.std(ddof=1) / np.sqrt(num_prompts))
        # No error at all means that all prompts agree exactly; then the sign decides.
        ratio = mean / error if error > 0.0 else float(np.sign(mean)) * np.inf if mean else 0.0
        p_value = float(stats.t.sf(ratio, num_prompts - 1))
    accuracy = float(np.mean(np.where(margins == 0.0, 0.5, margins > 0.0)))
    return DirectionCheck(accuracy, mean, error, p_value, num_prompts)
