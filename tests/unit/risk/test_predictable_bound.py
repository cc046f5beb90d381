"""A bound whose thresholds come from earlier costs: coverage by simulation, and what it costs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.unit.risk.test_bounds import CLIP, clipped_pareto, fails_at_most, true_cvar

from tailguard.errors import InputError
from tailguard.risk import (
    CVaR,
    Entropic,
    Mean,
    MeanCVaR,
    Spectral,
    cvar_upper_bound,
    predictable_risk_bound,
)


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_it_covers_a_heavy_clipped_tail(alpha, confidence):
    rng, repetitions = np.random.default_rng(21), 150
    bounds = [
        predictable_risk_bound(costs, CVaR(alpha), upper=CLIP, confidence=confidence)
        for costs in clipped_pareto(rng, (repetitions, 500))
    ]
    missed = int((np.array(bounds) < true_cvar(alpha)).sum())
    assert missed <= fails_at_most(confidence, repetitions)


def test_it_costs_little_beside_the_best_threshold():
    rng = np.random.default_rng(22)
    truth, best = true_cvar(0.1), 0.1 ** (-1 / 2.5) - 2.0
    found, fixed = np.array(
        [
            (
                predictable_risk_bound(costs, CVaR(0.1), upper=CLIP),
                cvar_upper_bound(costs, 0.1, best, upper=CLIP),
            )
            for costs in clipped_pareto(rng, (25, 1000))
        ]
    ).mean(axis=0)
    assert found - truth < 1.1 * (fixed - truth)


@pytest.mark.parametrize(
    "measure",
    [Mean(), CVaR(0.1), MeanCVaR(0.3, 0.1), Entropic(0.5, CLIP), Spectral((0.1, 1.0), (0.5, 0.5))],
)
def test_every_measure_is_covered(measure):
    rng, repetitions = np.random.default_rng(23), 100
    everything = clipped_pareto(rng, 200_000)
    truth = float(measure.value(everything))
    bounds = [
        predictable_risk_bound(rng.choice(everything, 400), measure, upper=CLIP, confidence=0.8)
        for _ in range(repetitions)
    ]
    assert sum(bound < truth for bound in bounds) <= fails_at_most(0.8, repetitions)
    assert np.mean(bounds) < 0.8 * CLIP  # and it says something


def test_the_edge_is_where_the_capital_written_out_reaches_its_goal():
    costs = np.random.default_rng(24).beta(1, 6, 60)
    bound = predictable_risk_bound(costs, CVaR(0.5), upper=1.0, confidence=0.9)

    def capital(value: float) -> float:
        """The gambler's best, bet by bet; the first four costs are only looked at."""
        known, most, thresholds = 1.0, 1.0, {}
        start, marks = 4, [4]
        while marks[-1] < 60:
            marks.append(min(60, math.ceil(marks[-1] * 1.25)))
        for i in range(start, 60):
            at = max(mark for mark in marks if mark <= i)
            past = costs[:at]
            nu = thresholds.setdefault(at, CVaR(0.5).minimiser(past))
            seen = nu + np.maximum(past - nu, 0) / 0.5
            top = nu + (1.0 - nu) / 0.5
            variance = (0.25 * (top - seen.min()) ** 2 + at * seen.var()) / (at + 1)
            bet = math.sqrt(2 * math.log(10) / (60 * variance))
            bet = min(bet, 0.9 / max(top - value, 1e-12))
            known *= 1 + bet * (value - nu - max(costs[i] - nu, 0.0) / 0.5)
            most = max(most, known)
        return most

    assert capital(bound - 1e-6) < 10.0 <= capital(bound + 1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(0, 100), st.floats(0.05, 1.0))
def test_it_is_within_the_range_and_falls_with_less_confidence(num, seed, alpha):
    costs = np.random.default_rng(seed).uniform(-1.0, 1.0, num)
    sure = predictable_risk_bound(costs, CVaR(alpha), upper=1.0, confidence=0.99)
    less = predictable_risk_bound(costs, CVaR(alpha), upper=1.0, confidence=0.6)
    assert costs.min() <= less <= sure + 1e-9 <= 1.0 + 2e-9


def test_it_is_at_least_the_samples_own_risk_in_any_order():
    costs = np.concatenate([np.full(900, -1.0), np.full(100, 1.0)])
    assert predictable_risk_bound(costs, CVaR(0.1), upper=2.0) >= 1.0 - 1e-12
    mixed = np.random.default_rng(25).permutation(costs)
    assert predictable_risk_bound(mixed, CVaR(0.1), upper=2.0) > 1.02


def test_costs_that_are_all_the_largest_are_bounded_by_it():
    assert predictable_risk_bound(np.ones(200), CVaR(0.1), upper=1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("upper", [0.5, math.inf, math.nan])
def test_a_range_that_holds_not_every_cost(upper):
    with pytest.raises(InputError, match="upper"):
        predictable_risk_bound(np.ones(50), CVaR(0.1), upper=upper)
