"""What planning asks of a measure is enough: a smooth one, and one that exists only in this file."""

from dataclasses import dataclass

import numpy as np
import pytest

from tailguard.planning import RiskConstraint, SampleBank, Scope, solve
from tailguard.risk import CVaR, MonotoneMeanVariance, RiskMeasure

KL_COEF = 0.25


@dataclass(frozen=True)
class SteepTail(RiskMeasure):
    """The OCE with u(t) = max(t/2, 3t): its minimiser is the cost that a fifth of the mass exceeds."""

    def penalty(self, costs, threshold):
        nu = np.asarray(threshold, dtype=np.float64)
        excess = np.asarray(costs, dtype=np.float64) - nu
        return nu + np.maximum(0.5 * excess, 3.0 * excess)

    def minimiser(self, costs, weights=None):
        array = np.asarray(costs)
        order = np.argsort(array)
        mass = np.ones(array.size) if weights is None else np.asarray(weights)
        reached = np.cumsum(mass[order]) / mass.sum()
        return float(array[order][np.searchsorted(reached, 0.8 - 1e-12)])

    def value_rows(self, costs, weights):
        size = costs.shape[-1]
        rows = zip(costs.reshape(-1, size), weights.reshape(-1, size), strict=True)
        found = [w @ self.penalty(c, self.minimiser(c, w)) for c, w in rows]
        return np.array(found).reshape(costs.shape[:-1])


MEASURES = [SteepTail(), MonotoneMeanVariance(0.2), MonotoneMeanVariance(2.0)]


def between(bank, measure, share, scope: Scope = "pooled"):
    least = solve(bank, RiskConstraint(measure, -1e6, scope), KL_COEF).smallest_reachable_risks[0]
    free = solve(bank, RiskConstraint(measure, np.inf, scope), KL_COEF).risks[0]
    return RiskConstraint(measure, least + share * (free - least), scope)


def risk_of(measure, scope, cost, weights, raters=1):
    costs = cost.reshape(len(cost), -1)
    mass = np.repeat(weights, raters, axis=1) / raters
    if scope == "per_prompt":
        return float(np.mean(measure.value_rows(costs, mass)))
    return float(measure.value_rows(costs.ravel(), mass.ravel() / len(cost)))


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_pooled_value_is_that_of_brute_force_over_thresholds(draw, brute_force, measure, share):
    reward, cost = draw("pareto", 5, 12, seed=21)
    bank = SampleBank(reward, cost)
    asked = between(bank, measure, share)
    oracle = brute_force(reward, cost, KL_COEF)
    thresholds = np.linspace(cost.min(), cost.max(), 1500)

    best = best_of(oracle, measure, thresholds, asked.budget)
    found = solve(bank, asked, KL_COEF)
    span = oracle.free_value() - best
    assert found.value == pytest.approx(best, abs=2e-3 * span)
    assert found.dual_bound >= best - 1e-9
    assert found.risks[0] <= asked.budget + 1e-6


def best_of(oracle, measure, thresholds, budget):
    """`BruteForce.best` on a grid of thresholds: a minimiser need not be a cost."""
    best = -np.inf
    for some in np.array_split(thresholds, 6):
        phi = np.stack([measure.penalty(oracle.cost, nu) for nu in some])
        low, high = np.zeros(len(phi)), np.full(len(phi), 1e6)
        for _ in range(70):
            middle = np.where(high > 4 * low + 1, np.sqrt((low + 1e-6) * high), 0.5 * (low + high))
            over = oracle._risk(phi, middle) > budget
            low, high = np.where(over, middle, low), np.where(over, high, middle)
        for j in np.flatnonzero(oracle._risk(phi, high) <= budget + 1e-12):
            best = max(best, oracle.value_of(oracle._tilt(phi[j : j + 1], high[j : j + 1])[0]))
    return best


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
@pytest.mark.parametrize("raters", [1, 3])
def test_budgets_are_kept_in_both_scopes_with_and_without_raters(draw, measure, scope, raters):
    reward, cost = draw("severe", 8, 12, seed=22)
    if raters > 1:
        cost = cost[:, :, None] + np.random.default_rng(22).normal(size=(8, 12, raters))
    bank = SampleBank(reward, cost)
    asked = between(bank, measure, 0.4, scope)
    found = solve(bank, asked, KL_COEF)
    assert found.multipliers[0] > 0
    assert risk_of(measure, scope, cost, found.weights, raters) <= asked.budget + 1e-6
    assert found.value <= found.dual_bound <= found.value + 0.1
    tilt = np.exp(found.shaped_reward(reward, cost) / KL_COEF)
    assert found.weights == pytest.approx(tilt / tilt.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("measure", MEASURES[:2], ids=repr)
def test_per_prompt_value_lies_under_the_bound_of_any_feasible_policy(draw, measure):
    """Tilts at common thresholds are policies too: none within the budget may beat the bound."""
    reward, cost = draw("pareto", 4, 8, seed=23)
    bank = SampleBank(reward, cost)
    asked = between(bank, measure, 0.3, "per_prompt")
    found = solve(bank, asked, KL_COEF)
    rng = np.random.default_rng(23)
    for _ in range(300):
        nu = cost[np.arange(4), rng.integers(0, 8, 4)][:, None]
        exponent = (reward - rng.exponential(2.0) * measure.penalty(cost, nu)) / KL_COEF
        weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        if risk_of(measure, "per_prompt", cost, weights) <= asked.budget:
            kl = np.sum(weights * np.log(np.maximum(weights, 1e-300) * 8)) / 4
            assert np.sum(weights * reward) / 4 - KL_COEF * kl <= found.dual_bound + 1e-9


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_in_a_list_with_another_measure(draw, measure):
    bank = SampleBank(*draw("severe", 8, 16, seed=24))
    asked = [between(bank, measure, 0.35), between(bank, CVaR(0.1), 0.3)]
    found = solve(bank, asked, KL_COEF)
    assert found.feasible
    for constraint in asked:
        risk = risk_of(constraint.measure, "pooled", bank.cost, found.weights)
        assert risk <= constraint.budget + 1e-6
    alone = [solve(bank, constraint, KL_COEF) for constraint in asked]
    assert found.value <= min(solution.dual_bound for solution in alone) + 1e-9


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize("scope", ["pooled", "per_prompt"])
def test_one_absurd_cost_changes_nothing_that_matters(draw, measure, scope):
    """A sample of cost 1e8 is one that no policy within the budget takes: as if it were left out."""
    reward, cost = draw("normal", 6, 16, seed=25)
    asked = between(SampleBank(reward, cost), measure, 0.3, scope)
    absurd, log_weight = cost.copy(), np.zeros_like(cost)
    absurd[2, 3], log_weight[2, 3] = 1e8, -np.inf
    found = solve(SampleBank(reward, absurd), asked, KL_COEF)
    without = solve(SampleBank(reward, cost, log_weight=log_weight), asked, KL_COEF)
    # Leaving the sample out costs the policy log(16/15) nats in one prompt of six.
    expected = without.value - KL_COEF * np.log(16 / 15) / 6
    assert found.feasible
    assert risk_of(measure, scope, absurd, found.weights) <= asked.budget + 1e-6
    assert found.value == pytest.approx(expected, abs=0.01)
    assert found.dual_bound >= expected - 1e-9
