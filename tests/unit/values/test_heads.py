"""Process heads: ridge regression against a closed form, and what they promise of a fresh prompt."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tailguard.errors import InputError, ScoreError
from tailguard.values import HeadData, ProcessHeads

WIDTH, CHECKPOINTS = 6, (4, 8)


def made(rng, num_prompts=400, per_prompt=5, noise=0.3):
    """Answers whose reward and cost are linear in state and point, but for noise that shrinks on the way."""
    n = num_prompts * per_prompt
    index = np.repeat(np.arange(num_prompts), per_prompt)
    points = rng.standard_normal((n, 2))
    final = rng.standard_normal((n, WIDTH)) + rng.standard_normal((num_prompts, WIDTH))[index]
    states = np.stack([final + s * rng.standard_normal((n, WIDTH)) for s in (1.0, 0.3)], axis=1)
    reward = final @ np.linspace(-1, 1, WIDTH) + points[:, 0] + noise * rng.standard_normal(n)
    cost = final @ np.linspace(1, 0, WIDTH) - points[:, 1] + noise * rng.standard_normal(n)
    ended = rng.random(n) < 0.1
    states[ended, 1] = np.nan
    return HeadData(states, points, reward, cost, index)


@pytest.fixture(scope="module")
def heads():
    return ProcessHeads.fit(made(np.random.default_rng(0)), CHECKPOINTS, np.random.default_rng(1))


def test_with_much_data_it_is_the_best_linear_forecast(heads):
    """By the normal law of state and reward: E(final | state) = 2/(2 + s²) · state, s the noise."""
    rng = np.random.default_rng(2)
    states, points = rng.standard_normal((50, WIDTH)), rng.standard_normal((50, 2))
    for checkpoint, noise in enumerate((1.0, 0.3)):
        share = 2.0 / (2.0 + noise**2)
        found = heads.foresee(checkpoint, states, points)
        reward = share * states @ np.linspace(-1, 1, WIDTH) + points[:, 0]
        cost = share * states @ np.linspace(1, 0, WIDTH) - points[:, 1]
        assert np.abs(found.reward - reward).max() < 0.35
        assert np.abs(found.cost - cost).max() < 0.35
        assert np.corrcoef(found.cost, cost)[0, 1] > 0.99


def test_the_upper_quantile_covers_nine_of_ten_fresh_answers():
    rates = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        heads = ProcessHeads.fit(made(rng), CHECKPOINTS, rng)
        fresh = made(rng, num_prompts=200)
        found = heads.foresee(0, fresh.states[:, 0], fresh.points)
        rates.append((fresh.cost <= found.cost_upper).mean())
    # Answers of one prompt are alike, so that a single fit's coverage varies by more than 1/√n.
    assert abs(np.mean(rates) - 0.9) < 0.02
    assert np.std(rates) < 0.04


def test_hinges_are_what_costs_exceed_on_average(heads):
    fresh = made(np.random.default_rng(3), num_prompts=2000)
    found = heads.foresee(1, np.nan_to_num(fresh.states[:, 1]), fresh.points)
    there = np.isfinite(fresh.states[:, 1]).all(axis=1)
    for k, threshold in enumerate(heads.thresholds[:4]):
        excess = np.maximum(fresh.cost - threshold, 0.0)[there]
        forecast = found.hinge[there, k]
        assert 1.0 - ((excess - forecast) ** 2).mean() / excess.var() > 0.7


@given(st.integers(0, 2**32 - 1), st.floats(-8, 8))
def test_hinges_keep_to_jensen_and_fall_with_the_threshold_below_the_grid(heads_seed, threshold):
    rng = np.random.default_rng(heads_seed)
    thresholds = np.sort(rng.standard_normal(4))
    weights = rng.standard_normal((1, WIDTH + 3, 6))
    heads = ProcessHeads(np.array([4]), thresholds, weights, np.zeros(1))
    found = heads.foresee(0, rng.standard_normal((9, WIDTH)), rng.standard_normal((9, 2)))
    least = np.maximum(found.cost[:, None] - thresholds, 0.0)
    assert (found.hinge >= least - 1e-12).all()
    at = heads.hinge_at(found.hinge, threshold)
    np.testing.assert_allclose(
        heads.hinge_at(found.hinge, float(thresholds[2])), found.hinge[:, 2], atol=1e-9
    )
    if threshold < thresholds[0]:
        np.testing.assert_allclose(at, found.hinge[:, 0] + thresholds[0] - threshold)
    elif threshold > thresholds[-1]:
        np.testing.assert_allclose(at, found.hinge[:, -1])


def test_a_feature_that_never_varied_has_no_say_later():
    data = made(np.random.default_rng(4))
    data.states[:, :, 2] = 7.0
    heads = ProcessHeads.fit(data, CHECKPOINTS, np.random.default_rng(0))
    states = np.random.default_rng(5).standard_normal((3, WIDTH))
    moved = states.copy()
    moved[:, 2] += 1e6
    points = np.zeros((3, 2))
    np.testing.assert_allclose(
        heads.foresee(0, states, points).reward, heads.foresee(0, moved, points).reward
    )


def test_what_it_refuses(heads):
    data = made(np.random.default_rng(6), num_prompts=10)
    with pytest.raises(InputError, match=r"10 prompts more than 4 tokens long; heads need 20"):
        ProcessHeads.fit(data, CHECKPOINTS, np.random.default_rng(0))
    with pytest.raises(InputError, match="features"):
        heads.foresee(0, np.zeros((2, WIDTH + 1)), np.zeros((2, 2)))
    # A later checkpoint that too few answers reach is left out.
    data = made(np.random.default_rng(8))
    data.states[:, 1] = np.nan
    assert ProcessHeads.fit(data, CHECKPOINTS, np.random.default_rng(0)).checkpoints.tolist() == [4]
    broken = made(np.random.default_rng(7))
    broken.cost[3] = np.inf
    with pytest.raises(ScoreError, match="finite"):
        ProcessHeads.fit(broken, CHECKPOINTS, np.random.default_rng(0))
    arrays = heads.to_arrays()
    with pytest.raises(InputError, match="weights"):
        ProcessHeads.from_arrays(arrays | {"thresholds": np.zeros(3)})
    with pytest.raises(InputError, match="not process heads"):
        ProcessHeads.from_arrays({"centre": np.zeros(3)})
