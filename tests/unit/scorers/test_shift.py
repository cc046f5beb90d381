import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from tailguard.errors import InputError, ScoreError
from tailguard.scorers.readings import Reading, WorseReading, read_answers
from tailguard.scorers.score_map import MappedScorer, ScoreMap
from tailguard.scorers.shift import (
    FEWEST_FOR_SHIFT,
    ShiftModel,
    is_unlike,
    shift_limit,
    shrunk_covariance,
)


def _features(rng, num, lengths, centre=(0.0, 0.0, 0.0)):
    """Means over so many tokens of correlated features, two laws."""
    mixing = np.array([[1.0, 0.9, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 30.0]])
    drawn = rng.standard_normal((num, 2, 3)) @ mixing
    return np.array(centre) + drawn / np.sqrt(lengths)[:, None, None]


def test_the_shrunk_covariance_is_that_of_ledoit_and_wolf():
    rows = np.random.default_rng(0).standard_normal((12, 5)) * [1, 2, 3, 4, 5]
    rows -= rows.mean(axis=0)
    sample = rows.T @ rows / 12
    level = np.trace(sample) / 5
    # The paper's definitions, one row at a time.
    noise = sum(np.linalg.norm(np.outer(row, row) - sample) ** 2 for row in rows) / 12**2
    weight = min(noise / np.linalg.norm(sample - level * np.eye(5)) ** 2, 1.0)
    assert 0.1 < weight < 1.0
    expected = weight * level * np.eye(5) + (1 - weight) * sample
    np.testing.assert_allclose(shrunk_covariance(rows), expected)


def test_distance_is_that_of_mahalanobis_in_usual_deviations():
    rng = np.random.default_rng(1)
    lengths = np.full(4000, 20.0)
    model = ShiftModel.fit(_features(rng, 4000, lengths), lengths)
    fresh = _features(rng, 500, lengths[:500])
    found = model.distance(fresh, lengths[:500])
    # By the true covariance, log distances standardised by their own moments: nearly the same.
    mixing = np.array([[1.0, 0.9, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 30.0]])
    inverse = np.linalg.inv(mixing.T @ mixing / 20.0)
    each = 0.5 * np.log(np.einsum("nld,de,nle->nl", fresh, inverse, fresh))
    expected = ((each - each.mean(axis=0)) / each.std(axis=0)).max(axis=1)
    assert np.abs(found - expected).max() < 0.35
    assert np.corrcoef(found, expected)[0, 1] > 0.995


def test_length_is_no_shift_but_a_shifted_mean_is():
    rng = np.random.default_rng(2)
    lengths = rng.integers(5, 200, 4000).astype(float)
    model = ShiftModel.fit(_features(rng, 4000, lengths), lengths)
    short, long = np.full(800, 6.0), np.full(800, 150.0)
    for usual in (short, long):
        distance = model.distance(_features(rng, 800, usual), usual)
        assert abs(np.median(distance) - 0.5) < 0.35  # the larger of two standard normals, about
    far = model.distance(_features(rng, 800, long, centre=(0.5, -0.5, 0.0)), long)
    assert np.median(far) > 2.0
    # Unlike by one law is enough.
    one = _features(rng, 800, long)
    one[:, 1] += [0.5, -0.5, 0.0]
    assert np.median(model.distance(one, long)) > 2.0


def test_no_polynomial_is_followed_beyond_the_fitted_lengths_and_overflow_is_far():
    rng = np.random.default_rng(6)
    lengths = rng.integers(70, 110, 2000).astype(float)
    model = ShiftModel.fit(_features(rng, 2000, lengths), lengths)
    fresh = _features(rng, 50, np.full(50, 90.0))
    at = [model.distance(fresh, np.full(50, float(n))) for n in (110, 111, 4000)]
    np.testing.assert_array_equal(at[1], at[2])
    assert np.abs(at[0] - at[2]).max() < 0.2
    for broken in (np.nan, np.inf):
        fresh[0, 1, 2] = broken
        assert model.distance(fresh, np.full(50, 90.0))[0] == np.inf


def test_features_that_never_vary_and_few_rows():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((FEWEST_FOR_SHIFT, 1, 64))
    features[:, :, 7] = 3.0
    lengths = np.full(FEWEST_FOR_SHIFT, 9.0)
    model = ShiftModel.fit(features, lengths)
    assert np.isfinite(model.distance(features, lengths)).all()
    moved = features.copy()
    moved[:, :, 7] = 4.0  # what never varied now does
    assert (model.distance(moved, lengths) > model.distance(features, lengths) + 3).all()
    with pytest.raises(InputError, match="at least"):
        ShiftModel.fit(features[1:], lengths[1:])
    with pytest.raises(ScoreError, match="NaN"):
        ShiftModel.fit(np.where(features > 2.9, np.nan, features), lengths)


def test_arrays_that_are_no_law():
    rng = np.random.default_rng(4)
    model = ShiftModel.fit(rng.standard_normal((50, 2, 3)), np.full(50, 5.0))
    again = ShiftModel.from_arrays(model.to_arrays())
    fresh = rng.standard_normal((9, 2, 3))
    np.testing.assert_allclose(
        again.distance(fresh, np.full(9, 7.0)), model.distance(fresh, np.full(9, 7.0)), atol=1e-3
    )
    with pytest.raises(InputError, match="whitening"):
        ShiftModel.from_arrays(model.to_arrays() | {"whitening": np.ones((2, 3, 2))})
    with pytest.raises(InputError, match="not the law"):
        ShiftModel.from_arrays({"heads": np.ones(3)})


class Telling:
    """Scores by length; its shift is the length of the prompt."""

    def score(self, prompts, responses):
        return self.read(prompts, responses).scores

    def read(self, prompts, responses):
        scores = np.array([[len(r), len(r) + 1.0] for r in responses])
        return Reading(scores, np.array([float(len(p)) for p in prompts]))


class Silent:
    def score(self, prompts, responses):
        return np.zeros((len(responses), 1))


def test_shift_goes_through_what_wraps_a_scorer():
    score_map = ScoreMap(np.zeros(2), np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    scorer = WorseReading(MappedScorer(Telling(), score_map))
    found = read_answers(scorer, ["how", "why is it"], ["a", "bb"])
    scores, shift = found.scores, found.shift
    np.testing.assert_array_equal(shift, [3.0, 9.0])
    np.testing.assert_array_equal(scores, scorer.score(["how", "why is it"], ["a", "bb"]))
    assert scores[1, 0] == 4.0
    one = ScoreMap(np.zeros(1), score_map.knots, score_map.values)
    for silent in (Silent(), WorseReading(Silent()), MappedScorer(Silent(), one)):
        assert np.isnan(read_answers(silent, ["how"], ["a"]).shift).all()


@given(
    arrays(float, st.tuples(st.integers(1, 40), st.integers(1, 4)), elements=st.floats(-5, 5)),
    st.floats(0.01, 0.9),
)
def test_the_limit_is_the_smallest_that_keeps_the_rate(shift, rate):
    limit = shift_limit(shift, rate)
    num = len(shift)

    def risk(t):
        return ((shift > t).mean(axis=1).sum() + 1) / (num + 1)

    if np.isinf(limit):
        assert 1 / (num + 1) > rate
        return
    assert risk(limit) <= rate + 1e-9
    below = shift[shift < limit]
    if below.size:
        assert risk(below.max()) > rate - 1e-9


def test_the_limit_keeps_its_rate_on_fresh_prompts():
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(1000):
        # Draws of a prompt are alike, so that prompts, and not draws, are what is exchangeable.
        drawn = rng.standard_normal((260, 1)) + 0.3 * rng.standard_normal((260, 4))
        limit = shift_limit(drawn[:200], 0.05)
        rates.append((drawn[200:] > limit).mean())
    assert np.mean(rates) <= 0.05 + 2 * np.std(rates) / np.sqrt(1000)
    assert np.mean(rates) > 0.03


def test_what_is_unknown_is_not_flagged():
    assert shift_limit(np.full((500, 2), np.nan), 0.01) == np.inf
    # Where some is known, the rest counts as beyond: a limit would flag it.
    some = np.arange(1000.0).reshape(500, 2)
    some[0] = np.nan
    assert shift_limit(some, 0.01) == sorted(np.nan_to_num(some, nan=np.inf).ravel())[-9]
    some[1:20] = np.inf
    assert shift_limit(some, 0.01) == np.inf  # more than the rate are infinitely far
    assert is_unlike(np.array([np.nan, np.inf, 3.0, 2.0]), 2.5).tolist() == [
        True,
        True,
        True,
        False,
    ]
    assert not is_unlike(np.array([np.nan, np.inf, 3.0]), np.inf).any()
    assert shift_limit(np.arange(50.0)[:, None], 0.01) == np.inf  # 1 in 51 is more than the rate
    with pytest.raises(InputError, match="rate"):
        shift_limit(some, 1.0)
