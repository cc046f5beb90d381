"""The latest costs, as an immutable value: adding costs makes a new window."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError, ScoreError


@dataclass(frozen=True, eq=False)
class CostWindow:
    """The latest `capacity` costs, oldest first.

    A batch of N answers holds N·α in the tail, often fewer than one; the window holds enough of them
    to estimate a tail. Costs of earlier, slightly different policies are not reweighted.

    Attributes:
        capacity: how many costs are kept; at least 1.
        costs: float64 [filled], filled ≤ capacity.
    """

    capacity: int
    costs: Float[np.ndarray, " filled"] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise InputError(f"capacity={self.capacity}: give at least 1")
        if len(self.costs) > self.capacity:
            raise InputError(f"{len(self.costs)} costs do not fit a window of {self.capacity}")

    def push(self, costs: Float[np.ndarray, " new"]) -> CostWindow:
        """A window that ends with these costs.

        Raises:
            ScoreError: a cost is NaN or infinite.
        """
        if not np.isfinite(costs).all():
            raise ScoreError(
                "a cost is NaN or infinite; the tail of the window could not be estimated"
            )
        # The newest are kept; a batch larger than the window fills it alone.
        kept = np.concatenate([self.costs, np.asarray(costs, dtype=np.float64)])[-self.capacity :]
        return CostWindow(self.capacity, kept)
