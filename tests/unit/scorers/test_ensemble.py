import numpy as np
import pytest
import torch
from scipy import optimize

from tailguard.errors import InputError, ScoreError
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.ensemble import (
    HeadFitting,
    PairFeatures,
    bootstrap_weights,
    fit_ensemble,
    fit_heads,
)
from tailguard.scorers.pairs import ResponsePairs

NUM_FEATURES = 8


def _pairs(num_prompts=150, per_prompt=3, seed=0, sign=True):
    """Features whose first two directions decide; the last two never vary in the data."""
    rng = np.random.default_rng(seed)
    n = num_prompts * per_prompt
    features = rng.standard_normal((2, n, NUM_FEATURES))
    features[..., -2:] *= 1e-2
    truth = np.array([1.5, -1.0] + [0.0] * (NUM_FEATURES - 2))
    value = features @ truth
    swap = rng.random(n) > 1 / (1 + np.exp(-(value[0] - value[1])))
    features[:, swap] = features[::-1, swap]
    higher, lower = features
    known = 1 if sign else 0
    return PairFeatures(
        higher=higher,
        lower=lower,
        higher_sign=known * np.sign(higher @ truth).astype(int),
        lower_sign=known * np.sign(lower @ truth).astype(int),
        prompt_index=np.repeat(np.arange(num_prompts), per_prompt),
    )


def _fit(pairs, **options):
    return fit_heads(
        pairs,
        torch.zeros(NUM_FEATURES),
        settings=HeadFitting(**options),
        generator=torch.Generator().manual_seed(5),
    ).numpy()


def test_each_head_minimises_its_own_objective():
    pairs = _pairs(num_prompts=30)
    heads = _fit(pairs, num_heads=4, prior_scale=0.5, num_iterations=300)
    generator = torch.Generator().manual_seed(5)
    counts = bootstrap_weights(pairs.prompt_index, 4, generator).numpy()
    scale = np.concatenate([pairs.higher, pairs.lower]).std(axis=0, ddof=1)
    noise = torch.randn(4, NUM_FEATURES, generator=generator).numpy()
    for m in range(4):  # an independent optimiser, one head at a time, in unscaled weights

        def objective(weight, m=m):
            margin = (pairs.higher - pairs.lower) @ weight
            loss = counts[m] @ np.logaddexp(0, -margin)
            for side, signs in (
                (pairs.higher, pairs.higher_sign),
                (pairs.lower, pairs.lower_sign),
            ):
                loss += 0.25 * counts[m] @ np.logaddexp(0, -signs * (side @ weight))
            return loss + ((weight * scale - 0.5 * noise[m]) ** 2).sum() / (2 * 0.5**2)

        best = optimize.minimize(objective, np.zeros(NUM_FEATURES), tol=1e-12)
        np.testing.assert_allclose(heads[m] * scale, best.x * scale, atol=2e-3)


def test_the_bootstrap_draws_prompts_not_rows():
    index = np.repeat(np.arange(50), 4)
    counts = bootstrap_weights(index, 6, torch.Generator().manual_seed(0)).numpy()
    by_prompt = counts.reshape(6, 50, 4)
    assert (by_prompt == by_prompt[:, :, :1]).all()
    assert (by_prompt[:, :, 0].sum(axis=1) == 50).all()
    # P(a prompt is left out) = (1 − 1/50)^50 = .364.
    assert 0.25 < (by_prompt[:, :, 0] == 0).mean() < 0.48


def test_members_agree_where_data_speak_and_differ_where_they_do_not():
    heads = _fit(_pairs(), num_heads=8, prior_scale=1.0)
    rng = np.random.default_rng(1)
    inside = rng.standard_normal((500, NUM_FEATURES))
    inside[:, -2:] *= 1e-2
    outside = inside.copy()
    outside[:, -2:] = rng.standard_normal((500, 2))
    spread_in = (inside @ heads.T).std(axis=1).mean()
    spread_out = (outside @ heads.T).std(axis=1).mean()
    assert spread_out > 5 * spread_in
    held_out = _pairs(seed=2)
    accuracy = ((held_out.higher - held_out.lower) @ heads.mean(axis=0) > 0).mean()
    ideal = (
        (held_out.higher - held_out.lower) @ np.eye(NUM_FEATURES)[:2].T @ [1.5, -1.0] > 0
    ).mean()
    assert accuracy > ideal - 0.02


def test_the_sign_loss_fixes_the_zero():
    """A constant feature cancels in every pair; only signs can tell where zero lies."""
    pairs = _pairs()
    shifted = PairFeatures(
        higher=np.c_[pairs.higher[:, :-1], np.ones(len(pairs.higher))],
        lower=np.c_[pairs.lower[:, :-1], 1.0 + 1e-3 * np.arange(len(pairs.lower)) % 2],
        higher_sign=np.ones(len(pairs.higher), dtype=int),
        lower_sign=np.ones(len(pairs.lower), dtype=int),
        prompt_index=pairs.prompt_index,
    )
    with_signs = _fit(shifted, sign_weight=1.0).mean(axis=0)
    without = _fit(shifted, sign_weight=0.0).mean(axis=0)
    assert (shifted.lower @ with_signs > 0).mean() > (shifted.lower @ without > 0).mean() + 0.15


def test_heads_on_a_scorer_keep_its_backbone_and_order_other_prompts(tiny_scorers):
    scorer = SequenceClassificationScorer(tiny_scorers.classifier(), tiny_scorers.tokenizer())
    prompts = [f"w{i}" for i in range(30)]
    pairs = ResponsePairs(prompts, ["good w1"] * 30, ["bad w2"] * 30)
    train, held_out = pairs.split_by_prompt(0.3, np.random.default_rng(0))
    ensemble, again = (fit_ensemble(scorer, train, seed=3) for _ in range(2))
    scores = ensemble.score(held_out.prompts, held_out.higher)
    assert scores.shape == (9, 8)
    np.testing.assert_array_equal(scores, again.score(held_out.prompts, held_out.higher))
    lower = ensemble.score(held_out.prompts, held_out.lower)
    assert (scores.mean(axis=1) > lower.mean(axis=1)).all()


def test_wrong_settings_and_features_are_refused():
    with pytest.raises(InputError, match="at least 4"):
        HeadFitting(num_heads=3)
    with pytest.raises(InputError, match="prior_scale"):
        HeadFitting(prior_scale=0.0)
    pairs = _pairs(num_prompts=5)
    pairs.higher[0, 0] = np.nan
    with pytest.raises(ScoreError, match="NaN"):
        _fit(pairs)
