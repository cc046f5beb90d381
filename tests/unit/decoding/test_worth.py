"""What an answer is worth: the regression against least squares, and what it makes of scores."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tests.unit.decoding.test_rule import random_pool

from tailguard.decoding.spline_ridge import SplineRidge
from tailguard.decoding.worth import AnswerScores, AnswerWorth
from tailguard.errors import InputError


class TestSplineRidge:
    def test_it_is_least_squares_on_its_basis(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(400, 3)), rng.normal(size=(400, 2))
        fitted = SplineRidge.fit(x, y, num_knots=2, ridge=0.01)
        basis = fitted.basis(x)
        assert basis.shape[1] == 1 + 3 * 3 + 3 * 9  # one, splines, and products of pairs
        # Ridge as least squares with rows of its own.
        rows = np.concatenate([basis / 20.0, 0.1 * np.eye(basis.shape[1])])
        targets = np.concatenate([y / 20.0, np.zeros((basis.shape[1], 2))])
        oracle = np.linalg.lstsq(rows, targets, rcond=None)[0]
        np.testing.assert_allclose(fitted.weights, oracle, atol=1e-8)

    def test_products_of_two_features_are_found(self):
        x = np.random.default_rng(1).uniform(-1, 1, size=(4000, 2))
        y = np.abs(x[:, :1]) * x[:, 1:] + 2 * x[:, :1]
        fresh = np.random.default_rng(2).uniform(-0.9, 0.9, size=(500, 2))
        found = SplineRidge.fit(x, y, num_knots=3, ridge=1e-6).predict(fresh)
        np.testing.assert_allclose(
            found, np.abs(fresh[:, :1]) * fresh[:, 1:] + 2 * fresh[:, :1], atol=0.03
        )

    @given(st.floats(0, 1e6), st.integers(0, 2))
    def test_beyond_its_rows_it_stays_where_it_was(self, beyond, feature):
        x = np.random.default_rng(3).normal(size=(60, 3))
        fitted = SplineRidge.fit(x, x[:, :1] ** 2)
        edge = np.median(x, axis=0, keepdims=True)
        edge[0, feature] = x[:, feature].max()
        far = edge.copy()
        far[0, feature] += beyond
        np.testing.assert_allclose(fitted.predict(far), fitted.predict(edge), atol=1e-6)

    @pytest.mark.parametrize(
        ("x", "y"),
        [
            (np.zeros((0, 2)), np.zeros((0, 1))),
            (np.full((3, 2), np.nan), np.zeros((3, 1))),
        ],
    )
    def test_what_it_refuses(self, x, y):
        with pytest.raises(InputError, match=r"features"):
            SplineRidge.fit(x, y)

    def test_a_feature_that_never_varies_does_no_harm(self):
        x = np.stack([np.arange(9.0), np.ones(9)], axis=1)
        assert np.isfinite(SplineRidge.fit(x, x[:, :1]).predict(x)).all()


def blind(seed=0):
    """Draws whose judge minds their length, of which the scorers know nothing."""
    pool = random_pool(seed, prompts=400)
    rng = np.random.default_rng(seed + 1)
    long = pool.num_tokens > 12  # a fifth of them
    noise = 0.1 * rng.normal(size=pool.reward.shape)
    cost = np.where(long, 2.0, -1.0) + 0.3 * noise
    return replace(pool, judged_reward=pool.reward - 3.0 * long + noise, judged_cost=cost)


def test_a_judge_tells_what_scorers_do_not_see():
    worth = AnswerWorth.fit([blind(0), blind(2)])
    fresh: Any = blind(5)
    reward, excess = worth.expected(AnswerScores.of_pool(fresh))
    assert np.corrcoef(reward.ravel(), fresh.judged_reward.ravel())[0, 1] > 0.95
    truth = np.maximum(fresh.judged_cost - worth.threshold, 0.0)
    assert np.corrcoef(excess.ravel(), truth.ravel())[0, 1] > 0.85  # knots stand beside the step
    assert abs(excess.mean() - truth.mean()) < 0.05
    utility = worth.utility(AnswerScores.of_pool(fresh), 2.0)
    np.testing.assert_allclose(utility, reward - 2.0 * excess)


def test_without_a_judge_scores_are_taken_at_their_word():
    pool = replace(random_pool(0), judged_cost=None, judged_reward=None)
    worth = AnswerWorth.fit([pool])
    assert worth.judged is None
    assert worth.threshold == pytest.approx(np.quantile(pool.cost_bound, 0.75))
    scores = AnswerScores.of_pool(pool)
    np.testing.assert_array_equal(worth.utility(scores, 0.0), pool.reward)
    excess = np.maximum(pool.cost_bound - worth.threshold, 0.0)
    np.testing.assert_allclose(worth.utility(scores, 3.0), pool.reward - 3.0 * excess)


@pytest.mark.parametrize("field", ["reward", "cost", "cost_bound"])
def test_answers_without_a_score_are_worth_nothing(field):
    pool = blind()
    broken = getattr(pool, field).copy()
    broken[3, 2] = np.inf if field == "cost_bound" else np.nan
    pool = replace(pool, **{field: broken})
    for worth in (AnswerWorth.fit([pool]), AnswerWorth(0.0)):
        for penalty in (0.0, 2.0):
            utility = worth.utility(AnswerScores.of_pool(pool), penalty)
            assert utility[3, 2] == -np.inf
            assert np.isfinite(np.delete(utility.ravel(), 3 * pool.num_draws + 2)).all()
    nothing = replace(pool, cost_bound=np.full_like(pool.cost_bound, np.inf))
    with pytest.raises(InputError, match="none has a finite score"):
        AnswerWorth.fit([nothing])


def test_an_unknown_spread_is_none():
    pool = blind()
    known = replace(pool, spread=np.zeros_like(pool.spread))
    unknown = replace(pool, spread=np.full_like(pool.spread, np.nan))
    found = [
        AnswerWorth.fit([each]).utility(AnswerScores.of_pool(each), 1.0)
        for each in (known, unknown)
    ]
    np.testing.assert_array_equal(found[0], found[1])
