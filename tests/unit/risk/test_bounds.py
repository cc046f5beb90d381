"""Bounds: coverage by simulation, tightness against textbook rivals, honesty about what is undeclared."""

import math

import numpy as np
import pytest
from scipy import stats

from tailguard.errors import InputError
from tailguard.risk import (
    CVaR,
    Entropic,
    Mean,
    MeanCVaR,
    MonotoneMeanVariance,
    Spectral,
    betting_upper_bound,
    cvar_upper_bound,
    prompts_needed,
    risk_upper_bound,
    var_upper_bound,
)

CLIP = 10.0


def clipped_pareto(rng: np.random.Generator, size: int | tuple[int, int]) -> np.ndarray:
    return np.minimum(rng.pareto(2.5, size) - 1.0, CLIP)


def true_cvar(alpha: float) -> float:
    # ν + ∫_ν^clip S(c) dc / α for S(c) = (c + 2)^−2.5
    nu = alpha ** (-1 / 2.5) - 2.0
    return nu + ((nu + 2) ** -1.5 - (CLIP + 2) ** -1.5) / 1.5 / alpha


def fails_at_most(confidence: float, repetitions: int) -> int:
    """More failures than this would be seen once in a thousand runs of an exactly valid bound."""
    return int(stats.binom.ppf(0.999, repetitions, 1 - confidence))


def test_the_closed_form_used_as_truth_is_the_mean_of_a_large_sample():
    costs = clipped_pareto(np.random.default_rng(0), 1_000_000)
    for alpha in (0.05, 0.1):
        assert CVaR(alpha).value(costs) == pytest.approx(true_cvar(alpha), rel=0.01)


@pytest.mark.parametrize(("alpha", "shift"), [(0.05, 0.0), (0.1, 0.0), (0.1, 0.5)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_cvar_bound_covers_a_heavy_clipped_tail(alpha, shift, confidence):
    rng, repetitions = np.random.default_rng(11), 300
    nu = alpha ** (-1 / 2.5) - 2.0 + shift
    bounds = np.array(
        [
            cvar_upper_bound(costs, alpha, nu, upper=CLIP, confidence=confidence)
            for costs in clipped_pareto(rng, (repetitions, 500))
        ]
    )
    assert (bounds < true_cvar(alpha)).sum() <= fails_at_most(confidence, repetitions)


@pytest.mark.parametrize("probability", [0.01, 0.2, 0.9])
def test_betting_bound_covers_coins_and_never_beats_the_exact_test_on_average(probability):
    rng, repetitions, size = np.random.default_rng(12), 400, 200
    flips = (rng.uniform(size=(repetitions, size)) < probability).astype(float)
    bounds = np.array([betting_upper_bound(row, lower=0, upper=1, confidence=0.9) for row in flips])
    assert (bounds < probability).sum() <= fails_at_most(0.9, repetitions)
    exact = stats.beta.ppf(0.9, flips.sum(1) + 1, size - flips.sum(1))
    exact = np.where(flips.sum(1) == size, 1.0, exact)
    assert bounds.mean() > exact.mean() - 1e-3


def test_betting_bound_is_far_tighter_than_hoeffding_where_variance_is_small():
    values = np.random.default_rng(13).beta(1, 50, 2000)
    bound = betting_upper_bound(values, lower=0, upper=1, confidence=0.95)
    hoeffding = values.mean() + math.sqrt(math.log(20) / 4000)
    assert bound - values.mean() < 0.2 * (hoeffding - values.mean())


def test_betting_bound_closes_on_the_mean():
    rng = np.random.default_rng(14)
    gaps = [
        betting_upper_bound(x, lower=0, upper=1, confidence=0.95) - x.mean()
        for x in (rng.uniform(size=n) for n in (100, 10_000))
    ]
    assert gaps[1] < 0.15 * gaps[0]


def test_more_confidence_costs_more():
    costs = clipped_pareto(np.random.default_rng(15), 300)
    bounds = [cvar_upper_bound(costs, 0.1, 0.5, upper=CLIP, confidence=c) for c in (0.5, 0.9, 0.99)]
    assert bounds[0] < bounds[1] < bounds[2]


def test_without_a_declared_bound_the_answer_is_infinite():
    costs = [0.1, 0.2, 0.3]
    assert cvar_upper_bound(costs, 0.1, 0.0) == math.inf
    assert risk_upper_bound(costs, MeanCVaR(0.1, 0.5), 0.0, upper=1.0) == math.inf  # no lower
    assert math.isfinite(risk_upper_bound(costs, MeanCVaR(0.1, 0.5), 0.0, lower=0.0, upper=1.0))


def test_the_penalty_has_its_own_range():
    costs = np.zeros(50)
    direct = betting_upper_bound(
        CVaR(0.1).penalty(costs, 0.5), lower=0.5, upper=0.5 + 0.5 / 0.1, confidence=0.95
    )
    assert cvar_upper_bound(costs, 0.1, 0.5, lower=-3.0, upper=1.0) == pytest.approx(direct)
    mean = betting_upper_bound(costs, lower=-1, upper=1, confidence=0.95)
    assert risk_upper_bound(costs, Mean(), 0.0, lower=-1, upper=1) == pytest.approx(mean)
    assert risk_upper_bound(costs, Entropic(1.0, 1.0), 0.0, lower=-1, upper=1) < math.e - 1


def test_a_constant_range_needs_no_data():
    assert betting_upper_bound([2.0], lower=2, upper=2, confidence=0.99) == 2.0
    assert cvar_upper_bound([0.0], 0.1, 5.0, upper=1.0) == 1.0  # threshold above every cost


@pytest.mark.parametrize(
    ("measure", "threshold"),
    [
        (CVaR(0.05), -1.0),
        (MeanCVaR(0.1, 0.5), 0.0),
        (Mean(), 0.0),
        (Entropic(1.0, 1.0), 0.0),
        (MonotoneMeanVariance(1.0), 0.0),
        (Spectral((0.05, 0.5), (0.5, 0.5)), (-1.0, 0.0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_bound_exceeds_the_declared_largest_cost(measure, threshold):
    """No risk does: a few prompts cannot make a bound worse than knowing nothing."""
    rng = np.random.default_rng(17)
    for size in (1, 5, 200):
        costs = rng.uniform(-1.0, 1.0, size)
        bound = risk_upper_bound(costs, measure, threshold, lower=-1.0, upper=1.0)
        assert bound <= 1.0
        assert risk_upper_bound([1.0] * size, measure, threshold, lower=-1.0, upper=1.0) == 1.0


@pytest.mark.parametrize("alpha", [0.05, 0.25, 1.0])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_with_fewer_prompts_than_needed_the_best_sample_misses_the_limit(alpha, confidence, share):
    """The best: every cost at the threshold, where the exact test needs log δ / log(1 − αs)."""
    nu, largest, delta = -1.0, 3.0, 1.0 - confidence
    limit = nu + share * (largest - nu)

    def bound(size: int) -> float:
        return cvar_upper_bound([nu] * size, alpha, nu, upper=largest, confidence=confidence)

    needed = prompts_needed(alpha, confidence, share)
    assert needed == math.ceil(math.log(1 / delta) / (alpha * share) - 1e-9)
    if alpha * share < 1.0:
        exact = math.ceil(math.log(delta) / math.log1p(-alpha * share))
        assert exact <= needed
        assert exact == 1 or bound(exact - 1) >= limit
    # Enough but for what the stakes must learn first and the cap on them.
    assert bound(2 * needed + 5) < limit


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: betting_upper_bound([], lower=0, upper=1, confidence=0.9), "values is empty"),
        (lambda: betting_upper_bound([math.nan], lower=0, upper=1, confidence=0.9), "nan"),
        (lambda: betting_upper_bound([1.5], lower=0, upper=1, confidence=0.9), "outside"),
        (lambda: betting_upper_bound([-0.5], lower=0, upper=1, confidence=0.9), "outside"),
        (lambda: betting_upper_bound([0.5], lower=1, upper=0, confidence=0.9), "range"),
        (lambda: betting_upper_bound([0.5], lower=0, upper=math.inf, confidence=0.9), "finite"),
        (lambda: betting_upper_bound([0.5], lower=0, upper=1, confidence=1.0), "confidence"),
        (lambda: betting_upper_bound([0.5], lower=0, upper=1, confidence=1e-9), "at least 0.5"),
        (lambda: betting_upper_bound([0.5], lower=0, upper=1, confidence=math.nan), "confidence"),
        (lambda: cvar_upper_bound([0.5], 0.1, 0.0, upper=1.0, confidence=0.49), "at least 0.5"),
        (lambda: prompts_needed(0.0, 0.95), "tail_mass"),
        (lambda: prompts_needed(0.1, 0.4), "confidence"),
        (lambda: prompts_needed(0.1, 0.95, 0.0), "share"),
        (lambda: prompts_needed(0.1, 0.95, math.nan), "share"),
        (lambda: cvar_upper_bound([2.0], 0.1, 0.0, upper=1.0), "declared range"),
        (lambda: cvar_upper_bound([2.0], 1.1, 0.0, upper=3.0), "tail_mass"),
        (lambda: cvar_upper_bound([-2.0], 0.1, 0.0, lower=0.0, upper=3.0), "declared range"),
        (lambda: cvar_upper_bound([2.0], 0.1, 0.0, upper=math.nan), "range"),
        (lambda: var_upper_bound([1.0], 0.0), "tail_mass"),
        (lambda: var_upper_bound([1.0], 0.1, confidence=0.0), "confidence"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(InputError, match=said):
        call()


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
def test_var_bound_covers(alpha):
    rng, repetitions = np.random.default_rng(16), 400
    truth = alpha ** (-1 / 2.5) - 2.0
    bounds = [
        var_upper_bound(c, alpha, confidence=0.9) for c in clipped_pareto(rng, (repetitions, 300))
    ]
    assert (np.array(bounds) < truth).sum() <= fails_at_most(0.9, repetitions)


def test_var_bound_is_the_first_order_statistic_that_suffices():
    costs, alpha, confidence = np.arange(100.0), 0.1, 0.95
    rank = int(var_upper_bound(costs, alpha, confidence=confidence)) + 1
    assert stats.binom.cdf(rank - 1, 100, 0.9) >= confidence > stats.binom.cdf(rank - 2, 100, 0.9)
    assert var_upper_bound(np.arange(28.0), 0.1, confidence=0.95) == math.inf  # .9**28 > .05
    assert var_upper_bound(np.arange(29.0), 0.1, confidence=0.95) == 28.0
