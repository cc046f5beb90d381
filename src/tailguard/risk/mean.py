"""The mean: the risk-neutral measure."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.risk.checks import Values, to_array
from tailguard.risk.measure import RiskMeasure


@dataclass(frozen=True)
class Mean(RiskMeasure):
    """E C: u(t) = t, so φ_ν(c) = c whatever the threshold."""

    def penalty(self, costs: Values, threshold: Values = 0.0) -> Float[np.ndarray, "..."]:
        """The cost itself, broadcast to the threshold's shape."""
        array = to_array(costs)
        shape = np.broadcast_shapes(array.shape, to_array(threshold).shape)
        # A copy, since callers scale penalties in place and a broadcast view is read-only.
        return np.broadcast_to(array, shape).copy()

    def minimiser(self, costs: Values, weights: Values | None = None) -> float:
        """Every threshold attains the minimum; the mean is given."""
        return self.value(costs, weights)

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """The mean of each row; the weights of a row sum to 1."""
        return np.asarray(np.sum(costs * weights, axis=-1))

    def threshold_rows(
        self, costs: Float[np.ndarray, "rows n"], weights: Float[np.ndarray, "rows n"]
    ) -> Float[np.ndarray, "rows"]:
        """The mean of each row."""
        return self.value_rows(costs, weights)

    @property
    def slopes(self) -> Float[np.ndarray, "k"]:
        """φ does not depend on ν."""
        return np.zeros(1)

    @property
    def hinge(self) -> tuple[float, float]:
        """The tail counts for nothing."""
        return 0.0, 1.0

    def sufficient_threshold(self, budget: float, smallest_cost: float) -> float:
        """Any will do."""
        del budget
        return smallest_cost
