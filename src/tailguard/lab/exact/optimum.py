"""The true constrained optimum of an exact world, written to be believed rather than to be fast.

It shares no code with ``tailguard.planning``, whose oracle it is.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from tailguard.errors import InfeasibleError
from tailguard.lab.exact.enumeration import ExactOutcome, exact_outcome
from tailguard.lab.exact.world import ExactWorld
from tailguard.risk import RiskMeasure

_THRESHOLDS_AT_ONCE = 1024
_NUMBERS_AT_ONCE = 1 << 22  # thresholds × responses in one pass: 32 MB


@dataclass(frozen=True)
class ExactOptimum:
    """The best policy that keeps the budget.

    Attributes:
        log_probs: log π* [prompts, responses].
        multiplier: λ.
        threshold: ν.
        outcome: what π* achieves.
    """

    log_probs: Float[np.ndarray, "prompts responses"]
    multiplier: float
    threshold: float
    outcome: ExactOutcome


def exact_optimum(
    world: ExactWorld,
    reference: Float[np.ndarray, "prompts responses"],
    measure: RiskMeasure,
    budget: float,
    kl_coef: float,
) -> ExactOptimum:
    """max_π E r − β·KL(π‖π_ref) subject to ρ(C) ≤ d, prompts and responses pooled.

    For each threshold ν, π ∝ π_ref·exp((r − λφ_ν(c))/β) with the least λ ≥ 0 at which
    E φ_ν ≤ d, by bisection; the best ν is kept. The minimiser of any CVaR is one of the costs, so
    trying every cost is exact for hinge penalties. Worlds with more than 1,024 costs are searched
    by zooming in on the best of evenly ranked ones, which could miss a second peak. Where the
    minimiser need not be a cost, as for Entropic, the result is as fine as the costs are.

    Args:
        world: with the truth.
        reference: log π_ref.
        measure: ρ; its threshold must be one number (not a vector).
        budget: d.
        kl_coef: β > 0.

    Raises:
        InfeasibleError: no policy meets the budget.
    """
    least = float(
        measure.value_rows(world.cost.min(axis=1), np.full(len(world.cost), 1 / len(world.cost)))
    )
    if least > budget:
        raise InfeasibleError(f"no policy of this world meets the budget {budget:g}", least)
    free = _tilted(world.reward / kl_coef + reference)
    outcome = exact_outcome(world, free, reference, measure, kl_coef)
    if outcome.risk <= budget:
        pooled = np.exp(free).ravel() / len(free)
        threshold = measure.minimiser(world.cost.ravel(), pooled)
        return ExactOptimum(free, 0.0, float(np.asarray(threshold)), outcome)
    threshold, multiplier = _search(world, reference, measure, budget, kl_coef)
    penalty = measure.penalty(world.cost, threshold)
    log_probs = _tilted((world.reward - multiplier * penalty) / kl_coef + reference)
    outcome = exact_outcome(world, log_probs, reference, measure, kl_coef)
    return ExactOptimum(log_probs, multiplier, threshold, outcome)


def _search(
    world: ExactWorld,
    reference: Float[np.ndarray, "prompts responses"],
    measure: RiskMeasure,
    budget: float,
    kl_coef: float,
) -> tuple[float, float]:
    """The best threshold among the costs and its multiplier, zooming in where costs are many."""
    costs = np.unique(world.cost) if measure.slopes.any() else np.array([0.0])  # φ may ignore ν
    zoom = max(16, min(_THRESHOLDS_AT_ONCE, _NUMBERS_AT_ONCE // world.cost.size))
    first, last = 0, costs.size - 1
    while True:
        stride = max(1, -(-(last - first) // zoom))
        places = np.unique(np.append(np.arange(first, last + 1, stride), last))
        found = [
            _solve_multiplier(world, reference, measure.penalty(world.cost, nu), budget, kl_coef)
            for nu in costs[places]
        ]
        best = int(np.argmax([value for value, _ in found]))
        if stride == 1:
            return float(costs[places[best]]), found[best][1]
        first = int(places[max(best - 1, 0)])
        last = int(places[min(best + 1, places.size - 1)])


def _solve_multiplier(
    world: ExactWorld,
    reference: Float[np.ndarray, "prompts responses"],
    penalty: Float[np.ndarray, "prompts responses"],
    budget: float,
    kl_coef: float,
) -> tuple[float, float]:
    """Value and λ of the best policy with E φ ≤ d; −∞ where there is none."""
    if penalty.min(axis=1).mean() >= budget:
        return -math.inf, math.inf

    def excess(multiplier: float) -> float:
        log_law = _tilted((world.reward - multiplier * penalty) / kl_coef + reference)
        return float(np.sum(np.exp(log_law) * penalty) / len(penalty)) - budget

    multiplier = 0.0
    if excess(0.0) > 0:
        high = 1.0
        # Ends, since the smallest mean penalty lies below the budget and λ → ∞ approaches it.
        while excess(high) > 0:
            high *= 2.0
        multiplier = float(brentq(excess, 0.0, high, xtol=1e-13, rtol=1e-12))
    log_law = _tilted((world.reward - multiplier * penalty) / kl_coef + reference)
    gain = world.reward - kl_coef * (log_law - reference)
    return float(np.sum(np.exp(log_law) * gain) / len(penalty)), multiplier


def _tilted(
    exponent: Float[np.ndarray, "prompts responses"],
) -> Float[np.ndarray, "prompts responses"]:
    """Logarithms of each prompt's normalised law."""
    return exponent - np.logaddexp.reduce(exponent, axis=1, keepdims=True)
