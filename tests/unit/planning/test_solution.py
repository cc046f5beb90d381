"""What a solution reports, and what it says when there is none."""

import numpy as np
import pytest

from tailguard.errors import InfeasibleError, InputError
from tailguard.planning import RiskConstraint, SampleBank, solve
from tailguard.risk import CVaR, Mean, MeanCVaR, MonotoneMeanVariance, Spectral

KL_COEF = 0.25


def test_figures_are_those_of_the_weights(draw):
    reward, cost = draw("pareto", 6, 20, seed=0)
    found = solve(SampleBank(reward, cost), RiskConstraint(CVaR(0.2), 0.4), KL_COEF)
    w = found.weights
    assert found.reward == pytest.approx((w * reward).sum(axis=1).mean())
    assert found.kl == pytest.approx((w * np.log(w * 20)).sum(axis=1).mean())
    assert found.value == pytest.approx(found.reward - KL_COEF * found.kl)
    assert found.effective_sample_size == pytest.approx((1 / (w**2).sum(axis=1)).mean())
    order = np.argsort(-cost.ravel())
    mass = w.ravel()[order] / 6
    taken = np.clip(0.2 - (np.cumsum(mass) - mass), 0, mass)
    assert found.risk == pytest.approx((taken * cost.ravel()[order]).sum() / 0.2)


@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
def test_a_slack_constraint_has_no_multiplier(draw, scope):
    reward, cost = draw("normal", 5, 12, seed=1)
    found = solve(SampleBank(reward, cost), RiskConstraint(CVaR(0.2), 50.0, scope), KL_COEF)
    assert found.multiplier == 0.0
    tilt = np.exp(reward / KL_COEF)
    assert found.weights == pytest.approx(tilt / tilt.sum(axis=1, keepdims=True))
    assert found.dual_bound == pytest.approx(found.value)


@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
@pytest.mark.parametrize("raters", [0, 3])
@pytest.mark.parametrize(
    "measure", [CVaR(0.2), Mean(), MeanCVaR(0.3, 0.5), Spectral((0.2, 0.7), (0.5, 0.5))], ids=str
)
def test_the_smallest_reachable_risk_can_be_reached_and_not_undercut(draw, scope, raters, measure):
    reward, cost = draw("severe", 4, 6, seed=2)
    if raters:
        cost = cost[:, :, None] + np.random.default_rng(2).normal(size=(4, 6, raters))
    bank = SampleBank(reward, cost)
    told = solve(bank, RiskConstraint(measure, -1e3, scope), KL_COEF)
    assert not told.feasible
    assert np.isnan(told.value)
    assert np.isnan(told.weights).all()
    least = told.smallest_reachable_risks[0]
    at = solve(bank, RiskConstraint(measure, least + 1e-7, scope), KL_COEF)
    assert at.feasible
    assert at.risks[0] == pytest.approx(least, abs=1e-4)
    assert not solve(bank, RiskConstraint(measure, least - 1e-4, scope), KL_COEF).feasible


def test_nothing_is_made_of_an_infeasible_solution(draw):
    bank = SampleBank(*draw("normal", 3, 6, seed=3))
    found = solve(bank, RiskConstraint(CVaR(0.2), -9.0), KL_COEF)
    least = found.smallest_reachable_risks[0]
    with pytest.raises(InfeasibleError, match=f"smallest reachable is {least:.6g}") as caught:
        found.shaped_reward(bank.reward, bank.cost)
    assert caught.value.smallest_reachable_risk == least
    assert found.caution is None


def test_shaped_reward_of_new_samples(draw):
    bank = SampleBank(*draw("pareto", 4, 16, seed=4))
    found = solve(bank, RiskConstraint(CVaR(0.2), 0.2), KL_COEF)
    nu, lam = found.thresholds[0], found.multipliers[0]
    expected = 1.0 - lam * (nu + max(5.0 - nu, 0) / 0.2)
    assert found.shaped_reward(1.0, 5.0) == pytest.approx(expected)
    assert np.isnan(found.shaped_reward([1.0, 1.0], [np.nan, 0.0])).tolist() == [True, False]
    with pytest.raises(InputError, match="does not fit"):
        found.shaped_reward([1.0, 2.0], [1.0])


@pytest.mark.parametrize("measure", [CVaR(0.2), Spectral((0.2, 0.7), (0.5, 0.5))], ids=str)
def test_thresholds_of_prompts_follow_their_prompt(draw, measure):
    bank = SampleBank(*draw("severe", 6, 8, seed=5))
    found = solve(bank, RiskConstraint(measure, 1.0, "per_prompt"), KL_COEF)
    whole = found.shaped_reward(bank.reward, bank.cost)
    picked = found.shaped_reward(bank.reward[[4, 1], 2], bank.cost[[4, 1], 2], prompts=[4, 1])
    assert picked == pytest.approx(whole[[4, 1], 2])
    with pytest.raises(InputError, match="prompts"):
        found.shaped_reward(bank.reward[:2], bank.cost[:2])


def test_too_few_samples_are_said(draw):
    reward, cost = draw("pareto", 8, 64, seed=6)
    bank = SampleBank(reward, cost)
    greedy = solve(bank, RiskConstraint(CVaR(0.5), 0.0), 0.02)
    assert greedy.caution is not None
    assert "effective sample size" in greedy.caution
    thin = solve(bank, RiskConstraint(CVaR(0.01), 3.0), 5.0)
    assert thin.caution is not None
    assert "tail" in thin.caution
    assert solve(bank, RiskConstraint(CVaR(0.5), 1.0), 5.0).caution is None


def test_log_weight_is_replication(draw):
    """A sample with twice the weight is the sample twice."""
    reward, cost = draw("severe", 4, 8, seed=7)
    twice = [0, 3, 5]
    weight = np.zeros((4, 8))
    weight[:, twice] = np.log(2.0)
    index = [*range(8), *twice]
    for scope in ("pooled", "per_prompt"):
        constraint = RiskConstraint(CVaR(0.2), 0.5, scope)
        weighted = solve(SampleBank(reward, cost, log_weight=weight), constraint, KL_COEF)
        copied = solve(SampleBank(reward[:, index], cost[:, index]), constraint, KL_COEF)
        assert weighted.value == pytest.approx(copied.value, abs=1e-4)
        assert weighted.kl == pytest.approx(copied.kl, abs=1e-2)
        together = copied.weights[:, :8].copy()
        together[:, twice] += copied.weights[:, 8:]
        assert weighted.weights == pytest.approx(together, abs=0.02)


@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
@pytest.mark.parametrize(
    "measure", [Mean(), CVaR(0.1), Spectral((0.1,), (1.0,)), MonotoneMeanVariance(1.0)], ids=str
)
@pytest.mark.parametrize("below", [0.0, 1e-7, 1e-3])
def test_where_all_answers_cost_the_same_a_budget_at_or_below_it_is_answered(measure, scope, below):
    bank = SampleBank([[1.0, 0.0, 2.0]], [[1.5, 1.5, 1.5]])
    found = solve(bank, RiskConstraint(measure, 1.5 - below, scope), 1.0)
    if found.feasible:  # within what the solver tells apart
        assert below < 1e-6
        assert found.risk == pytest.approx(1.5)
    else:
        assert below > 0.0
        assert found.smallest_reachable_risk == pytest.approx(1.5)
