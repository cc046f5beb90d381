"""Entropic risk: an exponential price on cost, for costs whose bound is declared."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from tailguard.errors import InputError
from tailguard.risk.checks import Number, Values, to_array
from tailguard.risk.measure import RiskMeasure

# exp beyond this overflows; the penalty saturates there, which happens only for thresholds
# hundreds of 1/θ below the cost, far from any minimiser.
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class Entropic(RiskMeasure):
    """(1/θ) log E e^{θC}, the OCE with u(t) = (e^{θt} − 1)/θ.

    Infinite for heavy tails, and estimated far too low from any sample of them; hence the
    declared bound, which a cost may reach and not pass.

    Attributes:
        theta: θ > 0; θ → 0 is the mean, θ → ∞ the worst case.
        cost_bound: the largest cost there can be.
    """

    theta: Number
    cost_bound: Number

    def __post_init__(self) -> None:
        if not (math.isfinite(self.theta) and self.theta > 0):
            raise InputError(f"theta must be positive and finite, got {self.theta!r}")
        if not math.isfinite(self.cost_bound):
            raise InputError(
                f"cost_bound must be finite, got {self.cost_bound!r}; clip or squash the cost and "
                "declare its bound, or use CVaR"
            )

    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """φ_ν(c) = ν + (e^{θ(c−ν)} − 1)/θ."""
        nu, array = to_array(threshold), to_array(costs)
        self.require_costs(array)
        exponent = np.minimum(self.theta * (array - nu), _LARGEST_EXPONENT)
        return np.asarray(nu + np.expm1(exponent) / self.theta)

    def minimiser(self, costs: Values, weights: Values | None = None) -> float:
        """The risk itself: ν* = ρ(C)."""
        return self.value(costs, weights)

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """The entropic risk of each row; the weights of a row sum to 1. No checks, no warning."""
        present = weights > 0
        largest = np.where(present, costs, -np.inf).max(axis=-1, keepdims=True)
        exponent = self.theta * np.where(present, costs - largest, 0.0)  # ≤ 0
        # log E e^x = log1p(E (e^x − 1)): what is small is kept, where log would round it off and
        # dividing by a small θ would blow that up. For long ranges the logarithm itself, of
        # weights too: scipy's own overflow where one is near the smallest float.
        near = np.log1p(np.maximum((weights * np.expm1(exponent)).sum(axis=-1), -0.9))
        with np.errstate(divide="ignore"):
            far = logsumexp(exponent + np.log(weights), axis=-1)
        is_near = exponent.min(axis=-1) >= -1.0
        return np.asarray(largest[..., 0] + np.where(is_near, near, far) / self.theta)

    def threshold_rows(
        self, costs: Float[np.ndarray, "rows n"], weights: Float[np.ndarray, "rows n"]
    ) -> Float[np.ndarray, "rows"]:
        """The risk of each row."""
        return self.value_rows(costs, weights)

    @property
    def largest_cost(self) -> float:
        """The declared bound."""
        return float(self.cost_bound)

    def sufficient_threshold(self, budget: float, smallest_cost: float) -> float:
        """The budget: ρ ≤ d where E e^{θ(C−d)} ≤ 1, which is E φ_d ≤ d."""
        del smallest_cost
        return budget

    def dominates(self, other: RiskMeasure) -> bool:
        """Entropic risk grows with θ; its value does not depend on the declared bound."""
        if isinstance(other, Entropic):
            return self.theta >= other.theta
        return super().dominates(other)
