"""Plans whose thresholds form a vector: spectral measures and lists of constraints."""

from collections.abc import Sequence

import numpy as np

from tailguard.planning.joint.bound import VectorBound
from tailguard.planning.joint.feasible import least_excess
from tailguard.planning.joint.search import BestJoint, JointSearch, Thresholds
from tailguard.planning.per_prompt.boxes import BoxSearch
from tailguard.planning.problem import TOLERANCE, Problem, Tilted, rater_of
from tailguard.planning.solution import Solution
from tailguard.risk.limit import RiskLimit

_REACH_STEPS = 20
# Multipliers at which the Lagrangian bound is tried, relative to the plan's.
_SCALES = (0.7, 1.0, 1.4)


def plan_vector(bench: Problem, aim: RiskLimit, known: float) -> tuple[list[Tilted], float]:
    """The best tilt under one pooled limit whose thresholds form a vector, and a bound.

    Args:
        bench: the bank.
        aim: the limit, which can be met.
        known: a bound on the value.
    """
    search = _search(bench, (aim,))
    best = search.search([(bench.reached(aim).threshold,), (bench.threshold(aim),)])
    if best.value == -np.inf:
        return [], known
    bound = _branch(bench, search, best, known) if search.can_branch else known
    return [_tilted(best)], bound


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
        if all(bench.within(c, solution.weights) for c in constraints):
            multipliers = [0.0] * len(constraints)
            multipliers[number] = solution.multipliers[0]
            thresholds = [bench.threshold(c, solution.weights) for c in constraints]
            thresholds[number] = solution.thresholds[0]
            found = (tuple(multipliers), tuple(thresholds))
            return bench.answer(constraints, [found], solution.dual_bound, listed=True)
    search = _search(bench, constraints)
    starts = [
        tuple(solution.thresholds[0] for solution in alone),
        *(search.minimisers(solution.weights) for solution in alone),
        tuple(bench.reached(c).threshold for c in constraints),
    ]
    above, reached = _reach(bench, search, starts)
    aims = [aim for c in constraints if (aim := bench.aim(c, above)) is not None]
    if len(aims) < len(constraints):
        raised = tuple(float(c.budget + above) for c in constraints)
        return bench.infeasible(constraints, raised, listed=True)
    search = _search(bench, tuple(aims))
    best = search.search([*starts, reached])
    known = min(solution.dual_bound for solution in alone)
    # All of the multipliers at once ask for more than each alone: safe, though not the best.
    safe = (
        tuple(solution.multipliers[0] for solution in alone),
        tuple(solution.thresholds[0] for solution in alone),
    )
    if best.value == -np.inf:
        return bench.answer(constraints, [safe], known, listed=True)
    if any(rater_of(c) is not None for c in constraints):
        bound = known  # of each alone: the others' bounds average over raters
    elif search.can_branch:
        bound = _branch(bench, search, best, known)
    else:
        bound = min(known, _lagrangian(bench, search, best))
    return bench.answer(constraints, [_tilted(best), safe], bound, listed=True)


def _search(bench: Problem, limits: tuple[RiskLimit, ...]) -> JointSearch:
    return JointSearch(bench.tilt, limits, bench.span, bench.scale, bench.slack)


def _tilted(best: BestJoint) -> Tilted:
    return tuple(float(multiplier) for multiplier in best.multipliers), best.thresholds


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
    """The least excess over the budgets found, and thresholds that show it.

    Where there is room, how much does not matter: the search ends at twice the largest tolerance.
    """
    tolerance, enough = bench.slack, 2.0 * max(bench.tolerance(b) for b in search.budgets)
    least, shown = np.inf, starts[0]
    for start in starts:
        thresholds, last = search.settle(start), np.inf
        for _ in range(_REACH_STEPS):
            excess = least_excess(
                bench.bank, search.penalties(thresholds), search.budgets, tolerance
            )
            if excess.amount < least:
                least, shown = excess.amount, thresholds
            if least <= -enough:
                return least, shown
            if excess.amount > last - bench.slack:
                break
            last = excess.amount
            thresholds = search.minimisers(excess.weights)
    return least, shown
