"""An upper bound where thresholds form a vector: branch and bound on boxes of them."""

import heapq

import numpy as np
from jaxtyping import Float64, Int

from tailguard.planning.joint.dual import Vector
from tailguard.planning.joint.search import BestJoint, JointSearch, Thresholds
from tailguard.planning.tilt import Threshold, num_thresholds

_WORK = 3_000_000  # samples × boxes to spend
_MOST_BOXES = 250

Corner = Int[np.ndarray, "parts"]


class VectorBound:
    """Best-first branch and bound over the free thresholds of pooled constraints.

    In a box each penalty is at least the one at the upper corner less κ times the width of its own
    thresholds, so the inner problem at that corner with margins widened by as much bounds every
    policy of the box; the corner itself is tried as a plan. Boxes are ranges of the sorted costs.
    """

    def __init__(
        self, search: JointSearch, atoms: Float64[np.ndarray, "atoms"], best: BestJoint
    ) -> None:
        """Nothing is evaluated yet.

        Args:
            search: the problem, all of whose constraints can branch (`JointSearch.can_branch`).
            atoms: the distinct costs, ascending.
            best: the best plan so far, which is improved in place.
        """
        self._search, self._atoms, self._best = search, atoms, best
        owner: list[int] = []
        slopes: list[float] = []
        for number, asked in enumerate(search.constraints):
            if search.fixed[number] is None:
                owner += [number] * num_thresholds(asked.measure)
                slopes += asked.measure.slopes.tolist()
        self._owner, self._slopes = np.array(owner, dtype=np.int64), np.array(slopes)

    def bound(self, known: float, tolerance: float) -> float:
        """No policy within the budgets has a larger value than this.

        Args:
            known: a bound that is already known.
            tolerance: above the best value, where to stop.
        """
        if len(self._owner) == 0:  # every threshold is fixed: the inner problem is the whole one
            search = self._search
            fixed = self._thresholds(np.zeros(0, dtype=np.int64))
            return min(known, search.inner(fixed, search.budgets, self._best.multipliers)[1])
        zero = np.zeros(len(self._owner), dtype=np.int64)
        heap = [(-known, 0, zero, zero + len(self._atoms) - 1)]
        left = int(np.clip(_WORK // self._search.tilt.base.size, 8, _MOST_BOXES))
        pruned, number = -np.inf, 0
        while heap and -heap[0][0] > self._best.value + tolerance and left > 0:
            above, _, low, high = heapq.heappop(heap)
            left -= 1
            above = min(-above, self._visit(low, high, tolerance))
            width = (self._atoms[high] - self._atoms[low]) * self._weights()
            if above <= self._best.value + tolerance or not width.any():
                pruned = max(pruned, above)
                continue
            side = int(width.argmax())  # the side that costs most in value, not the longest
            middle = (low[side] + high[side]) // 2
            below, beyond = high.copy(), low.copy()
            below[side], beyond[side] = middle, middle + 1
            for corners in ((low, below), (beyond, high)):
                if self._ordered(*corners):
                    number += 1
                    heapq.heappush(heap, (-above, number, *corners))
        return min(known, max(self._best.value, pruned, -heap[0][0] if heap else -np.inf))

    def _visit(self, low: Corner, high: Corner, tolerance: float) -> float:
        """Bound a box, and try its upper corner."""
        search, best = self._search, self._best
        thresholds = self._thresholds(high)
        widths = (self._atoms[high] - self._atoms[low]) * self._slopes
        wide = search.budgets + np.bincount(self._owner, widths, minlength=len(search.constraints))
        _, bound = search.inner(thresholds, wide, best.multipliers, best.value + tolerance)
        if bound > best.value + tolerance:
            point, _ = search.inner(thresholds, search.budgets, best.multipliers, best.value)
            if point is not None and point.value > best.value:
                search.climb(thresholds, best)
        return bound

    def _thresholds(self, corner: Corner) -> Thresholds:
        """The corner as thresholds of the constraints, fixed ones in their places."""
        found: list[Threshold] = []
        for number, asked in enumerate(self._search.constraints):
            fixed = self._search.fixed[number]
            if fixed is None:
                mine = self._atoms[corner[self._owner == number]]
                found.append(mine if asked.measure.threshold_shape else float(mine[0]))
            else:
                found.append(fixed)
        return tuple(found)

    def _weights(self) -> Vector:
        """What a threshold's width costs in value."""
        price = (
            self._best.multipliers if self._best.value > -np.inf else np.ones(self._owner.max() + 1)
        )
        floor = 0.05 * float(np.max(price)) + 1e-12
        return self._slopes * np.maximum(price[self._owner], floor)

    def _ordered(self, low: Corner, high: Corner) -> bool:
        """Whether the box holds thresholds in an order that a minimiser's can have."""
        for number, asked in enumerate(self._search.constraints):
            order = list(asked.measure.threshold_order)
            if order:
                bottom, top = low[self._owner == number][order], high[self._owner == number][order]
                if (np.maximum.accumulate(bottom) > top).any():
                    return False
        return True
