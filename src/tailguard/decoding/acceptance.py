"""Acceptance: the rule that serves or withholds, what is said then, and how its level is chosen.

Calibration and serving both call `accepted`. A certificate holds for exactly this rule: a second
spelling of it that differed at one edge (an infinite level, a bound that is NaN) would certify
another decoder than the one that answers.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float

from tailguard.errors import InputError
from tailguard.risk import (
    RiskMeasure,
    SmallTailWarning,
    Threshold,
    as_threshold,
    risk_upper_bound,
)

DEFAULT_FALLBACK = "I am sorry, but I cannot help with that."
"""Served on abstention where no text of the decoder's own is known; recipes have the same."""

SCORE_UNAVAILABLE = "score unavailable"
"""Reason of an abstention where a scorer, a head or the model gave no finite number."""

_MOST_LEVELS = 100  # beyond that, levels differ by less than chance tells apart


@dataclass(frozen=True)
class AcceptanceChoice:
    """An acceptance level and what it did on the prompts that it was chosen on.

    Attributes:
        level: answers whose upper bound on cost is above it are withheld.
        threshold: ν, the measure's minimiser on what was served: for the certificate.
        risk: risk of what was served, fallbacks included.
        expected_bound: what had to be within the budget: the risk, or the certificate to be
            expected, each with a margin for chance.
        acceptance_rate: share of answers accepted.
        met: whether it was; else the safest level was taken.
    """

    level: float
    threshold: Threshold
    risk: float
    expected_bound: float
    acceptance_rate: float
    met: bool


def choose_acceptance_level(
    costs: Float[np.ndarray, " n"],
    bounds: Float[np.ndarray, " n"],
    fallback_costs: Float[np.ndarray, " n"],
    *,
    measure: RiskMeasure,
    budget: float,
    largest_cost: float,
    confidence: float = 0.95,
    num_certification: int | None = None,
) -> AcceptanceChoice:
    """Choose the level on calibration prompts, one answer per prompt.

    The level is per answer while the budget is on the pooled tail, so it is chosen by what the
    served mixture of answers and fallbacks risks, not set to the budget. It is the loosest one
    whose risk, or whose expected certificate, meets the budget with a margin for chance; where no
    level's does, the one that comes nearest. So a stricter budget never has a looser level.

    Args:
        costs: of the answers that would be served with no level.
        bounds: the upper bounds on those costs that the level is compared with.
        fallback_costs: of the fallback as the answer to the same prompts.
        measure: ρ.
        budget: d.
        largest_cost: declared.
        confidence: that the budget is met on fresh prompts, and of the certificate.
        num_certification: prompts that the certificate will rest on; None to go by the risk
            itself, as where there are too few of them to certify what is asked.

    Raises:
        InputError: arrays of different lengths, or a NaN.
    """
    # NaN is refused rather than counted as withheld: a missing cost is a mistake upstream.
    arrays = {"costs": costs, "bounds": bounds, "fallback_costs": fallback_costs}
    for name, array in arrays.items():
        if array.shape != costs.shape or costs.ndim != 1 or costs.size == 0:
            raise InputError(f"{name}: shape {array.shape}; all must be 1-D and as long as costs")
        if np.isnan(array).any():
            raise InputError(f"{name}: holds NaN; an answer that has no score is never served")
    margin_of = _Margin(arrays, measure, largest_cost, confidence, num_certification)
    choices = [_served(level, arrays, measure) for level in _levels(bounds)]
    for choice in reversed(choices):  # from the loosest, and no further than needed
        if choice.risk <= budget and (found := margin_of.added(choice)).expected_bound <= budget:
            return replace(found, met=True)
    # Nothing meets the budget: take what comes nearest, and say so by `met`.
    bounded = [margin_of.added(choice) for choice in choices]
    nearest = min(choice.expected_bound for choice in bounded)
    return next(choice for choice in reversed(bounded) if choice.expected_bound == nearest)


def accepted(bounds: Float[np.ndarray, " n"], level: float) -> Bool[np.ndarray, " n"]:
    """Which answers are served: those whose upper bound is finite and within the level.

    Bounds of answers without a score are +inf, so that no level serves them, not even +inf.
    """
    return np.isfinite(bounds) & (bounds <= level)


def reason_withheld(bound: float, level: float) -> str:
    """Why an answer that was not accepted is withheld."""
    if not math.isfinite(bound):
        return SCORE_UNAVAILABLE
    return f"upper bound on cost {bound:.4g} is above the acceptance level {level:.4g}"


def _levels(bounds: np.ndarray) -> list[float]:
    """Levels that tell the answers apart, from none accepted to all."""
    finite = bounds[np.isfinite(bounds)]
    if finite.size == 0:
        return [-np.inf]
    # method="higher": each level is one of the bounds, and none falls between two answers.
    shares = np.linspace(0.0, 1.0, _MOST_LEVELS)
    return [-np.inf, *np.unique(np.quantile(finite, shares, method="higher")).tolist()]


def _served(level: float, arrays: dict[str, np.ndarray], measure: RiskMeasure) -> AcceptanceChoice:
    keep = accepted(arrays["bounds"], level)
    served = np.where(keep, arrays["costs"], arrays["fallback_costs"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTailWarning)  # the bound says how little is known
        risk = measure.value(served)
    # The certificate needs a ν that was fixed beforehand: this one, from calibration prompts.
    threshold = as_threshold(measure.minimiser(served))
    return AcceptanceChoice(level, threshold, risk, math.inf, float(keep.mean()), met=False)


@dataclass(frozen=True)
class _Margin:
    """What is added to a risk before it is compared with the budget."""

    arrays: dict[str, np.ndarray]
    measure: RiskMeasure
    largest_cost: float
    confidence: float
    num_certification: int | None

    def added(self, choice: AcceptanceChoice) -> AcceptanceChoice:
        """The choice with its expected bound.

        By how much samples of these sizes differ by chance is added to the risk, or to the
        certificate that these answers, over and over, would get.
        """
        keep = accepted(self.arrays["bounds"], choice.level)
        served = np.where(keep, self.arrays["costs"], self.arrays["fallback_costs"])
        bound, spread = choice.risk, 1.0 / served.size
        if self.num_certification is not None:
            # As many as will certify: the bound depends on how many there are.
            repeated = np.resize(served, self.num_certification)
            bound = risk_upper_bound(
                # A fixed order: the choice must be the same each time it is made.
                np.random.default_rng(0).permutation(repeated),
                self.measure,
                choice.threshold,
                upper=self.largest_cost,
                confidence=self.confidence,
            )
            spread += 1.0 / self.num_certification
        # The penalty φ, not the cost: its mean is what the risk is, at the best threshold.
        deviation = float(np.std(self.measure.penalty(served, choice.threshold)))
        if served.size == 1:
            return replace(choice, expected_bound=math.inf)  # the spread of one answer is unknown
        margin = NormalDist().inv_cdf(self.confidence) * deviation * math.sqrt(spread)
        return replace(choice, expected_bound=bound + margin)
