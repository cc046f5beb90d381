"""What held-out answers show: coverage of the served cost, and what makes a bound say nothing."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tailguard.decoding.certificates import (
    judge_bound,
    scorer_bound,
    served_bounds,
    unscored_answers,
)
from tailguard.decoding.chosen import unscored
from tailguard.errors import InputError
from tailguard.risk import CVaR, predictable_risk_bound

TAIL = CVaR(0.1)


def bound(costs, abstained=None, level=2.0, confidence=0.9):
    abstained = np.zeros(len(costs), dtype=bool) if abstained is None else abstained
    return scorer_bound(
        np.asarray(costs, dtype=float),
        abstained,
        TAIL,
        level=level,
        largest_cost=10.0,
        confidence=confidence,
    )


def test_answers_below_the_level_are_covered_as_often_as_claimed():
    rng = np.random.default_rng(0)
    population = np.minimum(rng.normal(0.0, 1.0, 100_000), 2.0)
    truth = TAIL.value(population)
    bounds = [bound(rng.choice(population, 200)).value for _ in range(200)]
    assert sum(each < truth for each in bounds) <= stats.binom.ppf(0.999, 200, 0.1)
    assert truth < np.mean(bounds) < 2.0  # and the level alone says less


def test_a_fallback_does_not_stand_for_what_could_not_be_scored():
    served = [replace(unscored("no"), cost_upper_bound=-5.0)] * 40
    found = scorer_bound(*served_bounds(served), TAIL, level=2.0, largest_cost=10.0, confidence=0.9)
    assert found.value == 10.0
    sound = [replace(each, reason="above the level") for each in served]
    assert unscored_answers(served).all()
    assert not unscored_answers(sound).any()
    assert served_bounds(sound)[0].tolist() == [-5.0] * 40


def test_the_range_ends_at_the_level_and_a_wider_one_costs_dear():
    costs = np.minimum(np.random.default_rng(1).normal(0.0, 1.0, 200), 2.0)
    capped = bound(costs)
    assert capped.largest_cost == 2.0
    assert capped.value == predictable_risk_bound(costs, TAIL, upper=2.0, confidence=0.9)
    truth = TAIL.value(costs)
    assert judge_bound(costs, TAIL, 10.0, 0.9).value - truth > 2.0 * (capped.value - truth)


def test_a_costly_fallback_counts_in_full():
    costs, abstained = np.zeros(500), np.arange(500) < 100
    costs[abstained] = 3.0
    found = bound(costs, abstained)
    assert found.largest_cost == 3.0
    assert found.value == pytest.approx(3.0)  # every answer of the worst tenth is one


def test_an_answer_without_a_score_counts_as_the_largest_cost():
    costs, abstained = np.full(200, -1.0), np.arange(200) < 20
    costs[abstained] = np.inf
    assert bound(costs, abstained).value == pytest.approx(10.0)
    costs[:] = np.inf
    assert bound(costs, np.ones(200, dtype=bool)).value == pytest.approx(10.0)
    costs[:] = np.nan
    assert bound(costs, np.ones(200, dtype=bool)).value == pytest.approx(10.0)


def test_a_judges_verdicts_above_its_range_are_clipped_and_said():
    found = judge_bound(np.array([0.0] * 198 + [12.0, np.inf]), TAIL, 10.0, 0.95)
    assert found.num_clipped == 2
    assert 1.0 < found.value <= 10.0  # the worst twenty average one
    with pytest.raises(InputError, match="nan"):
        judge_bound(np.array([0.0, np.nan]), TAIL, 10.0, 0.95)
