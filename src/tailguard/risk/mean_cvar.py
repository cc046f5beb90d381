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
    warn_small_tail,
)
from tailguard.risk.tail import cvar_rows, var_rows


@dataclass(frozen=True)
class MeanCVaR:
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

    def value(self, costs: Values, weights: Values | None = None) -> float:
        """The weighted blend; warns where N·α < 10 and the tail counts."""
        array = check_costs(costs)
        mass = check_weights(weights, array.size)
        if self.weight > 0:
            warn_small_tail(mass, self.tail_mass)
        return float(self.value_rows(array, mass))

    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """φ_ν(c) = (1 − κ)c + κ(ν + max(c − ν, 0)/α)."""
        nu, array = to_array(threshold), to_array(costs)
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
