"""The mean: the risk-neutral measure."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.risk.checks import Values, check_costs, check_weights, to_array


@dataclass(frozen=True)
class Mean:
    """E C: u(t) = t, so φ_ν(c) = c whatever the threshold."""

    def value(self, costs: Values, weights: Values | None = None) -> float:
        """The weighted mean."""
        array = check_costs(costs)
        return float(array @ check_weights(weights, array.size))

    def penalty(self, costs: Values, threshold: Values = 0.0) -> Float[np.ndarray, "..."]:
        """The cost itself, broadcast to the threshold's shape."""
        array = to_array(costs)
        shape = np.broadcast_shapes(array.shape, to_array(threshold).shape)
        return np.broadcast_to(array, shape).copy()

    def minimiser(self, costs: Values, weights: Values | None = None) -> float:
        """Every threshold attains the minimum; the mean is given."""
        return self.value(costs, weights)

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """The mean of each row; the weights of a row sum to 1."""
        return np.asarray(np.sum(costs * weights, axis=-1))
