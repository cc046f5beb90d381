"""Measures against closed forms, an independent linear program and their own input rules."""

import math
import warnings
from collections.abc import Callable
from decimal import Decimal, getcontext

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from tailguard.errors import InputError
from tailguard.risk import (
    CVaR,
    Entropic,
    Mean,
    MeanCVaR,
    MonotoneMeanVariance,
    RiskMeasure,
    SmallTailWarning,
    Spectral,
    cvar_curve,
    cvar_rows,
    var_rows,
)

MEASURES: list[RiskMeasure] = [
    Mean(),
    CVaR(0.1),
    CVaR(1),
    MeanCVaR(0.2, 0.5),
    Entropic(0.7, 50.0),
    Spectral([0.1, 0.5, 1], [0.2, 0.3, 0.5]),
    MonotoneMeanVariance(0.6),
]


def normal_cvar(alpha: float) -> float:
    return float(stats.norm.pdf(stats.norm.isf(alpha)) / alpha) if alpha < 1 else 0.0


CLOSED_FORMS: list[tuple[Callable[[np.ndarray], np.ndarray], Callable[[float], float]]] = [
    (lambda u: u, lambda a: 1 - a / 2),  # uniform
    (lambda u: -np.log1p(-u), lambda a: 1 - math.log(a)),  # exponential
    (lambda u: (1 - u) ** -0.4, lambda a: a**-0.4 / 0.6),  # Pareto, shape 2.5
    (lambda u: stats.norm.ppf(u), normal_cvar),
]


@pytest.mark.parametrize(("quantile", "cvar"), CLOSED_FORMS)
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3, 1.0])
def test_cvar_of_a_fine_grid_of_quantiles_is_the_closed_form(quantile, cvar, alpha):
    # Cells shrink towards u = 1, so that the heavy tail is resolved by weights, not by numbers.
    edges = np.concatenate([[0.0], 1 - np.geomspace(1.0, 1e-14, 40_001)[1:], [1.0]])
    weights = np.diff(edges)
    costs = quantile(edges[:-1] + weights / 2)
    assert float(cvar_rows(costs, weights, alpha)) == pytest.approx(cvar(alpha), rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.03, 0.1, 0.35, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_cvar_is_the_optimum_of_the_rockafellar_uryasev_program(alpha, seed):
    rng = np.random.default_rng(seed)
    costs = rng.standard_t(3, 40).round(1)  # ties
    weights = rng.dirichlet(np.full(40, 0.5))
    threshold, excess = cp.Variable(), cp.Variable(40, nonneg=True)
    program = cp.Problem(
        cp.Minimize(threshold + weights @ excess / alpha), [excess >= costs - threshold]
    )
    optimum = program.solve(solver=cp.CLARABEL)
    assert float(cvar_rows(costs, weights, alpha)) == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_value_is_the_least_expected_penalty_found_by_a_line_search(measure):
    rng = np.random.default_rng(5)
    costs, weights = rng.normal(size=200), rng.uniform(size=200)
    weights = weights / weights.sum()

    def search(part: RiskMeasure) -> float:
        found = minimize_scalar(
            lambda nu: float(weights @ part.penalty(costs, nu)), bounds=(-5, 5), method="bounded"
        )
        return float(found.fun)

    if isinstance(measure, Spectral):
        least = float(np.dot(measure.weights, [search(CVaR(a)) for a in measure.tail_masses]))
    else:
        least = search(measure)
    assert measure.value(costs, weights) == pytest.approx(least, abs=1e-4)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_expected_penalty_at_the_minimiser_is_the_value_and_elsewhere_no_less(measure):
    rng = np.random.default_rng(6)
    costs, weights = rng.exponential(size=300), rng.uniform(size=300)
    weights = weights / weights.sum()
    value, best = measure.value(costs, weights), measure.minimiser(costs, weights)
    assert weights @ measure.penalty(costs, best) == pytest.approx(value, abs=1e-12)
    for shift in (-1.0, -0.1, 0.1, 1.0):
        assert weights @ measure.penalty(costs, best + shift) >= value - 1e-12


def test_known_values_by_hand():
    costs = [1.0, 2.0, 3.0, 4.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTailWarning)
        assert CVaR(0.25).value(costs) == 4.0
        assert CVaR(0.375).value(costs) == pytest.approx((4 * 0.25 + 3 * 0.125) / 0.375)
        assert CVaR(0.01).value(costs) == 4.0  # N·α < 1
        assert CVaR(0.5).value([7.0, 7.0, 7.0, 7.0]) == 7.0  # ties
        assert CVaR(0.5).value([5.0, 1.0], [0.1, 0.9]) == pytest.approx((0.5 + 0.4) / 0.5)
        assert MeanCVaR(0.25, 0.5).value(costs) == pytest.approx(0.5 * 2.5 + 0.5 * 4)
        assert Spectral([0.25, 0.5], [0.5, 0.5]).value(costs) == pytest.approx(0.5 * 4 + 0.5 * 3.5)
    assert Mean().value(costs) == 2.5
    assert Entropic(2.0, 4.0).value([0.0, 1.0]) == pytest.approx(math.log((1 + math.e**2) / 2) / 2)
    assert CVaR(0.25).minimiser(costs) == 3.0
    assert CVaR(0.25).penalty([2.0, 5.0], 3.0) == pytest.approx([3.0, 3.0 + 2.0 / 0.25])


@pytest.mark.parametrize("theta", [1e-300, 1e-18, 1e-14, 1e-9, 1e-4])
def test_entropic_risk_of_a_small_theta_is_mean_and_half_the_variance(theta):
    costs = [5.0, 6.0, 10.0] * 7
    expected = 7.0 + theta * (14.0 / 3.0) / 2  # by its series: (θ/2) Var is the next term
    assert Entropic(theta, 10.0).value(costs) == pytest.approx(expected, rel=1e-8)
    assert Entropic(theta, 10.0).value([5.0] * 20) == pytest.approx(5.0, rel=1e-14)


@given(st.floats(-6.0, 3.0), st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=8))
def test_entropic_risk_is_that_of_exact_arithmetic(exponent, costs):
    getcontext().prec = 60
    theta = 10.0**exponent
    total = sum(((Decimal(theta) * Decimal(cost)).exp() for cost in costs), Decimal(0))
    expected = float((total / len(costs)).ln() / Decimal(theta))
    assert Entropic(theta, 50.0).value(costs) == pytest.approx(expected, rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.25, 0.355, 0.9])
def test_var_is_numpys_inverted_distribution_function(alpha):
    costs = np.random.default_rng(1).normal(size=300)
    expected = np.quantile(costs, 1 - alpha, method="inverted_cdf")
    assert CVaR(alpha).minimiser(costs) == expected


def test_zero_weights_do_not_count():
    costs, weights = np.array([9.0, 1.0, 2.0, -5.0]), np.array([0.0, 1.0, 1.0, 0.0])
    for alpha in (0.2, 1.0):
        assert float(cvar_rows(costs, weights / 2, alpha)) == pytest.approx(
            float(cvar_rows(costs[1:3], weights[1:3] / 2, alpha))
        )
        assert float(var_rows(costs, weights / 2, alpha)) in (1.0, 2.0)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_rows_agree_with_one_at_a_time(measure):
    rng = np.random.default_rng(2)
    costs, weights = rng.normal(size=(2, 3, 200)), rng.uniform(size=(2, 3, 200))
    weights /= weights.sum(axis=-1, keepdims=True)
    rows = measure.value_rows(costs, weights)
    assert rows.shape == (2, 3)
    assert rows[1, 2] == pytest.approx(measure.value(costs[1, 2], weights[1, 2]))


def test_curve_is_cvar_at_each_tail_mass():
    rng = np.random.default_rng(3)
    costs, weights = rng.normal(size=50), rng.dirichlet(np.ones(50))
    masses = np.array([0.02, 0.5, 1.0])
    expected = [float(cvar_rows(costs, weights, float(a))) for a in masses]
    assert cvar_curve(costs, weights, masses) == pytest.approx(expected)


def test_penalty_broadcasts_one_threshold_a_prompt():
    costs = np.arange(6.0).reshape(2, 3)
    per_prompt = CVaR(0.5).penalty(costs, np.array([[1.0], [4.0]]))
    assert per_prompt == pytest.approx(np.array([[1.0, 1.0, 3.0], [4.0, 4.0, 6.0]]))
    mixed = Spectral([0.5, 1.0], [0.5, 0.5]).penalty(costs, np.array([[[1.0, 0.0]], [[4.0, 0.0]]]))
    assert mixed == pytest.approx(0.5 * per_prompt + 0.5 * costs)
    assert Mean().penalty(2.0, np.zeros(3)).tolist() == [2.0, 2.0, 2.0]


def test_tensors_and_tuples_are_read():
    tensor = torch.arange(100.0, requires_grad=True)
    assert CVaR(0.1).value(tensor) == CVaR(0.1).value(tuple(range(100))) == 94.5
    assert CVaR(0.1).value(torch.arange(100.0).bfloat16()) == 94.5


def test_thin_tails_warn_and_the_inner_loop_does_not():
    with pytest.warns(SmallTailWarning, match=r"1\.28 effective"):
        CVaR(0.02).value(np.arange(64.0))
    with pytest.warns(SmallTailWarning):
        CVaR(0.5).value(np.arange(100.0), np.r_[np.full(5, 1.0), np.full(95, 1e-9)])
    with pytest.warns(SmallTailWarning):
        MeanCVaR(0.02, 0.1).value(np.arange(64.0))
    with pytest.warns(SmallTailWarning):
        Spectral([0.02, 1.0], [0.1, 0.9]).value(np.arange(64.0))
    CVaR(0.1).value(np.arange(100.0))  # exactly ten: warnings are errors here
    CVaR(1.0).value([1.0])
    MeanCVaR(0.02, 0.0).value([1.0])
    CVaR(0.02).value_rows(np.arange(64.0), np.full(64, 1 / 64))


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize(
    ("costs", "weights", "said"),
    [
        ([], None, "costs is empty"),
        ([1.0, math.nan], None, r"costs\[1\] is nan"),
        ([1.0, math.inf], None, r"costs\[1\] is inf"),
        ([[1.0]], None, r"shape \(1, 1\)"),
        (3.0, None, r"shape \(\)"),
        ([1.0, 2.0], [1.0], r"weights has shape \(1,\)"),
        ([1.0, 2.0], [1.0, -0.5], r"weights\[1\] is -0.5"),
        ([1.0, 2.0], [1.0, math.nan], r"weights\[1\] is nan"),
        ([1.0, 2.0], [0.0, 0.0], "weights sum to 0"),
    ],
)
def test_bad_samples_are_named(measure, costs, weights, said):
    with pytest.raises(InputError, match=said):
        measure.value(costs, weights)
    with pytest.raises(InputError, match=said):
        measure.minimiser(costs, weights)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_tail_mass_outside_its_range_is_named(alpha):
    for build in (CVaR, lambda a: MeanCVaR(a, 0.5), lambda a: Spectral([a], [1.0])):
        with pytest.raises(InputError, match="tail_mass"):
            build(alpha)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: MeanCVaR(0.1, 1.5), "weight must lie"),
        (lambda: Entropic(0.0, 1.0), "theta"),
        (lambda: Entropic(1.0, math.inf), "cost_bound must be finite"),
        (lambda: Entropic(1.0, 2.0).value([2.5]), "above cost_bound=2"),
        (lambda: Entropic(1.0, 2.0).penalty([2.5], 0.0), "above cost_bound=2"),
        (lambda: Spectral([], []), "empty"),
        (lambda: Spectral([0.1], [0.5, 0.5]), "2 entries"),
        (lambda: Spectral([0.1, 0.2], [-0.5, 1.5]), "not negative"),
        (lambda: Spectral([0.1, 0.2], [0.5, 0.4]), "sum to 1"),
        (lambda: Spectral([0.1, 0.2], [0.5, 0.5]).penalty([1.0], 0.0), "2 thresholds"),
    ],
)
def test_bad_parameters_are_named(build, said):
    with pytest.raises(InputError, match=said):
        build()


def test_entropic_penalty_saturates_and_does_not_overflow():
    assert np.isfinite(Entropic(10.0, 100.0).penalty([100.0], -1000.0)).all()
