"""Units and zero of scores, against laws whose units and zero are known."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import expit

from tailguard.errors import InputError
from tailguard.scorers.calibration import calibrate_scores, estimate_zero
from tailguard.scorers.score_map import ScoreMap

OFFSETS = np.array([0.0, 5.0, -3.0])


def _pairs(warp, n, seed=0):
    """Bradley–Terry pairs of known utilities, and the scores that a warped scorer gives them."""
    generator = np.random.default_rng(seed)
    utility = generator.exponential(1.5, size=(2, n)) - 1.0
    swap = generator.random(n) > expit(utility[0] - utility[1])
    utility[:, swap] = utility[::-1, swap]
    noise = generator.normal(scale=0.02, size=(2, n, 3))
    scores = warp(utility)[..., None] + OFFSETS + noise
    return utility, scores


@pytest.mark.parametrize(
    "warp",
    [
        lambda u: u,
        lambda u: 3.0 * u + 7.0,
        lambda u: np.where(u < 1.0, u, 1.0 + 0.4 * (u - 1.0)),  # a tail that is flattened
    ],
)
def test_gives_back_the_utilities_whatever_the_scorer_made_of_them(warp):
    _, scores = _pairs(warp, 20_000)
    found = calibrate_scores(*scores)
    fresh, fresh_scores = _pairs(warp, 2000, seed=1)
    moved = found(fresh_scores[0]).mean(axis=1)
    slope, _ = np.polyfit(fresh[0], moved, 1)
    # Standard error of a slope from 20,000 pairs is about .015; knots do not sit on the kink.
    assert slope == pytest.approx(1.0, abs=0.08)
    tail = fresh[0] > 1.5
    assert np.polyfit(fresh[0][tail], moved[tail], 1)[0] == pytest.approx(1.0, abs=0.15)


def test_members_that_differ_by_offsets_only_agree_afterwards():
    _, scores = _pairs(lambda u: u, 500)
    moved = calibrate_scores(*scores)(scores[0])
    assert moved.std(axis=1, ddof=1).mean() < 0.1  # their own noise is .02; the offsets were 4


def test_a_scorer_that_knows_nothing_is_read_as_saying_nothing():
    generator = np.random.default_rng(3)
    higher, lower = generator.normal(size=(2, 4000, 1))
    found = calibrate_scores(higher, lower)
    assert np.ptp(found.values) < 0.25 * np.ptp(found.knots)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_order_is_kept_also_beyond_the_knots(seed, scale, shift):
    generator = np.random.default_rng(seed)
    higher = scale * (generator.normal(size=(60, 2)) + 0.5) + shift
    lower = scale * generator.normal(size=(60, 2)) + shift
    found = calibrate_scores(higher, lower)
    grid = np.linspace(shift - 9 * scale, shift + 9 * scale, 200)
    moved = found(np.stack([grid, grid], axis=1))
    assert (np.diff(moved, axis=0) > 0).all()
    assert ScoreMap.from_json(found.to_json())(higher) == pytest.approx(found(higher))


def test_refuses_what_has_no_units():
    with pytest.raises(InputError, match="at least 20"):
        calibrate_scores(np.zeros((5, 2)), np.ones((5, 2)))
    with pytest.raises(InputError, match="all alike"):
        calibrate_scores(np.zeros((50, 2)), np.zeros((50, 2)))
    nan, steps = float("nan"), [0.0, 1.0]
    for knots, values in (
        ([0.0], [1.0]),
        (steps, [1.0, 0.5]),
        (steps, [0.0, nan]),
    ):
        with pytest.raises(InputError):
            ScoreMap(np.zeros(1), np.array(knots), np.array(values))


@pytest.mark.parametrize("zero", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("slope", [0.7, 4.0])
def test_finds_the_zero_of_a_logistic_law_even_where_unsafe_is_rare(zero, slope):
    generator = np.random.default_rng(0)
    scores = zero - 1.0 + generator.normal(size=20_000)  # most answers are safe
    unsafe = generator.random(scores.size) < 1 / (1 + np.exp(-slope * (scores - zero)))
    # The zero's standard error is below .04 here: sd of a logistic regression's ratio estimate.
    assert estimate_zero(scores, unsafe) == pytest.approx(zero, abs=0.15)


def test_the_zero_moves_with_the_scores():
    generator = np.random.default_rng(1)
    scores = generator.normal(size=500)
    unsafe = scores + generator.normal(size=500) > 0.4
    moved = estimate_zero(3.0 * scores + 5.0, unsafe)
    assert moved == pytest.approx(3.0 * estimate_zero(scores, unsafe) + 5.0, abs=1e-2)


def test_separable_labels_give_a_zero_between_them():
    scores = np.concatenate([np.linspace(-3, -1, 20), np.linspace(1, 3, 20)])
    assert -1 < estimate_zero(scores, scores > 0) < 1


@pytest.mark.parametrize(
    ("scores", "unsafe"),
    [
        (np.zeros(20), np.ones(20, bool)),
        (np.zeros(3), np.zeros(3, bool)),
    ],
)
def test_labels_without_a_zero_are_refused(scores, unsafe):
    with pytest.raises(InputError):
        estimate_zero(scores, unsafe)
