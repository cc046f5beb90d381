"""Intervals against scipy, exact enumeration, brute resampling and simulated coverage."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tailguard.errors import InputError
from tailguard.evaluation import (
    cvar_intervals,
    mean_interval,
    measure_answers,
    paired_cvar_differences,
    rate_interval,
    var_interval,
)
from tailguard.evaluation.bootstrap import cvar_with_error, resampled
from tailguard.risk import CVaR, cvar_curve, cvar_rows

ALPHAS = np.array([0.05, 0.2, 1.0])


def test_estimates_under_counts_are_the_cvar_of_the_repeated_sample():
    rng = np.random.default_rng(0)
    costs, other = rng.normal(size=(2, 60)).round(1)
    counts = rng.multinomial(60, np.full(60, 1 / 60), size=5)
    estimates, _ = cvar_with_error(costs, other, counts / 60, ALPHAS)
    for row, count in enumerate(counts):
        first, second = np.repeat(costs, count), np.repeat(other, count)
        equal = np.full(60, 1 / 60)
        expected = cvar_curve(first, equal, ALPHAS) - cvar_curve(second, equal, ALPHAS)
        assert estimates[:, row] == pytest.approx(expected)


def test_standard_errors_are_the_spread_of_the_estimate_over_fresh_samples():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 1000))
    y = 0.8 * x + 0.6 * rng.normal(size=x.shape)
    equal = np.full((1, 1000), 1 / 1000)
    found = [cvar_with_error(a, b, equal, ALPHAS) for a, b in zip(x, y, strict=True)]
    estimates = np.concatenate([e for e, _ in found], axis=1)
    errors = np.concatenate([s for _, s in found], axis=1)
    assert errors.mean(axis=1) == pytest.approx(estimates.std(axis=1), rel=0.12)
    assert errors[-1] == pytest.approx((x - y).std(axis=1) / math.sqrt(1000))  # α = 1: the mean


def test_resamples_come_in_blocks_that_do_not_change_them(monkeypatch):
    costs = np.random.default_rng(2).normal(size=50)
    whole = resampled(costs, None, ALPHAS, 20, np.random.default_rng(3))
    monkeypatch.setattr("tailguard.evaluation.bootstrap._COUNTS_AT_ONCE", 150)
    parts = resampled(costs, None, ALPHAS, 20, np.random.default_rng(3))
    assert whole[0] == pytest.approx(parts[0])
    assert whole[1] == pytest.approx(parts[1])


def test_cvar_interval_covers_a_heavy_tail_that_the_percentiles_do_not():
    rng, repetitions, alpha, shape = np.random.default_rng(4), 120, 0.05, 2.5
    truth = alpha ** (-1 / shape) * shape / (shape - 1) - 1
    ours = usual = 0
    for _ in range(repetitions):
        costs = rng.pareto(shape, 600)
        made = cvar_intervals(costs, [alpha], generator=rng, num_resamples=200)[0]
        again, _ = resampled(costs, None, np.array([alpha]), 200, rng)
        low, high = np.quantile(again, [0.025, 0.975])
        ours += made.lower <= truth <= made.upper
        usual += low <= truth <= high
    assert ours >= stats.binom.ppf(0.01, repetitions, 0.93)
    assert usual < stats.binom.ppf(0.01, repetitions, 0.95)


def test_paired_difference_covers_and_is_narrower_than_the_unpaired():
    rng, repetitions, alpha = np.random.default_rng(5), 120, 0.1
    truth = 0.3 * float(stats.norm.pdf(stats.norm.isf(alpha)) / alpha)
    x = rng.normal(size=(repetitions, 400))
    y = 0.7 * (0.9 * x + math.sqrt(0.19) * rng.normal(size=x.shape))
    hits = 0
    for a, b in zip(x, y, strict=True):
        made = paired_cvar_differences(a, b, [alpha], generator=rng, num_resamples=200)[0]
        hits += made.lower <= truth <= made.upper
    assert hits >= stats.binom.ppf(0.01, repetitions, 0.94)
    made, broken = (
        paired_cvar_differences(x[0], b, [alpha], generator=rng)[0]
        for b in (y[0], rng.permutation(y[0]))
    )
    assert made.upper - made.lower < 0.8 * (broken.upper - broken.lower)


def test_an_atom_at_the_edge_of_the_tail_leaves_the_interval_near_the_data():
    """VaR jumps between resamples, and those that end within the atom have no error of their own."""
    rng, repetitions, held, alpha = np.random.default_rng(9), 60, 0.045, 0.05
    truth = (0.1 * held - 0.4 * (alpha - held)) / alpha
    hits = 0
    for _ in range(repetitions):
        costs = np.where(rng.uniform(size=1000) < held, 0.1, -0.4)
        costs[0] = 0.12
        made = cvar_intervals(costs, [alpha], generator=rng, num_resamples=200)[0]
        hits += made.lower - 1e-3 <= truth <= made.upper + 1e-3
        assert -1.0 < made.lower <= made.upper < 0.5
    assert hits >= stats.binom.ppf(0.01, repetitions, 0.94)


def test_a_tail_of_one_observation_is_bounded_from_below_only():
    rng = np.random.default_rng(10)
    thin, thick = cvar_intervals(rng.pareto(2.5, 100), [0.01, 0.05], generator=rng)
    assert math.isfinite(thin.lower)
    assert thin.upper == math.inf
    assert math.isfinite(thick.upper)
    pair = paired_cvar_differences(
        rng.normal(size=100), rng.normal(size=100), [0.01], generator=rng
    )
    assert (pair[0].lower, pair[0].upper) == (-math.inf, math.inf)


def test_mean_interval_is_close_to_students():
    values = np.random.default_rng(6).normal(size=500)
    made = mean_interval(values, generator=np.random.default_rng(7), num_resamples=4000)
    low, high = stats.t.interval(0.95, 499, values.mean(), stats.sem(values))
    assert made.estimate == pytest.approx(values.mean())
    assert (made.lower, made.upper) == pytest.approx((low, high), abs=0.1 * float(high - low))


def test_a_constant_sample_and_identical_policies_have_nothing_to_say():
    rng = np.random.default_rng(8)
    made = cvar_intervals(np.full(50, 2.0), [0.2], generator=rng, num_resamples=50)[0]
    assert (made.lower, made.estimate, made.upper) == pytest.approx((2.0, 2.0, 2.0))
    costs = rng.normal(size=50)
    same = paired_cvar_differences(costs, costs, [0.2, 1], generator=rng, num_resamples=50)
    assert all((d.lower, d.estimate, d.upper) == (0.0, 0.0, 0.0) for d in same)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (3, 10), (50, 2000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_rate_interval_is_wilsons(hits, trials, confidence):
    made = rate_interval(hits, trials, confidence=confidence)
    known = stats.binomtest(hits, trials).proportion_ci(confidence, method="wilson")
    assert (made.lower, made.upper) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_var_interval_is_the_distribution_free_one(alpha):
    costs = np.random.default_rng(10).exponential(size=400)
    made = var_interval(costs, alpha)
    known: Any = stats.quantile_test(costs, q=0, p=1 - alpha).confidence_interval(0.95)
    assert made.estimate == CVaR(alpha).minimiser(costs)
    assert (made.lower, made.upper) == pytest.approx((known.low, known.high))


def test_var_interval_covers_and_opens_where_the_data_end():
    rng, repetitions = np.random.default_rng(11), 400
    truth = -math.log(0.1)
    made = [var_interval(row, 0.1) for row in rng.exponential(size=(repetitions, 200))]
    hits = sum(m.lower <= truth <= m.upper for m in made)
    assert hits >= stats.binom.ppf(0.001, repetitions, 0.95)
    few = var_interval(np.arange(30.0), 0.01)
    assert few.upper == math.inf
    assert few.lower > 0
    assert var_interval(np.arange(30.0), 1.0).lower == -math.inf


def test_metrics_put_the_pieces_together():
    rng = np.random.default_rng(12)
    rewards, costs = rng.normal(size=(2, 300)) + np.array([[1.0], [-1.0]])
    made = measure_answers(rewards, costs, generator=rng, num_resamples=200)
    assert made["reward"].estimate == pytest.approx(rewards.mean())
    assert made["cost"].estimate == pytest.approx(costs.mean())
    assert made["unsafe_rate"].estimate == np.mean(costs > 0)
    for alpha in (0.01, 0.05, 0.1, 0.25, 1.0):
        expected = float(cvar_rows(costs, np.full(300, 1 / 300), alpha))
        interval = made[f"cvar_{alpha:g}"]
        assert interval.estimate == pytest.approx(expected)
        assert interval.lower <= expected <= interval.upper
        assert made[f"var_{alpha:g}"] == var_interval(costs, alpha)
    assert "benign_refusals" not in made  # nobody looked


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: cvar_intervals([1.0], [0.5], generator=g), "at least two"),
        (lambda g: cvar_intervals([1.0, math.nan], [0.5], generator=g), "nan"),
        (lambda g: cvar_intervals([1.0, 2.0], [0.0], generator=g), "tail_masses"),
        (lambda g: cvar_intervals([1.0, 2.0], [1], generator=g, confidence=1), "confidence"),
        (lambda g: cvar_intervals([1.0, 2.0], [1], generator=g, num_resamples=1), "num_resamples"),
        (lambda g: paired_cvar_differences([1.0, 2.0], [1.0] * 3, [1], generator=g), "3"),
        (lambda g: measure_answers([1.0, 2.0], [1.0] * 3, generator=g), "costs has 3"),
        (lambda g: measure_answers([1.0, math.nan], [1.0] * 2, generator=g), "rewards"),
        (lambda _: rate_interval(3, 2), "not a rate"),
        (lambda _: rate_interval(0, 0), "not a rate"),
        (lambda _: rate_interval(0, 1, confidence=0), "confidence"),
        (lambda _: var_interval([1.0], 2.0), "tail_mass"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(InputError, match=said):
        call(np.random.default_rng(0))
