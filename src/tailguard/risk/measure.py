"""The seam every risk measure stands behind."""

import math
from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.risk.checks import Values, check_costs, check_weights, warn_small_tail


class RiskMeasure(ABC):
    """An optimized certainty equivalent, ρ(C) = min_ν E φ_ν(C), or a mixture of several.

    Larger cost is worse. φ_ν(c) = ν + u(c − ν) does not fall as c grows, and for every threshold
    ν, E φ_ν(C) ≥ ρ(C) with equality at the minimiser (Ben-Tal & Teboulle 2007).

    A measure is a frozen dataclass that subclasses this one, in a file of its own, with a line in
    ``spelling.MEASURES``. It must say its law: `penalty`, `minimiser`, `value_rows`. Everything
    else is what planning, training and decoding ask of a measure; the answers given here are right
    for any OCE with one threshold, and a measure with better answers overrides them.
    """

    @abstractmethod
    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """φ_ν(c), elementwise; the threshold broadcasts against the costs."""
        ...

    @abstractmethod
    def minimiser(
        self, costs: Values, weights: Values | None = None
    ) -> float | Float[np.ndarray, "k"]:
        """The ν at which E φ_ν(C) = ρ(C); it lies between the smallest cost and the largest."""
        ...

    @abstractmethod
    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """ρ of each row, the weights of a row summing to 1. For inner loops: no checks, no warning."""
        ...

    def value(self, costs: Values, weights: Values | None = None) -> float:
        """ρ of the weighted sample ``costs`` [n]; warns where fewer than ten lie in its tail.

        Raises:
            InputError: costs or weights that are empty, NaN, misshapen, or outside what the measure
                was declared for.
        """
        # Checks and the warning are made here once, so that inner loops can call value_rows alone.
        array = check_costs(costs)
        mass = check_weights(weights, array.size)
        self.require_costs(array)
        warn_small_tail(mass, self.smallest_tail)
        return float(self.value_rows(array, mass))

    def threshold_rows(
        self, costs: Float[np.ndarray, "rows n"], weights: Float[np.ndarray, "rows n"]
    ) -> Float[np.ndarray, "rows *k"]:
        """The minimiser of each row, [rows], or [rows, K] where thresholds form a vector."""
        # Right for any measure; those that can find all rows at once override it.
        return np.array([self.minimiser(c, w) for c, w in zip(costs, weights, strict=True)])

    def require_costs(self, costs: Float[np.ndarray, "..."]) -> None:
        """Raise `InputError` where a cost is above the `largest_cost` that was declared."""
        if costs.size and costs.max() > self.largest_cost:
            raise InputError(
                f"costs reach {costs.max():g}, above cost_bound={self.largest_cost:g}; clip them or "
                "declare a larger bound"
            )

    @property
    def largest_cost(self) -> float:
        """The largest cost that the measure was declared for; +∞ where it needs no declaration."""
        return math.inf

    @property
    def threshold_shape(self) -> tuple[int, ...]:
        """The shape of ν: () for a number, (K,) for a mixture of K with a threshold each."""
        return ()

    @property
    def smallest_tail(self) -> float:
        """The thinnest tail mass that the measure looks at; 1 where it looks at all costs alike."""
        return 1.0

    @property
    def slopes(self) -> Float[np.ndarray, "k"]:
        """κ of each threshold: the most by which φ_ν rises as that ν rises by one.

        dφ/dν = 1 − u′(c − ν) ≤ 1, since u does not fall. (The other way φ can be far steeper: as ν
        falls by one, CVaR(.1) rises by up to 9.) Searches over ν use it to bound φ from below on an
        interval by its value at the *upper* end.
        """
        return np.ones(1)

    @property
    def minimiser_is_a_cost(self) -> bool:
        """Whether some minimiser of E φ_ν is always among the costs, as for piecewise linear u."""
        return False

    @property
    def hinge(self) -> tuple[float, float] | None:
        """(κ, α) where φ_ν(c) = (1 − κ)c + κ(ν + max(c − ν, 0)/α); None for any other law."""
        return None

    @property
    def largest_slope(self) -> float:
        """The most by which φ_ν rises as the cost rises by one; +∞ where it curves ever upwards."""
        if self.hinge is None:
            return math.inf
        weight, tail_mass = self.hinge
        return (1.0 - weight) + weight / tail_mass

    @property
    def threshold_order(self) -> tuple[int, ...]:
        """Positions along which a minimiser's thresholds never fall; empty where none is known.

        Searches over a vector of thresholds leave out boxes in which they would.
        """
        return ()

    def sufficient_threshold(self, budget: float, smallest_cost: float) -> float | None:
        """The one ν, if any, at which E φ_ν ≤ d says the same as ρ ≤ d for every law of cost.

        Such a constraint is linear in the policy, so that no search over ν is needed.
        """
        del budget, smallest_cost
        return None

    def relaxation(self) -> "RiskMeasure | None":
        """A measure with one threshold that is nowhere larger; None where the measure has one."""
        return None

    def dominates(self, other: "RiskMeasure") -> bool:
        """Whether ρ is known to be at least the other's for every law of cost.

        A decoder that was calibrated for this measure then serves requests for the other. No OCE
        is below the mean, since u(t) ≥ t; and (1 − κ)E + κ CVaR_α grows with κ and falls with α.
        """
        if self == other:
            return True
        if other.hinge is None:
            return False
        weight, tail_mass = other.hinge
        if weight == 0.0 or tail_mass == 1.0:
            return True
        return self.hinge is not None and self.hinge[0] >= weight and self.hinge[1] <= tail_mass
