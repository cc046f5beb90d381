"""A limit for each rater: plans against the dual solved for every pair of thresholds by scipy."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from tailguard.errors import InputError
from tailguard.planning import RaterLimit, SampleBank, solve
from tailguard.risk import CVaR, Mean, RiskLimit

BETA = 0.5


def bank_of(seed, prompts=3, samples=4, raters=2):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(prompts, samples))
    common = reward[:, :, None] + rng.normal(size=(prompts, samples, 1))
    return SampleBank(reward, common * rng.uniform(0.3, 2.0, (prompts, 1, raters)))


def best_by_scipy(bank, tail_mass, budgets):
    """max over (ν₁, ν₂) among the costs of min over λ ≥ 0 of the dual, which is convex in λ."""
    best = -np.inf
    base = bank.log_prob + bank.reward / BETA
    costs = [bank.cost[:, :, g] for g in range(bank.cost.shape[2])]
    for nus in itertools.product(*[np.unique(cost) for cost in costs]):
        penalties = np.stack(
            [nu + np.maximum(c - nu, 0) / tail_mass for nu, c in zip(nus, costs, strict=True)]
        )

        def dual(lam, penalties=penalties):
            exponent = base - np.tensordot(lam, penalties, 1) / BETA
            peak = exponent.max(axis=1)
            log_mass = np.log(np.exp(exponent - peak[:, None]).sum(axis=1)) + peak
            return BETA * log_mass.mean() + lam @ budgets

        found = minimize(dual, np.ones(len(nus)), bounds=[(0, 200)] * len(nus), tol=1e-12)
        # At the edge of the multipliers' range the budgets are out of reach with these thresholds.
        if (found.x < 199).all():
            best = max(best, found.fun)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_the_best_of_all_thresholds(seed):
    bank = bank_of(seed)
    measure = CVaR(0.5)
    even = np.full(12, 1 / 12)
    alone = [float(measure.value_rows(bank.cost[:, :, g].ravel(), even)) for g in range(2)]
    budgets = np.array(alone) - 0.25
    limits = [RaterLimit(measure, float(d), rater=g) for g, d in enumerate(budgets)]
    found = solve(bank, limits, kl_coef=BETA).require_feasible()
    for g, (risk, budget) in enumerate(zip(found.risks, budgets, strict=True)):
        mass = found.weights.ravel() / bank.num_prompts
        assert risk == pytest.approx(float(measure.value_rows(bank.cost[:, :, g].ravel(), mass)))
        assert risk <= budget + 1e-6
    assert found.value == pytest.approx(best_by_scipy(bank, 0.5, budgets), abs=2e-4)
    assert found.dual_bound >= found.value - 1e-9
    shaped = found.shaped_reward(bank.reward, bank.cost)
    tilt = bank.log_prob + shaped / BETA
    weights = np.exp(tilt - tilt.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        weights / weights.sum(axis=1, keepdims=True), found.weights, atol=1e-6
    )


def test_one_rater_is_the_bank_of_its_costs():
    bank = bank_of(7, prompts=20, samples=8, raters=3)
    own = SampleBank(bank.reward, bank.cost[:, :, 2])
    budget = CVaR(0.2).value(own.cost.ravel()) - 0.5
    one = solve(bank, RaterLimit(CVaR(0.2), budget, rater=2), kl_coef=BETA)
    plain = solve(own, RiskLimit(CVaR(0.2), budget), kl_coef=BETA)
    np.testing.assert_allclose(one.weights, plain.weights)
    assert one.risk == plain.risk
    shaped = bank.log_prob + one.shaped_reward(bank.reward, bank.cost) / BETA
    weights = np.exp(shaped - shaped.max(axis=1, keepdims=True))
    np.testing.assert_allclose(weights / weights.sum(axis=1, keepdims=True), one.weights, atol=1e-6)
    wrongs: list[Any] = [True, -1, 3]
    for wrong in wrongs:
        with pytest.raises(InputError, match="rater"):
            bank.seen_by(wrong)


def test_a_limit_for_each_is_stricter_than_one_over_all_together():
    bank = bank_of(3, prompts=40, samples=16, raters=3)
    budget = CVaR(0.2).value(bank.cost.ravel()) - 0.3
    together = solve(bank, RiskLimit(CVaR(0.2), budget), kl_coef=BETA).require_feasible()
    each = solve(
        bank, [RaterLimit(CVaR(0.2), budget, rater=g) for g in range(3)], kl_coef=BETA
    ).require_feasible()
    assert max(each.risks) <= budget + 1e-6
    flat = together.weights.ravel() / bank.num_prompts
    worst = max(CVaR(0.2).value_rows(bank.cost[:, :, g].ravel(), flat) for g in range(3))
    assert worst > budget
    assert each.value <= together.value


def test_what_cannot_be_met_is_told_by_rater():
    bank = bank_of(0)
    found = solve(
        bank, [RaterLimit(Mean(), 0.5, rater=0), RaterLimit(Mean(), -99.0, rater=1)], kl_coef=BETA
    )
    assert not found.feasible
    assert found.smallest_reachable_risks[1] == pytest.approx(bank.cost[:, :, 1].min(axis=1).mean())
    with pytest.raises(InputError, match="rater 5"):
        solve(bank, RaterLimit(Mean(), 0.0, rater=5), kl_coef=BETA)
    with pytest.raises(InputError, match="rater 0"):
        solve(SampleBank(bank.reward, bank.reward), RaterLimit(Mean(), 0.0, rater=0), kl_coef=BETA)


def test_fourteen_raters_take_seconds():
    bank = bank_of(1, prompts=100, samples=32, raters=14)
    budget = CVaR(0.1).value(bank.cost.ravel())
    start = time.perf_counter()
    limits = [RaterLimit(CVaR(0.1), budget - 0.2, rater=g) for g in range(14)]
    assert solve(bank, limits, kl_coef=BETA).feasible
    assert time.perf_counter() - start < 20
