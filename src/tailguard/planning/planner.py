"""One bank, any number of plans."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tailguard.errors import InputError
from tailguard.planning.bank import SampleBank
from tailguard.planning.constraint import RiskConstraint, RiskProfile, as_constraint
from tailguard.planning.joint_plan import plan_jointly, plan_spectral
from tailguard.planning.per_prompt import PromptSearch
from tailguard.planning.pooled import PooledSearch
from tailguard.planning.solution import Solution
from tailguard.planning.workbench import TOLERANCE, Workbench
from tailguard.risk import CVaR, Entropic, RiskMeasure, Spectral


class Planner:
    """Plans on one bank at one β; keeps dual curves and thresholds from one plan to the next."""

    def __init__(self, bank: SampleBank, kl_coef: float | int) -> None:
        """Tilt by the reward alone.

        Raises:
            InputError: kl_coef is not positive and finite.
        """
        self.bench = Workbench(bank, kl_coef)
        self._searches: dict[RiskMeasure, PromptSearch] = {}
        self._starts: dict[RiskMeasure, list[float]] = {}

    @cached_property
    def pooled(self) -> PooledSearch:
        """The search that every pooled constraint shares."""
        return PooledSearch(self.bench.tilt, self.bench.span, self.bench.spread)

    def solve_one(self, constraint: RiskConstraint) -> Solution:
        """The best tilt under one constraint."""
        bench, measure, budget = self.bench, constraint.measure, constraint.budget
        if isinstance(measure, Entropic):
            measure.penalty(bench.bank.cost.max(), 0.0)  # refuses costs above the declared bound
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
        elif isinstance(measure, Spectral):
            return self._solve_spectral(constraint, measure)
        else:
            starts = [float(reached.threshold), *self._starts.get(measure, [])]
            found = self.pooled.search(measure, budget, starts, tolerance)
            self._starts[measure] = [found.threshold]
        return bench.report((constraint,), (found.multiplier,), (found.threshold,), found.bound)

    def solve_all(self, constraints: Sequence[RiskConstraint]) -> Solution:
        """The best tilt under all of the constraints.

        Raises:
            InputError: the list is empty.
        """
        if not constraints:
            raise InputError("constraint is an empty list; give at least one")
        alone = [self.solve_one(constraint) for constraint in constraints]
        return plan_jointly(self.bench, tuple(constraints), alone)

    def frontier(self, profiles: Sequence[RiskConstraint | RiskProfile]) -> list[Solution]:
        """The best tilt under each, in their order; solved from the loosest budget down."""
        wanted = [as_constraint(profile) for profile in profiles]
        order = sorted(
            range(len(wanted)),
            key=lambda i: (wanted[i].scope, repr(wanted[i].measure), -wanted[i].budget),
        )
        solved = {i: self.solve_one(wanted[i]) for i in order}
        return [solved[i] for i in range(len(wanted))]

    def _solve_spectral(self, constraint: RiskConstraint, measure: Spectral) -> Solution:
        """A pooled mixture; its risk is at least the CVaR of its widest tail, which gives a bound."""
        used = zip(measure.tail_masses, measure.weights, strict=True)
        widest = CVaR(max(tail_mass for tail_mass, weight in used if weight > 0))
        relaxed = self.solve_one(RiskConstraint(widest, constraint.budget))
        return plan_spectral(self.bench, constraint, relaxed.dual_bound)

    def _prompt_search(self, measure: RiskMeasure) -> PromptSearch:
        if measure not in self._searches:
            tilt, span, spread = self.bench.tilt, self.bench.span, self.bench.spread
            self._searches[measure] = PromptSearch(tilt, measure, span, spread)
        return self._searches[measure]
