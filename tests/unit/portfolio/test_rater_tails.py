"""Laws of cost by rater: risks against the costs themselves, and whose tail a request may ask for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tailguard.errors import InputError
from tailguard.portfolio.rater_tails import RaterTails, common_knots, mass_on, rater_weights
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, Spectral

# Tail masses at which no atom ends: where one does, any threshold up to the next serves.
MEASURES = [
    Mean(),
    CVaR(0.11),
    CVaR(0.51),
    MeanCVaR(0.21, 0.5),
    Entropic(0.5, 60.0),
    Spectral((0.21, 1.0), (0.5, 0.5)),
]
NAMES = ("carers", "traders", "neighbours")


def costs_of(seed, entries=3, prompts=400):
    """Heavy-tailed, alike between raters, as costs of the same answers are [entries, prompts, raters]."""
    rng = np.random.default_rng(seed)
    common = rng.pareto(3.0, (entries, prompts, 1)) - 1.0
    return np.minimum(
        common * np.array([1.6, 0.7, 1.0]) + 0.1 * rng.normal(size=common.shape), 50.0
    )


def tails_of(costs, knots=None):
    knots = common_knots(costs) if knots is None else knots
    return RaterTails(NAMES, knots, np.stack([mass_on(knots, c) for c in costs]), costs.shape[1])


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_where_every_cost_is_a_knot_risks_are_exact(measure):
    costs = np.round(costs_of(0, prompts=40), 1)
    tails = tails_of(costs, np.unique(costs))
    risk, error = tails.each(measure)
    weights = np.array([0.2, 0.5, 0.3])
    mixed, mixed_error = tails.mixed(measure, weights)
    for entry, cost in enumerate(costs):
        flat, mass = cost.ravel(), np.tile(weights, len(cost)) / len(cost)
        assert mixed[entry] == pytest.approx(float(measure.value_rows(flat, mass)), abs=1e-9)
        nu = np.asarray(measure.minimiser(flat, mass))
        per_prompt = measure.penalty(cost, nu) @ weights
        # The raters read the same answers, so no error can be larger than the sum of theirs.
        assert mixed_error[entry] >= per_prompt.std(ddof=1) / math.sqrt(len(cost)) - 1e-9
        for rater in range(3):
            own = cost[:, rater]
            even = np.full(len(own), 1 / len(own))
            assert risk[entry, rater] == pytest.approx(
                float(measure.value_rows(own, even)), abs=1e-9
            )
            penalties = measure.penalty(own, np.asarray(measure.minimiser(own, even)))
            expected = penalties.std(ddof=1) / math.sqrt(len(own))
            assert error[entry, rater] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_knots_never_make_a_tail_look_lighter_and_hardly_heavier(measure):
    costs = costs_of(1)
    exact = np.array(
        [[float(measure.value_rows(c, np.full(len(c), 1 / len(c)))) for c in e.T] for e in costs]
    )
    risk, _ = tails_of(costs).each(measure)
    assert (risk >= exact - 1e-9).all()
    assert (risk <= exact + 0.03 * (1.0 + np.abs(exact))).all()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=12),
    st.lists(st.floats(-6, 6), min_size=1, max_size=6, unique=True),
    st.floats(0.05, 1.0),
)
def test_mass_keeps_the_mean_and_raises_every_tail(costs, knots, tail_mass):
    cost = np.array(costs)
    knots = np.unique([*knots, cost.min(), cost.max()])
    tails = tails_of(cost[None], knots)
    np.testing.assert_allclose(tails.mass.sum(axis=2), 1.0)
    np.testing.assert_allclose((tails.mass @ knots)[0], cost.mean(axis=0), atol=1e-9)
    measure = CVaR(tail_mass)
    risk, _ = tails.each(measure)
    for rater in range(3):
        own = cost[:, rater]
        assert risk[0, rater] >= measure.value_rows(own, np.full(len(own), 1 / len(own))) - 1e-7


def test_one_rater_with_all_the_weight_is_that_rater():
    tails = tails_of(costs_of(2))
    risk, error = tails.each(CVaR(0.1))
    for place, name in enumerate(NAMES):
        weights = rater_weights(name, NAMES)
        assert weights is not None
        own, own_error = tails.mixed(CVaR(0.1), weights)
        np.testing.assert_allclose(own, risk[:, place])
        np.testing.assert_allclose(own_error, error[:, place])


def test_fourteen_groups_take_little_room():
    costs = np.random.default_rng(0).gamma(2.0, size=(1500, 60, 14))
    tails = RaterTails(tuple(map(str, range(14))), *_laws(costs), 60)
    assert tails.mass.astype(np.float32).nbytes <= 5e6


def _laws(costs):
    knots = common_knots(costs, 14)
    return knots, np.stack([mass_on(knots, cost) for cost in costs])


def test_a_single_prompt_has_no_error_and_one_cost_no_spread():
    costs = np.ones((1, 1, 3))
    risk, error = tails_of(costs).each(CVaR(0.5))
    assert (risk == 1.0).all()
    assert np.isinf(error).all()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nobody", "no 'nobody'; there are carers, traders, neighbours"),
        ({"carers": 1.0, "nobody": 0.0}, "no 'nobody'"),
        ({"carers": -1.0, "traders": 2.0}, r"raters\.carers: -1"),
        ({"carers": math.nan}, r"raters\.carers: nan"),
        ({"carers": math.inf}, r"raters\.carers: inf"),
        ({"carers": True}, r"raters\.carers: True; must be a number"),
        ({"carers": "much"}, r"raters\.carers: 'much'"),
        ({"carers": 0.0}, "sum to 0"),
        ({}, "sum to 0"),
        ("", "no ''"),
        (["carers"], "give a group, weights by group"),
        (5, "give a group"),
        ({"carers": 10**400}, r"raters\.carers: 1000"),
    ],
)
def test_raters_that_nobody_knows_or_weights_that_are_none_are_refused(asked, said):
    with pytest.raises(InputError, match=said):
        rater_weights(asked, NAMES)


def test_without_raters_none_can_be_asked_for():
    with pytest.raises(InputError, match="knows no groups"):
        rater_weights("worst", ())
    assert rater_weights("worst", NAMES) is None
    huge = rater_weights({"traders": 1.5e308, "carers": 1.5e308}, NAMES)
    assert huge is not None
    np.testing.assert_allclose(huge, [0.5, 0.5, 0.0])
    weights = rater_weights({"traders": 3.0, "carers": 1.0}, NAMES)
    assert weights is not None
    np.testing.assert_allclose(weights, [0.25, 0.75, 0.0])


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="mass"):
        RaterTails(NAMES, np.arange(4.0), np.ones((2, 2, 4)) / 4, 9)
    with pytest.raises(InputError, match="NaN"):
        RaterTails(NAMES, np.arange(4.0), np.full((2, 3, 4), np.nan), 9)
