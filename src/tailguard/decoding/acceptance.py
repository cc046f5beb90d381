"""Choosing the acceptance level: the loosest one with which what is served meets the budget."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from tailguard.errors import InputError
from tailguard.risk import RiskMeasure, SmallTailWarning, risk_upper_bound

_MOST_LEVELS = 200


@dataclass(frozen=True)
class AcceptanceChoice:
    """An acceptance level and what it did on the prompts that it was chosen on.

    Attributes:
        level: answers whose upper bound on cost is above it are withheld.
        threshold: ν, the measure's minimiser on what was served: for the certificate.
        risk: risk of what was served, fallbacks included.
        risk_bound: upper confidence bound on it, optimistic as the level was chosen on it.
        acceptance_rate: share of answers accepted.
        met: ``bound`` where the bound meets the budget, ``estimate`` where only the estimate
            does, ``no`` where nothing meets it and the safest level was taken.
    """

    level: float
    threshold: float
    risk: float
    risk_bound: float
    acceptance_rate: float
    met: str


def choose_acceptance_level(
    costs: Float[np.ndarray, " n"],
    bounds: Float[np.ndarray, " n"],
    fallback_costs: Float[np.ndarray, " n"],
    *,
    measure: RiskMeasure,
    budget: float,
    largest_cost: float,
    confidence: float = 0.95,
) -> AcceptanceChoice:
    """Choose the level on calibration prompts, one answer a prompt.

    The level is per answer while the budget is on the pooled tail, so it is chosen by what the
    served mixture of answers and fallbacks risks, not set to the budget.

    Args:
        costs: of the answers that would be served with no level.
        bounds: the upper bounds on those costs that the level is compared with.
        fallback_costs: of the fallback as the answer to the same prompts.
        measure: ρ.
        budget: d.
        largest_cost: declared.
        confidence: of the upper bound on the risk.

    Raises:
        InputError: arrays of different lengths, or a NaN.
    """
    arrays = {"costs": costs, "bounds": bounds, "fallback_costs": fallback_costs}
    for name, array in arrays.items():
        if array.shape != costs.shape or costs.ndim != 1 or costs.size == 0:
            raise InputError(f"{name}: shape {array.shape}; all must be 1-D and as long as costs")
        if np.isnan(array).any():
            raise InputError(f"{name}: holds NaN; an answer that has no score is never served")
    choices = [
        _served(level, arrays, measure, largest_cost, confidence) for level in _levels(bounds)
    ]
    for met, meets in (
        ("bound", [choice.risk_bound <= budget for choice in choices]),
        ("estimate", [choice.risk <= budget for choice in choices]),
    ):
        good = [choice for choice, fits in zip(choices, meets, strict=True) if fits]
        if good:
            best = max(good, key=lambda choice: choice.level)
            return replace(best, met=met)
    return min(choices, key=lambda choice: choice.risk)


def accepted(bounds: Float[np.ndarray, " n"], level: float) -> Bool[np.ndarray, " n"]:
    """Which answers are served: those whose upper bound is finite and within the level."""
    return np.isfinite(bounds) & (bounds <= level)


def _levels(bounds: np.ndarray) -> list[float]:
    """Levels that tell the answers apart, from none accepted to all."""
    finite = bounds[np.isfinite(bounds)]
    if finite.size == 0:
        return [-np.inf]
    shares = np.linspace(0.0, 1.0, _MOST_LEVELS)
    return [-np.inf, *np.unique(np.quantile(finite, shares, method="higher")).tolist()]


def _served(
    level: float,
    arrays: dict[str, np.ndarray],
    measure: RiskMeasure,
    largest_cost: float,
    confidence: float,
) -> AcceptanceChoice:
    keep = accepted(arrays["bounds"], level)
    served = np.where(keep, arrays["costs"], arrays["fallback_costs"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTailWarning)  # the bound says how little is known
        risk = measure.value(served)
    threshold = float(np.max(measure.minimiser(served)))
    bound = risk_upper_bound(served, measure, threshold, upper=largest_cost, confidence=confidence)
    return AcceptanceChoice(level, threshold, risk, bound, float(keep.mean()), "no")
