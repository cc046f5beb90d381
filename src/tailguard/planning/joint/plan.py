"""Plans whose thresholds form a vector: spectral measures and lists of constraints."""

from collections.abc import Sequence

import numpy as np

from tailguard.planning.joint.bound import VectorBound
from tailguard.planning.joint.feasible import least_excess
from tailguard.planning.joint.search import BestJoint, JointSearch, Thresholds
from tailguard.planning.per_prompt.boxes import BoxSearch
from tailguard.planning.problem import TOLERANCE, Problem
from tailguard.planning.solution import Solution
from tailguard.risk.limit import RiskLimit

_REACH_STEPS = 20
_SCALES = (
    0.7,
    1.0,
    1.4,
)  # multipliers at which the Lagrangian bound is tried, relative to the plan's


def plan_vector(bench: Problem, constraint: RiskLimit, known: float) -> Solution:
    """The best tilt under one pooled constraint that can be met and whose thresholds form a vector.

    Args:
        bench: the bank.
        constraint: pooled.
        known: a bound on the value.
    """
    search = JointSearch(bench.tilt, (constraint,), bench.span, bench.spread)
    starts = [(bench.reached(constraint).threshold,), (bench.threshold(constraint),)]
    best = search.search(starts)
    bound = _branch(bench, search, best, known) if search.can_branch else known
    return _report(bench, search, best, bound, listed=False)


def plan_jointly(
    bench: Problem, constraints: tuple[RiskLimit, ...], alone: Sequence[Solution]
) -> Solution:
    """The best tilt under several constraints.

    Args:
        bench: the bank.
        constraints: which must all hold.
        alone: the solution of each by itself; each one's dual bound holds for all together.
    """
    smallest = tuple(solution.smallest_reachable_risks[0] for solution in alone)
    if not all(solution.feasible for solution in alone):
        return bench.infeasible(constraints, smallest, listed=True)
    for number, solution in enumerate(alone):
        if all(bench.risk(c, solution.weights) <= c.budget + 1e-12 for c in constraints):
            multipliers = [0.0] * len(constraints)
            multipliers[number] = solution.multipliers[0]
            thresholds = [bench.threshold(c, solution.weights) for c in constraints]
            thresholds[number] = solution.thresholds[0]
            found = (tuple(multipliers), tuple(thresholds))
            return bench.report(constraints, *found, solution.dual_bound, listed=True)
    search = JointSearch(bench.tilt, constraints, bench.span, bench.spread)
    starts = [
        tuple(solution.thresholds[0] for solution in alone),
        *(search.minimisers(solution.weights) for solution in alone),
        tuple(bench.reached(c).threshold for c in constraints),
    ]
    amount, reached = _reach(bench, search, starts)
    best = search.search([*starts, reached])
    if best.value == -np.inf:
        raised = tuple(float(c.budget + max(amount, 0.0)) for c in constraints)
        return bench.infeasible(constraints, raised, listed=True)
    known = min(solution.dual_bound for solution in alone)
    if search.can_branch:
        bound = _branch(bench, search, best, known)
    else:
        bound = min(known, _lagrangian(bench, search, best))
    return _report(bench, search, best, bound, listed=True)


def _branch(bench: Problem, search: JointSearch, best: BestJoint, known: float) -> float:
    atoms = np.unique(np.asarray(bench.bank.cost, dtype=np.float64))
    return VectorBound(search, atoms, best).bound(known, TOLERANCE * bench.span)


def _lagrangian(bench: Problem, search: JointSearch, best: BestJoint) -> float:
    """Σ λ_j d_j + E_x max_ν β·log E_ref exp((r − Σ λ_j φ_j)/β), all thresholds chosen by prompt.

    Where a constraint is pooled, letting each prompt choose is a relaxation, so the bound holds.
    """
    boxes = BoxSearch(bench.tilt, tuple(c.measure for c in search.constraints))
    bounds: list[float] = []
    for scale in _SCALES:
        multipliers = scale * best.multipliers
        top = boxes.best(multipliers, TOLERANCE * bench.span).bound
        bounds.append(float(top.mean()) + float(multipliers @ search.budgets))
    return min(bounds)


def _reach(
    bench: Problem, search: JointSearch, starts: Sequence[Thresholds]
) -> tuple[float, Thresholds]:
    """The least excess over the budgets found, and thresholds that show it."""
    tolerance = 1e-9 * bench.spread
    least, shown = np.inf, starts[0]
    for start in starts:
        thresholds, last = search.settle(start), np.inf
        for _ in range(_REACH_STEPS):
            excess = least_excess(
                bench.bank, search.penalties(thresholds), search.budgets, tolerance
            )
            if excess.amount < least:
                least, shown = excess.amount, thresholds
            if least <= 0.0:
                return least, shown
            if excess.amount > last - 1e-7 * bench.spread:
                break
            last = excess.amount
            thresholds = search.minimisers(excess.weights)
    return least, shown


def _report(
    bench: Problem, search: JointSearch, best: BestJoint, bound: float, *, listed: bool
) -> Solution:
    multipliers = tuple(float(multiplier) for multiplier in best.multipliers)
    return bench.report(search.constraints, multipliers, best.thresholds, bound, listed=listed)
