"""The inner problem: for a fixed penalty the dual is convex in the multiplier alone."""

import math
from bisect import insort
from collections.abc import Callable

from tailguard.planning.tilt import Matrix, Moments, Tilt

_MAX_STEPS = 200  # at most 11 away from the edge; every fourth bisects, so 200 exhaust a float
_ROUNDING = 1e-12  # of a margin: two means that differ by less are taken for equal


class DualCurve:
    """F(λ) = β·E_x log E_ref exp((r − λa)/β) of one penalty a, with every point ever evaluated.

    max{E r − β·KL : E a ≤ margin} = min_{λ≥0} F(λ) + λ·margin. F does not depend on the margin, so
    one curve serves every budget. The minimiser is the root of the monotone E_λ a − margin; it is
    found by Newton's method on log(E_λ a − floor), kept inside a shrinking bracket.

    Attributes:
        floor: the smallest E a that any policy on the bank reaches, E_x min_y a.
        points: moments at the multipliers tried so far, ascending.
    """

    def __init__(self, tilt: Tilt, make_penalty: Callable[[], Matrix]) -> None:
        """Evaluate λ = 0.

        Args:
            tilt: the tilt by the reward alone.
            make_penalty: gives a; called again for later work, so that idle curves hold no matrix.
        """
        self._tilt = tilt
        self._make_penalty = make_penalty
        penalty = make_penalty()
        self.floor = smallest_mean(tilt, penalty)
        self.points: list[Moments] = [tilt.moments(penalty, 0.0)]

    def upper(self, margin: float) -> float:
        """The least dual bound known without further work; −∞ where the margin is unreachable."""
        if self.floor > margin + _ROUNDING * max(1.0, abs(margin)):
            return -math.inf
        return min(point.dual(margin) for point in self.points)

    def solve(
        self,
        margin: float,
        gap: float,
        guess: float,
        slack: float,
        stop_below: float = -math.inf,
    ) -> Moments | None:
        """The tilt with E a ≤ margin whose value is within ``gap`` of the best.

        Args:
            margin: right-hand side.
            gap: largest allowed λ·(margin − E a), the duality gap of the answer.
            guess: a multiplier to try first when only λ = 0 is known.
            slack: how far below the margin E a may stay whatever that costs: near the floor the
                multiplier is so large that ``gap`` asks for less than rounding leaves.
            stop_below: give up once no policy can have a value above this.

        Returns:
            The moments at the multiplier found; None where the margin is unreachable, or the
            value at most ``stop_below``.
        """
        if self.floor >= margin:  # a tilt only approaches the floor, it never gets there
            return None
        low, high = self._bracket(margin)
        penalty: Matrix | None = None
        for step in range(_MAX_STEPS):
            if high is not None and _close(low, high, margin, gap, slack):
                return high
            if self.upper(margin) <= stop_below:
                return None
            penalty = self._make_penalty() if penalty is None else penalty
            multiplier = self._propose(low, high, margin, gap, guess, bisect=step % 4 == 3)
            point = self._tilt.moments(penalty, multiplier)
            insort(self.points, point, key=lambda p: p.multiplier)
            if point.mean > margin:
                low = point
            else:
                high = point
        return high

    def _bracket(self, margin: float) -> tuple[Moments | None, Moments | None]:
        """Neighbouring known points on the infeasible and the feasible side."""
        low = [p for p in self.points if p.mean > margin]
        high = [p for p in self.points if p.mean <= margin]
        return (low[-1] if low else None), (high[0] if high else None)

    def _propose(
        self,
        low: Moments | None,
        high: Moments | None,
        margin: float,
        gap: float,
        guess: float,
        *,
        bisect: bool,
    ) -> float:
        if low is None or (high is None and low.multiplier == 0.0):
            return guess
        newton = _log_newton(
            low if high is None else _nearer(low, high, margin), self.floor, margin, gap
        )
        # Still no feasible end: go up by at least half and at most twenty-fold, since Newton from far
        # below overshoots and a multiplier of 1e300 would leave nothing but ties.
        if high is None:
            return min(max(newton, 1.5 * low.multiplier), 20.0 * low.multiplier)
        # Log-Newton is almost exact near the floor, where E a − floor falls exponentially in λ.
        if low.multiplier < newton < high.multiplier and not bisect:
            return newton
        if high.multiplier > 10.0 * low.multiplier:  # bisect on a log scale
            return math.sqrt(high.multiplier * max(low.multiplier, 0.01 * high.multiplier))
        return 0.5 * (low.multiplier + high.multiplier)


def smallest_mean(tilt: Tilt, penalty: Matrix) -> float:
    """E_x min_y a over the samples that are present."""
    if tilt.bank.present is None:
        return float(penalty.min(axis=1).mean())
    return float(penalty.min(axis=1, where=tilt.bank.present, initial=math.inf).mean())


def _close(low: Moments | None, high: Moments, margin: float, gap: float, slack: float) -> bool:
    """Whether the feasible end of the bracket will do."""
    below = margin - high.mean
    if high.multiplier * below <= gap or below <= slack:
        return True
    return low is not None and high.multiplier - low.multiplier <= 1e-14 * high.multiplier


def _nearer(low: Moments, high: Moments, margin: float) -> Moments:
    """The end whose mean is nearer to the margin."""
    return low if low.mean - margin < margin - high.mean else high


def _log_newton(point: Moments, floor: float, margin: float, gap: float) -> float:
    """Newton's step for log(E a − floor), aimed half the allowed gap inside the margin."""
    height = point.mean - floor
    inside = min(
        0.5 * gap / point.multiplier if point.multiplier > 0 else 0.0, 0.5 * (margin - floor)
    )
    target = margin - floor - inside
    # Curvature 0: all weight is on samples of equal penalty, or the square overflowed.
    if height <= 0 or target <= 0 or point.curvature <= 0:
        return 2.0 * point.multiplier
    return point.multiplier + math.log(height / target) * height / point.curvature
