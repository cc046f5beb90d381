"""Planning: the best policy under a limit on risk, known before anything is trained."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tailguard.errors import InputError
from tailguard.planning.bank import SampleBank
from tailguard.planning.joint.plan import plan_jointly, plan_vector
from tailguard.planning.per_prompt.search import PromptSearch
from tailguard.planning.pooled import PooledSearch
from tailguard.planning.problem import TOLERANCE, Problem
from tailguard.planning.solution import Solution
from tailguard.risk import RiskMeasure
from tailguard.risk.limit import RiskLimit


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
        return PooledSearch(self.bench.tilt, self.bench.span, self.bench.spread)

    def solve_one(self, constraint: RiskLimit) -> Solution:
        """The best tilt under one constraint."""
        bench, measure, budget = self.bench, constraint.measure, constraint.budget
        measure.require_costs(bench.bank.cost)
        reached = bench.reached(constraint)
        if bench.risk(constraint, bench.tilt.free_weights) <= budget:
            threshold, value = bench.threshold(constraint), bench.tilt.free_value
            return bench.report((constraint,), (0.0,), (threshold,), value)
        if reached.risk > budget + 1e-9 * bench.spread:
            return bench.infeasible((constraint,), (reached.risk,))
        tolerance = TOLERANCE * bench.span
        if constraint.scope == "per_prompt":
            found = self._prompt_search(measure).search(
                budget, np.asarray(reached.threshold), tolerance
            )
        elif measure.threshold_shape:
            return self._solve_vector(constraint)
        else:
            starts = [float(reached.threshold), *self._starts.get(measure, [])]
            found = self.pooled.search(measure, budget, starts, tolerance)
            self._starts[measure] = [found.threshold]
        return bench.report((constraint,), (found.multiplier,), (found.threshold,), found.bound)

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
        order = sorted(
            range(len(wanted)),
            key=lambda i: (wanted[i].scope, repr(wanted[i].measure), -wanted[i].budget),
        )
        solved = {i: self.solve_one(wanted[i]) for i in order}
        return [solved[i] for i in range(len(wanted))]

    def _solve_vector(self, constraint: RiskLimit) -> Solution:
        """A pooled mixture; where a measure with one threshold is nowhere larger, that gives a bound."""
        relaxation, known = constraint.measure.relaxation(), self.bench.tilt.free_value
        if relaxation is not None:
            known = self.solve_one(RiskLimit(relaxation, constraint.budget)).dual_bound
        return plan_vector(self.bench, constraint, known)

    def _prompt_search(self, measure: RiskMeasure) -> PromptSearch:
        if measure not in self._searches:
            tilt, span, spread = self.bench.tilt, self.bench.span, self.bench.spread
            self._searches[measure] = PromptSearch(tilt, measure, span, spread)
        return self._searches[measure]


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

    Dual curves know neither budget nor, for CVaR, tail mass, so later profiles find most of theirs
    evaluated. Profiles of one measure are taken from the loosest budget to the strictest, each
    starting at the last one's threshold.

    Args:
        bank: scored samples of the reference policy.
        constraints: what each plan must keep.
        kl_coef: β > 0.
    """
    return Planner(bank, kl_coef).frontier(constraints)
