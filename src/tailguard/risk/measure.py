"""The seam every risk measure stands behind."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tailguard.risk.checks import Values


@runtime_checkable
class RiskMeasure(Protocol):
    """An optimized certainty equivalent, ρ(C) = min_ν E φ_ν(C), or a mixture of such.

    Larger cost is worse. φ_ν(c) = ν + u(c − ν) does not fall as c grows, and for every threshold
    ν, E φ_ν(C) ≥ ρ(C) with equality at the minimiser (Ben-Tal & Teboulle 2007).
    """

    def value(self, costs: Values, weights: Values | None = None) -> float:
        """ρ of the weighted sample ``costs`` [n]; checks its input and warns of thin tails."""
        ...

    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """φ_ν(c), elementwise; the threshold broadcasts against the costs."""
        ...

    def minimiser(
        self, costs: Values, weights: Values | None = None
    ) -> float | Float[np.ndarray, "k"]:
        """The ν at which E φ_ν(C) = ρ(C)."""
        ...

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """ρ of each row, the weights of a row summing to 1. For inner loops: no checks, no warning."""
        ...
