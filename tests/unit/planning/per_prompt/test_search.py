"""Per-prompt scope: the bound against brute force over assignments, the gap at 64 prompts."""

from itertools import product

import numpy as np
import pytest

from tailguard.planning import RiskConstraint, SampleBank, frontier, solve
from tailguard.planning.per_prompt.boxes import BoxSearch
from tailguard.planning.per_prompt.sorted_scan import SortedScan
from tailguard.planning.tilt import Tilt
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskMeasure, Spectral

KL_COEF = 0.25


def between(bank, measure, share):
    least = solve(bank, RiskConstraint(measure, -1e6, "per_prompt"), KL_COEF)
    free = solve(bank, RiskConstraint(measure, np.inf, "per_prompt"), KL_COEF)
    low = least.smallest_reachable_risks[0]
    return RiskConstraint(measure, low + share * (free.risks[0] - low), "per_prompt")


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_bound_and_value_hold_the_true_optimum_between_them(draw, brute_force, share):
    """Two prompts, every pair of thresholds tried."""
    reward, cost = draw("pareto", 2, 6, seed=7)
    oracle = brute_force(reward, cost, KL_COEF)
    constraint = between(SampleBank(reward, cost), CVaR(0.3), share)
    found = solve(SampleBank(reward, cost), constraint, KL_COEF)

    best = -np.inf
    for thresholds in product(*cost):
        nu = np.array(thresholds)[:, None]

        def penalty(costs, _, nu=nu):
            return nu + np.maximum(costs - nu, 0) / 0.3

        one = brute_force(reward, cost, KL_COEF)
        one.cost = cost  # every threshold of the search gives this same penalty; one is enough
        best = max(best, _best_of_one(one, penalty, constraint.budget))
    assert found.value <= best + 1e-6
    assert found.dual_bound >= best - 1e-9
    assert found.value == pytest.approx(best, abs=0.02 * (oracle.free_value() - best + 0.05))
    assert found.risks[0] <= constraint.budget + 1e-6


def _best_of_one(oracle, penalty, budget):
    phi = penalty(oracle.cost, None)[None]
    low, high = np.zeros(1), np.full(1, 1e6)
    if oracle._risk(phi, low)[0] <= budget:
        return oracle.value_of(oracle._tilt(phi, low)[0])
    if oracle._risk(phi, high)[0] > budget:
        return -np.inf
    for _ in range(80):
        middle = np.sqrt((low + 1e-6) * high)
        low, high = (middle, high) if oracle._risk(phi, middle)[0] > budget else (low, middle)
    return oracle.value_of(oracle._tilt(phi, high)[0])


@pytest.mark.parametrize("family", ["normal", "pareto", "severe"])
def test_gap_is_small_at_64_prompts(draw, family):
    reward, cost = draw(family, 64, 32, seed=8)
    bank = SampleBank(reward, cost)
    asked = [between(bank, CVaR(a), share) for a in (0.02, 0.2) for share in (0.1, 0.4)]
    found = frontier(bank, asked, KL_COEF)
    free = solve(bank, RiskConstraint(Mean(), np.inf), KL_COEF).value
    span = free - min(solution.value for solution in found)
    for solution in found:
        assert solution.risks[0] <= solution.constraints[0].budget + 1e-6
        assert 0 <= solution.dual_bound - solution.value <= 0.01 * span
        assert np.shape(solution.thresholds[0]) == (64,)


@pytest.mark.parametrize(
    "measure", [MeanCVaR(0.2, 0.5), Entropic(0.5, 50.0), Spectral((0.1, 0.5), (0.4, 0.6))], ids=str
)
def test_other_measures_keep_the_budget_under_their_bound(draw, measure):
    bank = SampleBank(*draw("severe", 16, 24, seed=9))
    constraint = between(bank, measure, 0.3)
    found = solve(bank, constraint, KL_COEF)
    costs = bank.cost
    risks = [measure.value_rows(c, w) for c, w in zip(costs, found.weights, strict=True)]
    assert np.mean(risks) == pytest.approx(found.risks[0], abs=1e-12)
    assert found.risks[0] <= constraint.budget + 1e-6
    assert found.value <= found.dual_bound <= found.value + 0.1


def test_mean_does_not_care_about_scope(draw):
    bank = SampleBank(*draw("normal", 8, 16, seed=10))
    asked = between(bank, Mean(), 0.3)
    by_prompt = solve(bank, asked, KL_COEF)
    pooled = solve(bank, RiskConstraint(Mean(), asked.budget), KL_COEF)
    assert by_prompt.value == pytest.approx(pooled.value, abs=1e-5)


@pytest.mark.parametrize("measure", [CVaR(0.1), MeanCVaR(0.3, 0.7)], ids=str)
@pytest.mark.parametrize("multiplier", [0.01, 0.3, 20.0])
def test_scan_and_boxes_find_the_best_of_all_thresholds(draw, measure, multiplier):
    reward, cost = draw("pareto", 5, 12, seed=11)
    tilt = Tilt(SampleBank(reward, cost), KL_COEF)
    values = np.full((5, 12), -np.inf)
    for x, j in np.ndindex(5, 12):
        phi = measure.penalty(cost[x], cost[x, j])
        values[x, j] = KL_COEF * np.log(np.exp((reward[x] - multiplier * phi) / KL_COEF).mean())
    top, threshold = SortedScan(tilt, measure.hinge).best(multiplier)
    assert top == pytest.approx(values.max(axis=1), rel=1e-9)
    assert threshold == pytest.approx(cost[np.arange(5), values.argmax(axis=1)])
    found = BoxSearch(tilt, (measure,)).best(np.array([multiplier]), 1e-4)
    assert (found.bound >= values.max(axis=1) - 1e-12).all()
    assert found.value == pytest.approx(values.max(axis=1), abs=2e-4)


def test_boxes_bound_two_thresholds_at_once(draw):
    reward, cost = draw("severe", 3, 8, seed=12)
    measures: tuple[RiskMeasure, ...] = (CVaR(0.2), Spectral((0.1, 0.6), (0.5, 0.5)))
    multipliers = np.array([0.2, 0.4])
    best = np.full(3, -np.inf)
    for thresholds in product(range(8), repeat=3):
        nu = cost[:, list(thresholds)]
        total = 0.2 * measures[0].penalty(cost, nu[:, :1])
        total = total + 0.4 * measures[1].penalty(cost, nu[:, None, 1:])
        best = np.maximum(best, KL_COEF * np.log(np.exp((reward - total) / KL_COEF).mean(axis=1)))
    found = BoxSearch(Tilt(SampleBank(reward, cost), KL_COEF), measures).best(
        multipliers, 1e-3, boxes_a_prompt=4000
    )
    assert (found.bound >= best - 1e-12).all()
    assert found.value == pytest.approx(best, abs=5e-3)
