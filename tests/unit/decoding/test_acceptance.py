"""The acceptance level: what it promises, and what it may never do."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tailguard.config import DecodingSection
from tailguard.decoding import accepted, choose_acceptance_level
from tailguard.decoding.acceptance import (
    DEFAULT_FALLBACK,
    SCORE_UNAVAILABLE,
    Verdicts,
    certified_risk,
    reasons_withheld,
)
from tailguard.errors import InputError
from tailguard.risk import CVaR, Mean, MeanCVaR, cvar_upper_bound

LARGEST = 5.0
MEASURE = CVaR(0.1)


def _answers(seed, n):
    """Costs with a tail, what a noisy bound says of them, and a fallback that is harmless."""
    generator = np.random.default_rng(seed)
    costs = np.minimum(generator.pareto(2.5, size=n) - 1.0, LARGEST)
    bounds = costs + 0.3 + 0.2 * generator.normal(size=n)
    return costs, bounds, np.full(n, -0.9)


def _verdicts(bounds):
    return Verdicts(bound=bounds, spread=np.full(len(bounds), np.nan))


def _choose(arrays, budget, **other):
    costs, bounds, fallback = arrays
    return choose_acceptance_level(
        costs,
        _verdicts(bounds),
        fallback,
        measure=MEASURE,
        budget=budget,
        largest_cost=LARGEST,
        **other,
    )


def _served(arrays, level):
    costs, bounds, fallback = arrays
    return np.where(accepted(_verdicts(bounds), level), costs, fallback)


def test_the_certificate_that_was_expected_is_had_on_fresh_prompts():
    budget, kept = 0.5, []
    for seed in range(40):
        choice = _choose(_answers(seed, 500), budget, num_certification=2000)
        assert choice.met
        costs = _served(_answers(1000 + seed, 2000), choice.level)
        bound = cvar_upper_bound(costs, 0.1, choice.threshold, upper=LARGEST, confidence=0.95)
        kept.append(bound <= budget)
    # 95% by design, less for choosing the level on the same answers; 34 of 40 is 85%.
    assert sum(kept) >= 34


def test_by_the_estimate_fresh_answers_keep_the_budget():
    budget, kept = 0.5, []
    for seed in range(40):
        choice = _choose(_answers(seed, 500), budget)
        assert choice.met
        kept.append(MEASURE.value(_served(_answers(1000 + seed, 20_000), choice.level)) <= budget)
    assert sum(kept) >= 34
    certified = _choose(_answers(0, 500), budget, num_certification=2000)
    assert certified.level < _choose(_answers(0, 500), budget).level  # a guarantee costs answers


def test_a_loose_budget_withholds_nothing():
    arrays = _answers(0, 500)
    choice = _choose(arrays, LARGEST)
    assert choice.acceptance_rate == 1.0
    assert choice.risk == pytest.approx(MEASURE.value(arrays[0]))


def test_a_budget_below_every_cost_is_met_by_nothing_and_says_so():
    choice = _choose(_answers(0, 500), -2.0)
    assert not choice.met
    assert choice.risk == pytest.approx(-0.9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(5, 60),
    st.sampled_from([None, 5, 20, 200]),
    st.tuples(st.floats(-1.0, 3.0), st.floats(-1.0, 3.0)),
    st.sampled_from([0.5, 0.9]),
)
def test_a_stricter_budget_never_has_a_looser_level(seed, n, certified, budgets, confidence):
    # Sorted, so that the answers that come first are unlike the rest.
    costs, bounds, fallback = _answers(seed, n)
    order = np.argsort(costs)
    arrays = (costs[order], bounds[order], fallback)
    strict, loose = (
        _choose(arrays, budget, num_certification=certified, confidence=confidence)
        for budget in sorted(budgets)
    )
    assert strict.level <= loose.level
    for budget, choice in zip(sorted(budgets), (strict, loose), strict=True):
        risk = MEASURE.value_rows(_served(arrays, choice.level), np.full(n, 1.0 / n))
        assert choice.risk == pytest.approx(float(risk))
        assert choice.risk <= choice.expected_bound
        assert choice.met == (choice.expected_bound <= budget)


def test_too_few_prompts_to_certify_do_not_loosen_the_level():
    """All expected certificates end at the declared largest cost; the loosest must not win the tie."""
    choice = _choose(_answers(0, 500), -2.0, num_certification=1, confidence=0.5)
    assert not choice.met
    assert choice.risk == pytest.approx(-0.9)


def test_answers_without_a_finite_bound_are_never_accepted():
    costs, bounds, fallback = _answers(0, 50)
    choice = _choose((costs, np.full_like(bounds, np.inf), fallback), LARGEST)
    assert choice.acceptance_rate == 0.0
    assert choice.risk == pytest.approx(-0.9)


@pytest.mark.parametrize("measure", [Mean(), MeanCVaR(0.1, 0.5), CVaR(0.1)], ids=repr)
def test_measures_whose_penalty_goes_on_falling_are_bounded_too(measure):
    """The mean's penalty has no least value; raising small costs gives it one, safely."""
    kept = []
    for seed in range(40):
        costs, bounds, fallback = _answers(seed, 500)
        choice = choose_acceptance_level(
            costs,
            _verdicts(bounds),
            fallback,
            measure=measure,
            budget=0.3,
            largest_cost=LARGEST,
            num_certification=2000,
        )
        assert choice.met
        fresh = _served(_answers(1000 + seed, 2000), choice.level)
        bound = certified_risk(fresh, measure, choice, largest_cost=LARGEST, confidence=0.95)
        assert bound >= measure.value(fresh)
        kept.append(bound <= 0.3)
    assert sum(kept) >= 34


def test_where_nothing_can_be_bounded_nothing_is_accepted():
    one = (np.array([0.5]), np.array([0.6]), np.array([-0.9]))  # the spread of one is unknown
    choice = _choose(one, 5.0)
    assert not choice.met
    assert choice.acceptance_rate == 0.0


def test_refuses_scores_that_are_missing():
    costs, bounds, fallback = _answers(0, 50)
    with pytest.raises(InputError, match="bounds: holds NaN"):
        _choose((costs, np.full_like(bounds, np.nan), fallback), 0.0)


def test_no_level_serves_an_answer_without_a_score():
    verdicts = _verdicts(np.array([0.5, 1.0, np.inf, np.nan, -np.inf]))
    assert accepted(verdicts, 0.5).tolist() == [True, False, False, False, False]
    assert accepted(verdicts, np.inf).tolist() == [True, True, False, False, False]
    assert not accepted(verdicts, -np.inf).any()
    told = reasons_withheld(verdicts, 0.5)
    assert told[1] == "upper bound on cost 1 is above the acceptance level 0.5"
    assert set(told[2:]) == {SCORE_UNAVAILABLE}


def test_recipes_that_name_no_fallback_have_the_one_of_decoders():
    assert DecodingSection().fallback == DEFAULT_FALLBACK
