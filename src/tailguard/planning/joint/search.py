"""The outer problem with a vector of thresholds: several constraints, or a spectral measure.

Block-coordinate search from several starts: for fixed thresholds the inner dual is convex; for a
fixed policy each block's best threshold is its minimiser, so the value never falls; and one
threshold at a time is also tried on a grid. Two bounds certify the result: every constraint alone,
and branch and bound on boxes of thresholds (``vector_bound``) or the Lagrangian (``boxes``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tailguard.planning.bank import SampleBank
from tailguard.planning.curve import DualCurve
from tailguard.planning.joint.dual import JointDual, JointPoint, Vector
from tailguard.planning.problem import rater_of
from tailguard.planning.tilt import Matrix, Threshold, Tilt, num_thresholds, sample_penalty
from tailguard.risk.limit import RiskLimit

Thresholds = tuple[Threshold, ...]
_CLIMBS = 20  # alternations from one start; it ends earlier when the value stops rising


@dataclass
class BestJoint:
    """The best tilt so far."""

    value: float = -np.inf
    multipliers: Vector = field(default_factory=lambda: np.zeros(0))
    thresholds: Thresholds = ()


@dataclass
class JointSearch:
    """Searches over the thresholds of several constraints at once.

    Attributes:
        tilt: the tilt by the reward alone.
        constraints: which must all hold.
        span: a scale for values.
        scale: a scale for costs.
        slack: how far below its budget a risk may stay, whatever that costs.
    """

    tilt: Tilt
    constraints: tuple[RiskLimit, ...]
    span: float
    scale: float
    slack: float

    @property
    def budgets(self) -> Vector:
        """The limits d_j."""
        return np.array([c.budget for c in self.constraints])

    @cached_property
    def fixed(self) -> tuple[float | None, ...]:
        """The sufficient threshold of each pooled constraint that has one; None where ν is searched."""
        return tuple(
            c.measure.sufficient_threshold(c.budget, float(self._bank(c).cost.min()))
            if c.scope == "pooled"
            else None
            for c in self.constraints
        )

    def _bank(self, constraint: RiskLimit) -> SampleBank:
        return self.tilt.bank.seen_by(rater_of(constraint))

    @property
    def can_branch(self) -> bool:
        """Whether every threshold is known to lie among the costs, or is fixed."""
        return all(
            only is not None or (c.scope == "pooled" and c.measure.minimiser_is_a_cost)
            for only, c in zip(self.fixed, self.constraints, strict=True)
        )

    def search(self, starts: Sequence[Thresholds]) -> BestJoint:
        """Climb from every start, then try each pooled threshold on a grid."""
        best = BestJoint(multipliers=np.full(len(self.constraints), self.span / self.scale))
        for start in starts:
            self.climb(self.settle(start), best)
        if best.value > -np.inf:
            while self._sweep(best):
                pass
        return best

    def climb(self, thresholds: Thresholds, best: BestJoint) -> bool:
        """Alternate the inner solution with the minimisers; whether the best was improved."""
        improved, last = False, -np.inf
        for _ in range(_CLIMBS):
            point = self.inner(thresholds, self.budgets, best.multipliers)[0]
            # Written so that a NaN ends the climb too.
            if point is None or not point.value > last + 1e-7 * self.span:
                break
            last = point.value
            if last > best.value + 1e-9 * self.span:
                best.value, best.multipliers, best.thresholds = last, point.multipliers, thresholds
                improved = True
            total = sum(
                lam * penalty
                for lam, penalty in zip(point.multipliers, self.penalties(thresholds), strict=True)
            )
            weights, _ = self.tilt.weights(np.asarray(total))
            thresholds = self.minimisers(weights)
        return improved

    def inner(
        self, thresholds: Thresholds, margins: Vector, guess: Vector, stop_below: float = -np.inf
    ) -> tuple[JointPoint | None, float]:
        """The convex problem at fixed thresholds: its solution and a bound on its value."""
        penalties, gap = self.penalties(thresholds), 1e-8 * self.span
        if len(penalties) > 1:
            dual = JointDual(self.tilt, penalties, self.span / self.scale, self.slack)
            return dual.solve(margins, gap, guess, stop_below)
        # One multiplier is found more surely on its curve, above all near the edge of the reachable.
        margin, curve = float(margins[0]), DualCurve(self.tilt, lambda: penalties[0])
        first = float(guess[0]) or self.tilt.kl_coef / self.scale
        point = curve.solve(margin, gap, first, self.slack, stop_below)
        if point is None:
            return None, curve.upper(margin)
        means, multipliers = np.array([point.mean]), np.array([point.multiplier])
        found = JointPoint(multipliers, point.primal(), point.dual(margin), means)
        return found, curve.upper(margin)

    def minimisers(self, weights: Matrix) -> Thresholds:
        """The thresholds that suit a policy best."""
        found: list[Threshold] = []
        for constraint in self.constraints:
            bank = self._bank(constraint)
            costs, mass = bank.row_costs(), bank.row_weights(weights)
            if constraint.scope == "per_prompt":
                found.append(constraint.measure.threshold_rows(costs, mass))
            else:
                found.append(constraint.measure.minimiser(costs.ravel(), mass.ravel()))
        return self.settle(tuple(found))

    def settle(self, thresholds: Thresholds) -> Thresholds:
        """The thresholds, with those that suffice for every policy in their places."""
        return tuple(
            nu if only is None else only for only, nu in zip(self.fixed, thresholds, strict=True)
        )

    def penalties(self, thresholds: Thresholds) -> list[Matrix]:
        """φ of every constraint at its threshold."""
        return [
            sample_penalty(self._bank(asked), asked.measure, nu)
            for asked, nu in zip(self.constraints, thresholds, strict=True)
        ]

    def _sweep(self, best: BestJoint) -> bool:
        """Try every pooled threshold on a grid of the costs around it; whether any helped."""
        improved = False
        # Quantiles of the costs: equal steps in mass, so that an outlier takes one level at most.
        levels = np.quantile(self.tilt.bank.cost, np.linspace(0.0, 1.0, 129))
        for number, part in self._free_parts():
            now = float(np.atleast_1d(best.thresholds[number])[part])
            at = int(np.searchsorted(levels, now))
            near = {at + sign * step for step in (1, 2, 4, 8, 16, 32) for sign in (-1, 1)}
            for index in sorted(near & set(range(len(levels)))):
                trial = self._replace(best.thresholds, number, part, float(levels[index]))
                point, _ = self.inner(trial, self.budgets, best.multipliers, best.value)
                if point is not None and point.value > best.value + 1e-6 * self.span:
                    improved |= self.climb(trial, best)
        return improved

    def _free_parts(self) -> list[tuple[int, int]]:
        """(constraint, component) of every pooled threshold that matters."""
        return [
            (number, part)
            for number, asked in enumerate(self.constraints)
            if asked.scope == "pooled" and self.fixed[number] is None
            for part in range(num_thresholds(asked.measure))
        ]

    def _replace(self, thresholds: Thresholds, number: int, part: int, level: float) -> Thresholds:
        changed = level
        if self.constraints[number].measure.threshold_shape:
            changed = np.array(thresholds[number], dtype=np.float64)
            changed[part] = level
        return (*thresholds[:number], changed, *thresholds[number + 1 :])
