"""What held-out answers show of an entry of the dial: by the scorer that chose them, and by a judge.

The floor of every bound on CVaR_α from n answers is about (B − ν)/α · log(1/δ)/n, so the largest cost
B is what makes it tight or void. By the *scorer's* bound u(y) nothing above the acceptance level is
served, by rule: B is the level. That says nothing of the truth, for the scorer chose the answers. A
*judge's* B is what it declares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.decoding.chosen import Chosen
from tailguard.decoding.scoring import SCORE_UNAVAILABLE
from tailguard.risk import RiskMeasure, predictable_risk_bound

PerAnswer = Float[np.ndarray, " answers"]


@dataclass(frozen=True)
class TailBound:
    """An upper confidence bound on the risk of what is served.

    Attributes:
        value: of the bound.
        largest_cost: of the range that it holds for.
        num_clipped: costs above it, which count as it.
    """

    value: float
    largest_cost: float
    num_clipped: int = 0


def scorer_bound(
    cost_bound: PerAnswer,
    abstained: np.ndarray,
    measure: RiskMeasure,
    *,
    level: float,
    largest_cost: float,
    confidence: float,
) -> TailBound:
    """Bound on the risk of u(y) of what was served, the fallbacks included.

    The fallback is the operator's own text and is served whatever it scores. Its largest cost here
    widens the range where that is above the level. An answer without a score (the scorer was down)
    counts as the declared largest cost: a scorer that gives no figures bounds nothing.

    Args:
        cost_bound: u(y) of each answer; not finite where there was no score.
        abstained: which of them are the fallback.
        measure: ρ.
        level: the acceptance level.
        largest_cost: declared, of the scorer.
        confidence: of the bound.

    Raises:
        InputError: as `predictable_risk_bound`.
    """
    scored = np.isfinite(cost_bound)
    # Costs are clipped at the declared largest, so that a looser level ends the range there.
    cost_bound = np.where(scored, np.minimum(cost_bound, largest_cost), np.inf)
    upper = min(level, largest_cost)
    if abstained.any():
        upper = max(upper, float(cost_bound[abstained & scored].max(initial=-np.inf)))
    # What is above the range in spite of the rule shows that the range is not this one.
    beyond = bool((cost_bound[scored] > upper).any())
    upper = upper if scored.all() and not beyond else max(upper, largest_cost)
    return judge_bound(np.where(scored, cost_bound, upper), measure, upper, confidence)


def judge_bound(
    cost: PerAnswer, measure: RiskMeasure, largest_cost: float, confidence: float
) -> TailBound:
    """Bound on the risk of min(C, B) for costs C by anyone who took no part.

    Args:
        cost: of each answer; infinite ones are clipped too.
        measure: ρ.
        largest_cost: B, declared before.
        confidence: of the bound.

    Raises:
        InputError: a cost that is NaN, or as `predictable_risk_bound`.
    """
    clipped = np.minimum(cost, largest_cost)
    value = predictable_risk_bound(clipped, measure, upper=largest_cost, confidence=confidence)
    return TailBound(value, largest_cost, int((cost > largest_cost).sum()))


def served_bounds(served: Sequence[Chosen]) -> tuple[PerAnswer, np.ndarray]:
    """u(y) of each answer, +inf where answers could not be scored, and which are the fallback."""
    bounds = np.array([each.cost_upper_bound for each in served])
    bounds = np.where(unscored_answers(served), np.inf, bounds)
    return bounds, np.array([each.abstained for each in served])


def unscored_answers(served: Sequence[Chosen]) -> np.ndarray:
    """Which are a fallback in place of answers that could not be scored.

    The fallback's own cost does not stand for them: a scorer that failed now may not fail later, and
    then an answer is served that nobody has seen. For a judge it counts as the largest cost too.
    """
    return np.array([each.reason == SCORE_UNAVAILABLE for each in served])
