"""Pooled constraints against brute force over thresholds and against a convex solver."""

import numpy as np
import pytest

from tailguard.planning import RiskConstraint, SampleBank, frontier, solve
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskMeasure

KL_COEF = 0.25


def cvar_penalty(tail_mass):
    return lambda cost, nu: nu + np.maximum(cost - nu, 0) / tail_mass


def budgets_between(bank, measure, shares):
    """From the smallest reachable risk to that of the policy without constraint."""
    least = solve(bank, RiskConstraint(measure, -1e6), KL_COEF).smallest_reachable_risks[0]
    free = solve(bank, RiskConstraint(measure, np.inf), KL_COEF).risks[0]
    return [least + share * (free - least) for share in shares]


@pytest.mark.parametrize("family", ["normal", "pareto", "severe"])
@pytest.mark.parametrize("tail_mass", [0.02, 0.1, 0.4, 1.0])
def test_value_is_that_of_brute_force(draw, brute_force, family, tail_mass):
    reward, cost = draw(family, 6, 16, seed=int(100 * tail_mass))
    bank, oracle = SampleBank(reward, cost), brute_force(reward, cost, KL_COEF)
    budgets = budgets_between(bank, CVaR(tail_mass), [0.05, 0.3, 0.8])
    best = [oracle.best(cvar_penalty(tail_mass), budget) for budget in budgets]
    span = oracle.free_value() - min(best)
    for budget, expected in zip(budgets, best, strict=True):
        found = solve(bank, RiskConstraint(CVaR(tail_mass), budget), KL_COEF)
        assert found.value == pytest.approx(expected, abs=1e-3 * span)
        assert found.dual_bound >= expected - 1e-9
        assert found.risks[0] <= budget + 1e-6
        assert oracle.value_of(found.weights) == pytest.approx(found.value, abs=1e-9)


@pytest.mark.parametrize("measure", [CVaR(0.3), MeanCVaR(0.3, 0.6)], ids=str)
def test_value_is_that_of_a_convex_program(draw, convex_program, measure):
    reward, cost = draw("pareto", 3, 5, seed=1)
    bank = SampleBank(reward, cost)
    [budget] = budgets_between(bank, measure, [0.3])
    program = convex_program(reward, cost, KL_COEF)
    expected = program.best([lambda c, nu: measure.penalty(c, nu[0])], [budget], 1)
    found = solve(bank, RiskConstraint(measure, budget), KL_COEF)
    assert found.value == pytest.approx(expected, abs=1e-4)
    assert found.dual_bound >= expected - 1e-5


def test_entropic_risk_needs_no_search(draw, convex_program):
    reward, cost = draw("normal", 3, 5, seed=2)
    measure = Entropic(0.7, cost_bound=10.0)
    [budget] = budgets_between(SampleBank(reward, cost), measure, [0.4])
    found = solve(SampleBank(reward, cost), RiskConstraint(measure, budget), KL_COEF)
    # E e^{θC} ≤ e^{θd}, with no threshold anywhere
    program = convex_program(reward, cost, KL_COEF)
    expected = program.best([lambda c, nu: np.exp(0.7 * (c - budget))], [1.0], 0)
    assert found.value == pytest.approx(expected, abs=1e-5)
    assert found.risks[0] == pytest.approx(budget, abs=1e-6)
    assert found.thresholds[0] == budget


def test_a_declared_bound_that_a_cost_passes_is_refused(draw):
    reward, cost = draw("pareto", 3, 8, seed=3)
    with pytest.raises(ValueError, match="cost_bound"):
        solve(SampleBank(reward, cost), RiskConstraint(Entropic(1.0, 0.0), 5.0), KL_COEF)


def test_whole_tail_is_the_mean(draw):
    reward, cost = draw("normal", 5, 20, seed=4)
    bank = SampleBank(reward, cost)
    [budget] = budgets_between(bank, Mean(), [0.4])
    values = [
        solve(bank, RiskConstraint(measure, budget), KL_COEF).value
        for measure in (Mean(), CVaR(1.0), MeanCVaR(0.2, 0.0))
    ]
    assert values == pytest.approx([values[0]] * 3, abs=1e-5)


def test_meets_the_tail_on_which_alternation_fails():
    rng = np.random.default_rng(0)
    cost = 0.3 * rng.normal(size=(64, 1)) + rng.pareto(2.5, size=(64, 256)) - 1.2
    bank = SampleBank(rng.normal(size=(64, 256)), cost)
    found = solve(bank, RiskConstraint(CVaR(0.02), -0.5), KL_COEF)
    assert found.risks[0] == pytest.approx(-0.5, abs=1e-4)
    assert found.multipliers[0] < 1.0
    assert found.dual_bound - found.value < 1e-3


def test_frontier_agrees_with_single_plans(draw):
    reward, cost = draw("severe", 8, 24, seed=5)
    bank = SampleBank(reward, cost)
    measures: list[RiskMeasure] = [CVaR(0.05), CVaR(0.3), MeanCVaR(0.1, 0.5), Mean()]
    asked = [
        RiskConstraint(measure, budget, scope)
        for measure in measures
        for scope in ("pooled", "per_prompt")
        for budget in budgets_between(bank, measure, [0.2, -0.5, 0.6])
    ]
    together = frontier(bank, asked, KL_COEF)
    for constraint, shared in zip(asked, together, strict=True):
        alone = solve(bank, constraint, KL_COEF)
        assert shared.constraints == (constraint,)
        assert shared.feasible == alone.feasible
        if alone.feasible:
            assert shared.value == pytest.approx(alone.value, abs=2e-3)
            assert shared.dual_bound >= alone.value - 1e-9


def test_more_cost_spread_than_floats_like(draw):
    reward, cost = draw("normal", 4, 10, seed=6)
    bank = SampleBank(reward, np.where(cost > 1.5, 1e6 * cost, cost))
    found = solve(bank, RiskConstraint(CVaR(0.05), 0.5), KL_COEF)
    assert found.feasible
    assert found.risks[0] <= 0.5 + 1e-4
