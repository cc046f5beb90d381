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
    warn_small_tail,
)
from tailguard.risk.tail import cvar_rows, var_rows


@dataclass(frozen=True)
class CVaR:
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

    def value(self, costs: Values, weights: Values | None = None) -> float:
        """The weighted CVaR, between the mean and the maximum; warns where N·α < 10."""
        array = check_costs(costs)
        mass = check_weights(weights, array.size)
        warn_small_tail(mass, self.tail_mass)
        return float(cvar_rows(array, mass, self.tail_mass))

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
