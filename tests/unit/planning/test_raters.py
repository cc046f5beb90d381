"""The third axis: people who differ."""

import itertools

import numpy as np
import pytest

from tailguard.planning import RiskConstraint, SampleBank, solve
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, MonotoneMeanVariance, Spectral

KL_COEF = 0.3
MEASURES = [
    Mean(),
    CVaR(0.15),
    MeanCVaR(0.2, 0.5),
    Entropic(0.4, 60.0),
    Spectral((0.1, 0.5), (0.5, 0.5)),
    MonotoneMeanVariance(0.4),
]


@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_raters_who_agree_are_one_rater(draw, measure, scope):
    reward, cost = draw("severe", 6, 12, seed=0)
    alone = SampleBank(reward, cost)
    agreeing = SampleBank(reward, np.repeat(cost[:, :, None], 3, axis=2), [0.5, 0.2, 0.3])
    least = solve(alone, RiskConstraint(measure, -1e6, scope), KL_COEF).smallest_reachable_risks
    again = solve(agreeing, RiskConstraint(measure, -1e6, scope), KL_COEF)
    assert again.smallest_reachable_risks == pytest.approx(least, abs=1e-6)
    free = solve(alone, RiskConstraint(measure, np.inf, scope), KL_COEF).risks[0]
    constraint = RiskConstraint(measure, least[0] + 0.3 * (free - least[0]), scope)
    one, three = solve(alone, constraint, KL_COEF), solve(agreeing, constraint, KL_COEF)
    assert three.value == pytest.approx(one.value, abs=0.01)
    assert three.risks[0] <= constraint.budget + 1e-6
    assert three.dual_bound >= one.value - 1e-6


def test_pooled_value_is_that_of_brute_force_over_thresholds(draw, brute_force):
    reward, cost = draw("pareto", 4, 6, seed=1)
    rng = np.random.default_rng(1)
    raters = cost[:, :, None] + rng.normal(size=(4, 6, 3))
    share = np.array([0.6, 0.3, 0.1])
    bank = SampleBank(reward, raters, share)
    least = solve(bank, RiskConstraint(CVaR(0.2), -1e6), KL_COEF).smallest_reachable_risks[0]
    oracle = brute_force(reward, raters, KL_COEF)  # every rater's cost may be the threshold
    for above in (0.05, 0.6):
        expected = oracle.best(
            lambda c, nu: (nu + np.maximum(c - nu, 0) / 0.2) @ share, least + above
        )
        found = solve(bank, RiskConstraint(CVaR(0.2), least + above), KL_COEF)
        assert found.value == pytest.approx(expected, abs=1e-3)
    below = oracle.best(lambda c, nu: (nu + np.maximum(c - nu, 0) / 0.2) @ share, least - 1e-6)
    assert below == -np.inf


def test_a_rater_without_weight_is_not_heard(draw):
    reward, cost = draw("normal", 5, 10, seed=2)
    loud = np.stack([cost, cost + 100.0], axis=2)
    constraint = RiskConstraint(CVaR(0.2), 0.3)
    heard = solve(SampleBank(reward, loud, [1.0, 0.0]), constraint, KL_COEF)
    assert heard.value == pytest.approx(solve(SampleBank(reward, cost), constraint, KL_COEF).value)


def test_disagreement_alone_is_risk(draw):
    """Raters with the same mean as one, but spread: the tail holds the harsh ones."""
    reward, cost = draw("normal", 6, 20, seed=3)
    spread = np.stack([cost - 1.0, cost + 1.0], axis=2)
    budget = 0.6
    calm = solve(SampleBank(reward, cost), RiskConstraint(CVaR(0.1), budget), KL_COEF)
    torn = solve(SampleBank(reward, spread), RiskConstraint(CVaR(0.1), budget), KL_COEF)
    assert torn.value < calm.value - 0.05
    mean = RiskConstraint(Mean(), -0.3)
    assert solve(SampleBank(reward, spread), mean, KL_COEF).value == pytest.approx(
        solve(SampleBank(reward, cost), mean, KL_COEF).value
    )


@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
def test_shaped_reward_averages_the_raters_penalties(draw, scope):
    reward, cost = draw("severe", 5, 8, seed=4)
    raters = cost[:, :, None] * np.array([0.5, 1.5])
    bank = SampleBank(reward, raters, [0.75, 0.25])
    least = solve(bank, RiskConstraint(CVaR(0.2), -9.0, scope), KL_COEF).smallest_reachable_risks
    found = solve(bank, RiskConstraint(CVaR(0.2), least[0] + 0.1, scope), KL_COEF)
    shaped = found.shaped_reward(bank.reward, bank.cost)
    nu = np.broadcast_to(np.asarray(found.thresholds[0]), (5,))[:, None, None]
    penalty = nu + np.maximum(raters - nu, 0) / 0.2
    expected = reward - found.multipliers[0] * (0.75 * penalty[..., 0] + 0.25 * penalty[..., 1])
    assert found.multipliers[0] > 0
    assert shaped == pytest.approx(expected)
    tilt = np.exp(shaped / KL_COEF)
    assert found.weights == pytest.approx(tilt / tilt.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_one_rater_is_no_rater(measure, scope):
    rng = np.random.default_rng(3)
    for _ in range(20):
        cost = rng.pareto(2.5, (8, 6)) - 1.0 + rng.normal(size=(8, 1))
        limit = RiskConstraint(measure, -1e6, scope)
        banks = [SampleBank(0 * cost, cost)]
        banks += [SampleBank(0 * cost, cost[..., None])]
        banks += [SampleBank(0 * cost, np.stack([cost, cost + 9], axis=2), [1.0, 0.0])]
        least = [solve(bank, limit, KL_COEF).smallest_reachable_risk for bank in banks]
        assert least == pytest.approx([least[0]] * 3, abs=1e-9)


@pytest.mark.parametrize("raters", [2, 3])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_pooled_least_risk_is_that_of_every_deterministic_policy(measure, raters):
    # The risk is concave in the policy, so that one of those has the least.
    rng = np.random.default_rng(raters)
    for _ in range(15):
        cost = rng.normal(size=(4, 3, raters))
        equal = np.full(4 * raters, 1 / (4 * raters))
        taken = itertools.product(range(3), repeat=4)
        rows = np.array([cost[np.arange(4), list(each)].ravel() for each in taken])
        expected = measure.value_rows(rows, np.broadcast_to(equal, rows.shape)).min()
        limit = RiskConstraint(measure, expected + 1e-4)
        found = solve(SampleBank(0 * cost[..., 0], cost), limit, KL_COEF)
        assert found.feasible
        assert found.smallest_reachable_risk == pytest.approx(expected, abs=1e-6)
