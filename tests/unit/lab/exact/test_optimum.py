"""The constrained optimum against convex programs and random rivals."""

from typing import Any

import cvxpy as cp
import numpy as np
import pytest

from tailguard.errors import InfeasibleError
from tailguard.lab.exact import exact_optimum, exact_outcome, make_exact_world
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR

KL_COEF = 0.3


@pytest.fixture(scope="module")
def world():
    return make_exact_world(3, 2, 2, seed=3)


@pytest.fixture(scope="module")
def reference(world):
    logits = np.random.default_rng(0).normal(size=world.reward.shape)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def convex_program(world, reference, penalty, budget):
    law = cp.Variable(world.reward.shape, nonneg=True)
    rows = len(world.reward)
    value = cp.sum(cp.multiply(law, world.reward)) - KL_COEF * cp.sum(
        cp.rel_entr(law, np.exp(reference))
    )
    limits: list[Any] = [
        cp.sum(law, axis=1) == 1,
        cp.sum(cp.multiply(law, penalty)) / rows <= budget,
    ]
    problem: Any = cp.Problem(cp.Maximize(value / rows), limits)
    problem.solve(solver=cp.CLARABEL)
    return (problem.value, law.value) if problem.status == "optimal" else (-np.inf, None)


@pytest.mark.parametrize("budget", [-0.5, -0.7])
def test_a_mean_constraint_is_one_convex_program(world, reference, budget):
    value, law = convex_program(world, reference, world.cost, budget)
    found = exact_optimum(world, reference, Mean(), budget, KL_COEF)
    assert found.multiplier > 0
    assert found.outcome.value == pytest.approx(value, abs=1e-6)
    assert np.exp(found.log_probs) == pytest.approx(law, abs=1e-3)
    assert found.outcome.risk == pytest.approx(budget, abs=1e-8)


@pytest.mark.parametrize("measure", [CVaR(0.1), CVaR(0.4), MeanCVaR(0.2, 0.5)])
@pytest.mark.parametrize("budget", [0.0, -0.3])
def test_a_tail_constraint_is_the_best_of_convex_programs(world, reference, measure, budget):
    value = max(
        convex_program(world, reference, measure.penalty(world.cost, nu), budget)[0]
        for nu in np.unique(world.cost)
    )
    found = exact_optimum(world, reference, measure, budget, KL_COEF)
    assert found.outcome.value == pytest.approx(value, abs=1e-6)
    assert found.outcome.risk <= budget + 1e-8


def test_no_random_feasible_law_does_better(world, reference):
    rng = np.random.default_rng(1)
    measure, budget = CVaR(0.2), 0.2
    best = exact_optimum(world, reference, measure, budget, KL_COEF)
    feasible = 0
    for scale in rng.uniform(0, 4, 500):
        noise = rng.normal(size=world.reward.shape)
        log_law = best.log_probs + 0.1 * scale * noise
        log_law -= np.logaddexp.reduce(log_law, axis=1, keepdims=True)
        rival = exact_outcome(world, log_law, reference, measure, KL_COEF)
        if rival.risk <= budget:
            feasible += 1
            assert rival.value <= best.outcome.value + 1e-9
    assert feasible > 25


def test_a_loose_budget_binds_nothing(world, reference):
    found = exact_optimum(world, reference, CVaR(0.1), 100.0, KL_COEF)
    free = world.reward / KL_COEF + reference
    free -= np.logaddexp.reduce(free, axis=1, keepdims=True)
    assert found.multiplier == 0.0
    assert found.log_probs == pytest.approx(free)


def test_entropic_keeps_its_budget(world, reference):
    measure = Entropic(0.5, float(world.cost.max()))
    free = exact_optimum(world, reference, measure, 1e6, KL_COEF).outcome
    found = exact_optimum(world, reference, measure, free.risk - 0.1, KL_COEF)
    assert found.outcome.risk <= free.risk - 0.1 + 1e-8
    assert found.outcome.value < free.value


def test_an_impossible_budget_says_what_is_reachable(world, reference):
    with pytest.raises(InfeasibleError) as caught:
        exact_optimum(world, reference, CVaR(0.5), -1.5, KL_COEF)
    assert caught.value.smallest_reachable_risk == pytest.approx(world.cost.min(axis=1).max())


def test_many_costs_are_searched_by_zooming(monkeypatch):
    world = make_exact_world(4, 3, 2, seed=5)
    reference = np.full(world.reward.shape, -np.log(64))
    whole = exact_optimum(world, reference, CVaR(0.1), 0.0, KL_COEF)
    monkeypatch.setattr("tailguard.lab.exact.optimum._THRESHOLDS_AT_ONCE", 16)
    zoomed = exact_optimum(world, reference, CVaR(0.1), 0.0, KL_COEF)
    assert zoomed.outcome.value == pytest.approx(whole.outcome.value, abs=1e-9)
