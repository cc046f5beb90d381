"""Does a scorer point the right way? Asserted on known pairs before anything relies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.scorer import Scorer, require_finite

_SIGNIFICANCE = 0.05
_POWER = 0.8
# Fewer prompts than this show a direction only of scorers that are nearly always right.
_FEWEST_PROMPTS = 6
# Real safety preferences are that hard: linear scorers order 60–67% of held-out pairs rightly.
_TYPICAL_ACCURACY = 0.6

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


def check_direction(
    higher: np.ndarray,
    lower: np.ndarray,
    pairs: ResponsePairs,
    *,
    kind: Literal["reward", "cost"] = "reward",
    significance: float = _SIGNIFICANCE,
) -> DirectionCheck:
    """Assert the direction of a scorer by its scores of pairs whose order is known.

    The margins are averaged within each prompt, and their mean must be above zero by a one-sided
    t test over prompts.

    Args:
        higher: scores of the answers that should be higher [n, members].
        lower: of the others.
        pairs: the pairs.
        kind: what the scores mean.
        significance: of the test.

    Raises:
        InputError: reads reversed, or the pairs do not show a direction.
        ScoreError: the two have different shapes.
    """
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


def pairs_needed(accuracy: float = _TYPICAL_ACCURACY) -> int:
    """How many prompts with a pair show the direction of a scorer that orders pairs so often rightly.

    The test is the one of `check_direction` at significance .05, and it shows the direction with
    probability .8 (exact power of the one-sided t test, by the noncentral t law), for margins that
    are normal over prompts: accuracy Φ(δ) stands for a mean of δ standard deviations.

    Args:
        accuracy: share of pairs in the right order, strictly between ½ and 1.

    Raises:
        InputError: another accuracy.
    """
    if not 0.5 < accuracy < 1.0:
        raise InputError(f"accuracy: {accuracy}; must lie strictly between 0.5 and 1")
    effect = float(stats.norm.ppf(accuracy))
    # Above twice the normal approximation the power is certainly there; below it, it is monotone.
    low, high = 1, 8 + 2 * math.ceil(((1.645 + 0.842) / effect) ** 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, effect) >= _POWER else (middle, high)
    return high


def smallest_accuracy(num_prompts: int) -> float:
    """The accuracy that so many prompts show with probability .8; the inverse of `pairs_needed`.

    Returns:
        1.0 for fewer than two prompts, which show nothing.
    """
    if num_prompts < 2:
        return 1.0
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(num_prompts, middle) >= _POWER else (middle, high)
    return float(stats.norm.cdf(high))


def direction_outlook(num_prompts: int, kind: Literal["reward", "cost"]) -> str | None:
    """What to expect of `check_direction` before anything is fitted; None where pairs are enough.

    Raises:
        InputError: so few that next to nothing could show a direction.
    """
    needed = pairs_needed()
    if num_prompts >= needed:
        return None
    what = (
        f"{kind} pairs: {num_prompts} prompts to check the scorer's direction on; they show it of a"
        f" scorer that orders {smallest_accuracy(num_prompts):.0%} of pairs rightly, and"
        f" {_TYPICAL_ACCURACY:.0%} needs {needed}"
    )
    if num_prompts < _FEWEST_PROMPTS:
        raise InputError(f"{what}; give more pairs")
    return what


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


def _power(num_prompts: int, effect: float) -> float:
    """Probability that the one-sided t test shows a mean of ``effect`` standard deviations."""
    freedom = num_prompts - 1
    if freedom < 1:
        return 0.0
    bar = stats.t.isf(_SIGNIFICANCE, freedom)
    found = float(stats.nct.sf(bar, freedom, effect * math.sqrt(num_prompts)))
    # scipy gives NaN far in the tail, where the effect is so large that it always shows.
    return 1.0 if math.isnan(found) else found


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
