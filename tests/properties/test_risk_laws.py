"""The laws of risk measures, on samples that hypothesis makes awkward."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from hypothesis.extra.numpy import arrays

from tailguard.risk import (
    CVaR,
    Entropic,
    Mean,
    MeanCVaR,
    MonotoneMeanVariance,
    RiskMeasure,
    Spectral,
    betting_upper_bound,
    cvar_rows,
    var_upper_bound,
)

SIZE = 12
costs_strategy = arrays(
    np.float64, SIZE, elements=st.floats(-20, 20, width=32) | st.sampled_from([-1.0, 0.0, 1.0])
)
weights_strategy = arrays(np.float64, SIZE, elements=st.floats(0, 1, width=32)).filter(
    lambda w: w.sum() > 0.1
)
tail_masses = st.floats(0.001, 1.0)


def mixture(first: float, second: float, share: float) -> Spectral:
    return Spectral([first, second], [share, 1 - share])


# Built inside the test: the run-time type checker draws random numbers, which strategies must not.
measures: st.SearchStrategy[Callable[[], RiskMeasure]] = st.one_of(
    st.just(Mean),
    st.builds(partial, st.just(CVaR), tail_masses),
    st.builds(partial, st.just(MeanCVaR), tail_masses, st.floats(0, 1)),
    st.builds(partial, st.just(Entropic), st.floats(0.01, 2), st.just(100.0)),
    st.builds(partial, st.just(mixture), tail_masses, tail_masses, st.floats(0, 1)),
    st.builds(partial, st.just(MonotoneMeanVariance), st.floats(0.001, 100)),
)


def rho(measure: RiskMeasure, costs: np.ndarray, weights: np.ndarray) -> float:
    return float(measure.value_rows(costs, weights / weights.sum()))


@given(measures, costs_strategy, costs_strategy, weights_strategy)
def test_monotone(make, costs, other, weights):
    measure = make()
    worse = np.maximum(costs, other)
    assert rho(measure, costs, weights) <= rho(measure, worse, weights) + 1e-9


@given(measures, costs_strategy, weights_strategy, st.floats(-20, 20))
def test_translation(make, costs, weights, shift):
    measure = make()
    assert rho(measure, costs + shift, weights) == pytest.approx(
        rho(measure, costs, weights) + shift, abs=1e-8
    )


@given(tail_masses, costs_strategy, weights_strategy, st.floats(0, 10))
def test_cvar_is_positively_homogeneous(alpha, costs, weights, scale):
    assert rho(CVaR(alpha), scale * costs, weights) == pytest.approx(
        scale * rho(CVaR(alpha), costs, weights), abs=1e-8
    )


@given(measures, costs_strategy, costs_strategy, weights_strategy, st.floats(0, 1))
def test_convex_in_the_cost(make, costs, other, weights, share):
    measure = make()
    mixed = rho(measure, share * costs + (1 - share) * other, weights)
    bound = share * rho(measure, costs, weights) + (1 - share) * rho(measure, other, weights)
    assert mixed <= bound + 1e-8


@given(measures, costs_strategy, weights_strategy, weights_strategy, st.floats(0, 1))
def test_concave_in_the_distribution(make, costs, weights, other, share):
    measure = make()
    first, second = weights / weights.sum(), other / other.sum()
    mixed = rho(measure, costs, share * first + (1 - share) * second)
    bound = share * rho(measure, costs, first) + (1 - share) * rho(measure, costs, second)
    assert mixed >= bound - 1e-8


@given(measures, costs_strategy, weights_strategy)
def test_between_the_mean_and_the_maximum(make, costs, weights):
    measure = make()
    mass = weights / weights.sum()
    value = rho(measure, costs, weights)
    assert mass @ costs - 1e-9 <= value <= costs[mass > 0].max() + 1e-9


@given(costs_strategy, weights_strategy, tail_masses, tail_masses)
def test_cvar_grows_as_the_tail_thins_from_the_mean_to_the_maximum(costs, weights, first, second):
    mass = weights / weights.sum()
    thin, thick = sorted((first, second))
    assert cvar_rows(costs, mass, thin) >= cvar_rows(costs, mass, thick) - 1e-9
    assert float(cvar_rows(costs, mass, 1.0)) == pytest.approx(mass @ costs, abs=1e-9)
    least = float(mass[mass > 0].min())
    assume(least > 1e-6)
    assert float(cvar_rows(costs, mass, least / 2)) == pytest.approx(costs[mass > 0].max())


@given(measures, costs_strategy, weights_strategy, st.floats(-30, 30))
def test_expected_penalty_bounds_the_risk_and_meets_it_at_the_minimiser(
    make, costs, weights, threshold
):
    measure = make()
    mass = weights / weights.sum()
    value = rho(measure, costs, weights)
    vector = np.full(2, threshold) if isinstance(measure, Spectral) else threshold
    assert mass @ measure.penalty(costs, vector) >= value - 1e-8
    best = measure.minimiser(costs, weights)
    assert mass @ measure.penalty(costs, best) == pytest.approx(value, abs=1e-8)


@given(costs_strategy, weights_strategy, tail_masses, tail_masses, st.floats(0, 1))
def test_spectral_is_the_mixture_of_cvars(costs, weights, first, second, share):
    parts = share * rho(CVaR(first), costs, weights) + (1 - share) * rho(
        CVaR(second), costs, weights
    )
    assert rho(mixture(first, second, share), costs, weights) == pytest.approx(parts, abs=1e-9)


@given(costs_strategy, weights_strategy, tail_masses)
def test_mean_cvar_ends_at_its_parts(costs, weights, alpha):
    assert rho(MeanCVaR(alpha, 0), costs, weights) == pytest.approx(rho(Mean(), costs, weights))
    assert rho(MeanCVaR(alpha, 1), costs, weights) == pytest.approx(
        rho(CVaR(alpha), costs, weights), abs=1e-9
    )


@given(costs_strategy, weights_strategy, tail_masses, st.permutations(range(SIZE)))
def test_order_and_splitting_of_atoms_do_not_matter(costs, weights, alpha, order):
    mass = weights / weights.sum()
    value = float(cvar_rows(costs, mass, alpha))
    assert float(cvar_rows(costs[order], mass[order], alpha)) == pytest.approx(value, abs=1e-9)
    split = float(cvar_rows(np.tile(costs, 2), np.tile(mass, 2) / 2, alpha))
    assert split == pytest.approx(value, abs=1e-9)


@given(
    arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)),
    st.floats(0.5, 0.999),
    st.floats(-5, 5),
    st.floats(0.1, 10),
)
def test_betting_bound_lies_between_mean_and_declared_maximum_and_follows_scale(
    values, confidence, shift, scale
):
    bound = betting_upper_bound(values, lower=0.0, upper=1.0, confidence=confidence)
    assert values.mean() - 1e-9 <= bound <= 1.0
    moved = betting_upper_bound(
        np.clip(shift + scale * values, shift, shift + scale),
        lower=shift,
        upper=shift + scale,
        confidence=confidence,
    )
    assert moved == pytest.approx(shift + scale * bound, abs=1e-6)


@given(costs_strategy, tail_masses, st.floats(0.5, 0.99))
def test_var_bound_is_a_cost_no_smaller_than_the_sample_var(costs, alpha, confidence):
    bound = var_upper_bound(costs, alpha, confidence=confidence)
    assert bound == np.inf or (bound in costs and bound >= CVaR(alpha).minimiser(costs))
