"""Monotone mean–variance against its own definitions: line search, dual program, variance."""

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tailguard.errors import InputError
from tailguard.risk import Mean, MonotoneMeanVariance, RiskLimit
from tailguard.risk.spelling import (
    describe_measure,
    limit_from_json,
    limit_to_json,
    parse_measure,
    spell_measure,
)


def utility(t, aversion):
    """The penalty's u as it is published."""
    return (np.maximum(1 + aversion * t, 0) ** 2 - 1) / (2 * aversion)


def sample(seed):
    rng = np.random.default_rng(seed)
    costs = rng.standard_t(3, 60).round(1)  # ties
    return costs, rng.dirichlet(np.full(60, 0.5))


@pytest.mark.parametrize("aversion", [0.05, 0.4, 3.0, 60.0])
@pytest.mark.parametrize("seed", range(4))
def test_value_and_minimiser_are_those_of_a_line_search(aversion, seed):
    costs, weights = sample(seed)
    measure = MonotoneMeanVariance(aversion)

    def expected_penalty(nu):
        return float(weights @ (nu + utility(costs - nu, aversion)))

    found: Any = minimize_scalar(
        expected_penalty, bracket=(costs.min(), costs.max()), options={"xtol": 1e-12}
    )
    assert measure.value(costs, weights) == pytest.approx(found.fun, abs=1e-9)
    nu = measure.minimiser(costs, weights)
    assert expected_penalty(nu) == pytest.approx(found.fun, abs=1e-9)
    assert weights @ np.maximum(1 + aversion * (costs - nu), 0) == pytest.approx(1.0, abs=1e-9)
    assert costs.min() <= nu <= costs.max()


@pytest.mark.parametrize("aversion", [0.1, 1.0, 10.0])
def test_value_is_the_worst_density_less_its_price(aversion):
    """The dual form: the largest E[ZC] − E(Z − 1)²/(2κ) over densities Z."""
    costs, weights = sample(7)
    density = cp.Variable(60, nonneg=True)
    price: Any = cp.sum(cp.multiply(weights, cp.square(density - 1))) / (2 * aversion)
    gain: Any = cp.sum(cp.multiply(weights * costs, density))
    one: Any = weights @ density == 1
    expected = cp.Problem(cp.Maximize(gain - price), [one]).solve(solver=cp.CLARABEL)
    assert MonotoneMeanVariance(aversion).value(costs, weights) == pytest.approx(expected, abs=1e-5)


def test_it_is_mean_plus_half_the_variance_where_no_cost_is_far_below_the_mean():
    rng = np.random.default_rng(1)
    costs, weights = rng.uniform(-1, 1, 50), rng.dirichlet(np.ones(50))
    mean = weights @ costs
    variance = weights @ (costs - mean) ** 2
    aversion = 0.99 / (mean - costs.min())
    assert MonotoneMeanVariance(aversion).value(costs, weights) == pytest.approx(
        mean + 0.5 * aversion * variance, abs=1e-12
    )
    stronger = 4.0 * aversion
    assert MonotoneMeanVariance(stronger).value(costs, weights) < mean + 0.5 * stronger * variance


def test_variance_alone_is_not_monotone_and_this_is():
    weights, before, after = [0.5, 0.5], [0.0, 0.0], [0.0, -10.0]
    assert np.mean(after) + 0.5 * np.var(after) > 0.0  # better costs, yet a larger number
    measure = MonotoneMeanVariance(1.0)
    assert measure.value(after, weights) < measure.value(before, weights)


def test_small_aversion_is_the_mean_and_large_the_worst_case():
    costs, weights = sample(2)
    assert MonotoneMeanVariance(1e-14).value(costs, weights) == pytest.approx(
        Mean().value(costs, weights), abs=1e-9
    )
    assert MonotoneMeanVariance(1e9).value(costs, weights) == pytest.approx(costs.max(), abs=1e-6)
    assert MonotoneMeanVariance(2.0).value([3.0]) == 3.0


@pytest.mark.parametrize("aversion", [1e-12, 0.3, 50.0])
def test_penalty_is_the_published_one_and_rises_by_at_most_one_per_threshold(aversion):
    costs = np.linspace(-4, 4, 81)
    measure = MonotoneMeanVariance(aversion)
    if aversion > 1e-6:  # where the published formula keeps its digits
        assert measure.penalty(costs, 0.7) == pytest.approx(0.7 + utility(costs - 0.7, aversion))
    assert (np.diff(measure.penalty(costs, 0.7)) >= -1e-12).all()
    low, high = measure.penalty(costs, 0.2), measure.penalty(costs, 0.5)
    assert (high - low <= measure.slopes[0] * 0.3 + 1e-9).all()


def test_thresholds_of_rows_with_weightless_outliers():
    costs = np.array([[1.0, 2.0, 4.0, 1e8], [3.0, 3.0, 3.0, 3.0]])
    weights = np.array([[0.5, 0.25, 0.25, 0.0], [0.25] * 4])
    measure = MonotoneMeanVariance(0.8)
    alone = measure.minimiser(costs[0, :3], weights[0, :3])
    assert measure.threshold_rows(costs, weights) == pytest.approx([alone, 3.0])
    assert measure.value_rows(costs, weights)[1] == pytest.approx(3.0)


@pytest.mark.parametrize("aversion", [0.0, -1.0, np.nan, np.inf])
def test_an_aversion_that_is_none_is_named(aversion):
    with pytest.raises(InputError, match="aversion"):
        MonotoneMeanVariance(aversion)


def test_it_is_written_and_read_like_every_measure():
    measure = MonotoneMeanVariance(0.25)
    assert spell_measure(measure) == "mean-variance:aversion=0.25"
    assert parse_measure("mean-variance:aversion=0.25") == measure
    assert parse_measure("mean-variance", {"aversion": 0.25}) == measure
    assert describe_measure(measure) == "mean-variance at 0.25"
    limit = RiskLimit(measure, 1.5, "per_prompt")
    assert limit_from_json(limit_to_json(limit)) == limit
    with pytest.raises(InputError, match="needs aversion"):
        parse_measure("mean-variance")
