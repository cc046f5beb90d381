"""Planning: the best policy under a limit on risk, known before anything is trained."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from tailguard.errors import InputError
from tailguard.planning.bank import SampleBank
from tailguard.planning.joint.plan import plan_jointly, plan_vector
from tailguard.planning.per_prompt.search import PromptSearch
from tailguard.planning.pooled import PooledSearch
from tailguard.planning.problem import TOLERANCE, Problem, Tilted
from tailguard.planning.solution import Solution
from tailguard.planning.tilt import Threshold
from tailguard.risk import RiskMeasure
from tailguard.risk.limit import RaterLimit, RiskLimit


class Planner:
    """Plans on one bank at one β; keeps dual curves and thresholds from one plan to the next."""

    def __init__(self, bank: SampleBank, kl_coef: float | int) -> None:
        """Tilt by the reward alone.

        Raises:
            InputError: kl_coef is not positive and finite.
        """
        self.bench = Problem(bank, kl_coef)
        self._searches: dict[RiskMeasure, PromptSearch] = {}
        self._starts: dict[RiskMeasure, list[float]] = {}

    @cached_property
    def pooled(self) -> PooledSearch:
        """The search that every pooled constraint shares."""
        return PooledSearch(self.bench.tilt, self.bench.span, self.bench.scale, self.bench.slack)

    def solve_one(self, constraint: RiskLimit) -> Solution:
        """The best tilt under one constraint."""
        if isinstance(constraint, RaterLimit) and constraint.rater is not None:
            view = Planner(self.bench.bank.seen_by(constraint.rater), self.bench.kl_coef)
            found = view.solve_one(replace(constraint, rater=None))
            return replace(
                found, constraints=(constraint,), rater_weight=self.bench.bank.rater_weight
            )
        bench, measure = self.bench, constraint.measure
        measure.require_costs(bench.bank.cost)  # entropic risk refuses costs above its bound
        if bench.risk(constraint, bench.tilt.free_weights) <= constraint.budget:
            free = ((0.0,), (bench.threshold(constraint),))
            return bench.answer((constraint,), [free], bench.tilt.free_value)
        aim = bench.aim(constraint)
        if aim is None:
            return bench.infeasible((constraint,), (bench.reached(constraint).risk,))
        if constraint.scope == "per_prompt":
            found, bound = self._by_prompt(aim)
        elif measure.threshold_shape:
            found, bound = self._vector(aim)
        else:
            found, bound = self._pooled(aim)
        return bench.answer((constraint,), found, bound)

    def solve_all(self, constraints: Sequence[RiskLimit]) -> Solution:
        """The best tilt under all of the constraints.

        Raises:
            InputError: the list is empty.
        """
        if not constraints:
            raise InputError("constraint is an empty list; give at least one")
        alone = [self.solve_one(constraint) for constraint in constraints]
        return plan_jointly(self.bench, tuple(constraints), alone)

    def frontier(self, limits: Sequence[RiskLimit]) -> list[Solution]:
        """The best tilt under each, in their order; solved from the loosest budget down."""
        wanted = list(limits)
        # From the loosest budget down: the last threshold is a good start for a slightly stricter one.
        order = sorted(
            range(len(wanted)),
            key=lambda i: (wanted[i].scope, repr(wanted[i].measure), -wanted[i].budget),
        )
        solved = {i: self.solve_one(wanted[i]) for i in order}
        return [solved[i] for i in range(len(wanted))]

    def _pooled(self, aim: RiskLimit) -> tuple[list[Tilted], float]:
        """One pooled threshold."""
        starts = [_as_number(self.bench.reached(aim).threshold), *self._starts.get(aim.measure, [])]
        tolerance = TOLERANCE * self.bench.span
        found = self.pooled.search(aim.measure, float(aim.budget), starts, tolerance)
        if found is None:
            return [], math.nan
        self._starts[aim.measure] = [found.threshold]
        return [((found.multiplier,), (found.threshold,))], found.bound

    def _by_prompt(self, aim: RiskLimit) -> tuple[list[Tilted], float]:
        """Thresholds for each prompt."""
        if aim.measure not in self._searches:
            bench = self.bench
            self._searches[aim.measure] = PromptSearch(
                bench.tilt, aim.measure, bench.span, bench.scale, bench.slack
            )
        start = np.asarray(self.bench.reached(aim).threshold)
        found = self._searches[aim.measure].search(
            float(aim.budget), start, TOLERANCE * self.bench.span
        )
        return [((found.multiplier,), (found.threshold,))], found.bound

    def _vector(self, aim: RiskLimit) -> tuple[list[Tilted], float]:
        """A pooled mixture; where a measure with one threshold is nowhere larger, that gives a bound."""
        relaxation, known = aim.measure.relaxation(), self.bench.tilt.free_value
        if relaxation is not None:
            relaxed = self.solve_one(RiskLimit(relaxation, aim.budget))
            known = relaxed.dual_bound if relaxed.feasible else known
        return plan_vector(self.bench, aim, known)


def _as_number(threshold: Threshold) -> float:
    return float(np.asarray(threshold))


def solve(
    bank: SampleBank,
    constraint: RiskLimit | Sequence[RiskLimit],
    kl_coef: float | int,
) -> Solution:
    """max_π E r − β·KL(π‖π_ref) subject to ρ(C) ≤ d, over all policies on the bank.

    The optimum is a tilt π ∝ π_ref·exp((r − λφ_ν(c))/β). For fixed ν the dual in λ is convex; over ν
    the search is global (see ``pooled``, ``per_prompt``). A slack constraint gets λ = 0.

    Args:
        bank: scored samples of the reference policy.
        constraint: one, or a list that must all hold.
        kl_coef: β > 0.

    Returns:
        The tilt with its figures; ``feasible`` is False, and the smallest reachable risk given,
        where no policy on the bank meets the budget.

    Raises:
        InputError: kl_coef is not positive, or a cost lies outside what the measure was declared for.
    """
    planner = Planner(bank, kl_coef)
    if isinstance(constraint, RiskLimit):
        return planner.solve_one(constraint)
    return planner.solve_all(constraint)


def frontier(
    bank: SampleBank,
    constraints: Sequence[RiskLimit],
    kl_coef: float | int,
) -> list[Solution]:
    """``solve`` for each of many constraints or profiles, in their order, sharing what can be shared.

    Dual curves depend neither on the budget nor, for CVaR, on the tail mass, so later profiles find
    most of theirs evaluated. Profiles of one measure are taken from the loosest budget to the
    strictest, each starting at the last one's threshold.

    Args:
        bank: scored samples of the reference policy.
        constraints: what each plan must keep.
        kl_coef: β > 0.
    """
    return Planner(bank, kl_coef).frontier(constraints)
