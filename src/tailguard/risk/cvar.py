"""Conditional value at risk: the mean of the worst α mass of cost."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.risk.checks import (
    Number,
    Values,
    check_costs,
    check_tail_mass,
    check_weights,
    to_array,
)
from tailguard.risk.measure import RiskMeasure
from tailguard.risk.tail import cvar_rows, var_rows


@dataclass(frozen=True)
class CVaR(RiskMeasure):
    """CVaR_α(C) = min_ν ν + E max(C − ν, 0)/α (Rockafellar & Uryasev 2000).

    α = 1 is the mean and α → 0 the worst case. The atom at the tail's edge is split, so ties and
    N·α < 1 are right. Monotone, translation-equivariant, positively homogeneous and convex in the
    cost; concave in the distribution.

    Attributes:
        tail_mass: α in (0, 1].
    """

    tail_mass: Number

    def __post_init__(self) -> None:
        check_tail_mass(self.tail_mass)

    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """φ_ν(c) = ν + max(c − ν, 0)/α, never below ν."""
        nu = to_array(threshold)
        return np.asarray(nu + np.maximum(to_array(costs) - nu, 0.0) / self.tail_mass)

    def minimiser(self, costs: Values, weights: Values | None = None) -> float:
        """VaR_α: the smallest cost that at most α mass exceeds."""
        array = check_costs(costs)
        return float(var_rows(array, check_weights(weights, array.size), self.tail_mass))

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """CVaR of each row; the weights of a row sum to 1. No checks, no warning."""
        return cvar_rows(costs, weights, self.tail_mass)

    def threshold_rows(
        self, costs: Float[np.ndarray, "rows n"], weights: Float[np.ndarray, "rows n"]
    ) -> Float[np.ndarray, "rows"]:
        """VaR_α of each row."""
        return var_rows(costs, weights, self.tail_mass)

    @property
    def smallest_tail(self) -> float:
        """α."""
        return float(self.tail_mass)

    @property
    def minimiser_is_a_cost(self) -> bool:
        """VaR is."""
        return True

    @property
    def hinge(self) -> tuple[float, float]:
        """All of the penalty is the hinge: κ = 1."""
        return 1.0, float(self.tail_mass)

    def sufficient_threshold(self, budget: float, smallest_cost: float) -> float | None:
        """The tail of α = 1 begins at the smallest cost, whatever the policy."""
        del budget
        # For α < 1 no single ν will do: CVaR is concave in the law, so its budgets are not convex.
        return smallest_cost if self.tail_mass == 1.0 else None
