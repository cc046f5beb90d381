"""A blend of the mean and the tail."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
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
class MeanCVaR(RiskMeasure):
    """(1 − κ) E C + κ CVaR_α(C), the OCE with u(t) = (1 − κ)t + κ max(t, 0)/α.

    Attributes:
        tail_mass: α in (0, 1].
        weight: κ in [0, 1]: 0 is the mean, 1 is CVaR.
    """

    tail_mass: Number
    weight: Number

    def __post_init__(self) -> None:
        check_tail_mass(self.tail_mass)
        if not 0.0 <= self.weight <= 1.0:
            raise InputError(f"weight must lie in [0, 1], got {self.weight!r}; 0 is the mean")

    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """φ_ν(c) = (1 − κ)c + κ(ν + max(c − ν, 0)/α)."""
        nu, array = to_array(threshold), to_array(costs)
        # The mean's share does not depend on ν, so the minimiser is CVaR's whatever κ is.
        tail = nu + np.maximum(array - nu, 0.0) / self.tail_mass
        return np.asarray((1.0 - self.weight) * array + self.weight * tail)

    def minimiser(self, costs: Values, weights: Values | None = None) -> float:
        """VaR_α, as for CVaR alone."""
        array = check_costs(costs)
        return float(var_rows(array, check_weights(weights, array.size), self.tail_mass))

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """The blend for each row; the weights of a row sum to 1. No checks, no warning."""
        tail = cvar_rows(costs, weights, self.tail_mass)
        mean = np.sum(costs * weights, axis=-1)
        return np.asarray((1.0 - self.weight) * mean + self.weight * tail)

    def threshold_rows(
        self, costs: Float[np.ndarray, "rows n"], weights: Float[np.ndarray, "rows n"]
    ) -> Float[np.ndarray, "rows"]:
        """VaR_α of each row."""
        return var_rows(costs, weights, self.tail_mass)

    @property
    def smallest_tail(self) -> float:
        """α, where the tail counts at all."""
        return float(self.tail_mass) if self.weight > 0 else 1.0

    @property
    def slopes(self) -> Float[np.ndarray, "k"]:
        """κ: only the tail's share of the penalty depends on ν."""
        return np.array([float(self.weight)])

    @property
    def minimiser_is_a_cost(self) -> bool:
        """VaR is."""
        return True

    @property
    def hinge(self) -> tuple[float, float]:
        """κ and α."""
        return float(self.weight), float(self.tail_mass)

    def sufficient_threshold(self, budget: float, smallest_cost: float) -> float | None:
        """The tail of α = 1 begins at the smallest cost, whatever the policy."""
        del budget
        return smallest_cost if self.tail_mass == 1.0 else None
