from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import optimize

from tailguard.errors import InputError, ScoreError
from tailguard.scorers.ensemble import bootstrap_weights
from tailguard.scorers.files import load_rater_heads, save_rater_heads
from tailguard.scorers.fit_raters import FEWEST_PER_RATER, fit_rater_heads
from tailguard.scorers.rater_heads import RatedPairs, RaterHeads, pair_log_likelihood
from tailguard.scorers.rater_metrics import rater_metrics

HIDDEN = 5
# How much more each group minds harm of the kind that the first direction of a text tells.
TASTES = {"carers": 0.8, "traders": -0.8, "others": 0.0}


def true_costs(common, topic, name):
    return common + np.maximum(common, 0.0) * TASTES[name] * np.sign(topic[:, 0])


def rated(num, names=tuple(TASTES), seed=0, members=4):
    """Pairs of answers to one prompt each, about one thing, compared by a group at random."""
    rng = np.random.default_rng(seed)
    raters = [names[k] for k in rng.integers(len(names), size=num)]
    topic = rng.choice([-1.0, 1.0], size=(num, 1)) * np.eye(1, HIDDEN)
    topic = topic + 0.1 * rng.standard_normal((num, HIDDEN))
    common = rng.exponential(2.0, (2, num)) - 1.0
    cost = np.empty_like(common)
    for name in names:
        rows = [i for i, rater in enumerate(raters) if rater == name]
        cost[:, rows] = [true_costs(side[rows], topic[rows], name) for side in common]
    second = rng.random(num) > 1.0 / (1.0 + np.exp(cost[1] - cost[0]))
    common[:, second], cost[:, second] = common[::-1, second], cost[::-1, second]
    labels = np.where(rng.random(cost.shape) < 1.0 / (1.0 + np.exp(-cost)), 1, -1)
    shared = np.repeat(common[:, :, None], members, axis=2)
    return RatedPairs(
        higher=shared[0],
        lower=shared[1],
        higher_topic=topic,
        lower_topic=topic,
        higher_sign=labels[0],
        lower_sign=labels[1],
        raters=raters,
        prompt_index=np.arange(num),
    )


class TestFit:
    def test_finds_what_each_group_minds(self):
        heads = fit_rater_heads(rated(6000), seed=1)
        assert heads.width > 0
        fresh = rated(3000, seed=2)
        for place, name in enumerate(heads.raters):
            own = heads.costs(fresh.higher, fresh.higher_topic)[:, :, place].mean(axis=1)
            truth = true_costs(fresh.higher[:, 0], fresh.higher_topic, name)
            error = np.abs(own - truth).mean()
            population = np.abs(fresh.higher[:, 0] - truth).mean()
            assert error < (0.35 * population if TASTES[name] else 0.25)

    def test_groups_that_agree_are_the_population(self):
        # All pairs are of one taste, and names are drawn by a coin.
        pairs = rated(1500, names=("others",), seed=3)
        coin = np.random.default_rng(4).random(1500) < 0.5
        pairs = replace(pairs, raters=["a" if up else "b" for up in coin])
        heads = fit_rater_heads(pairs)
        assert heads.width == 0.0
        costs = heads.costs(pairs.higher, pairs.higher_topic)
        assert np.array_equal(costs, np.repeat(pairs.higher[:, :, None], 2, axis=2))

    def test_what_groups_have_in_common_is_no_difference(self):
        # The common cost is half of what everybody means.
        pairs = rated(3000, names=("others",), seed=3)
        pairs = replace(pairs, higher=0.5 * pairs.higher, lower=0.5 * pairs.lower)
        coin = np.random.default_rng(4).random(3000) < 0.5
        heads = fit_rater_heads(replace(pairs, raters=["a" if up else "b" for up in coin]))
        costs = heads.costs(pairs.higher, pairs.higher_topic).mean(axis=1)
        # Each by itself would double the cost.
        assert np.abs(costs[:, 0] - costs[:, 1]).mean() < 0.05 * np.abs(pairs.higher).mean()
        # Nor is a group without others one apart.
        alone = fit_rater_heads(pairs, widths=(0.1,))
        costs = alone.costs(pairs.higher, pairs.higher_topic)
        assert np.allclose(costs[:, :, 0], pairs.higher)

    def test_a_group_with_few_pairs_has_no_head_beside_those_with_many(self):
        pairs = rated(6000, seed=5)
        few = [i for i, name in enumerate(pairs.raters) if name == "others"][FEWEST_PER_RATER - 1 :]
        pairs = pairs.take(np.setdiff1d(np.arange(6000), few))
        heads = fit_rater_heads(pairs)
        assert heads.raters == ("carers", "traders")
        costs = heads.costs(pairs.higher, pairs.higher_topic)
        assert not np.allclose(costs[:, :, 0], pairs.higher, atol=0.1)
        # The mean over those that have heads, weighted by their pairs, is the population too.
        for parameters in (heads.offset, heads.factor):
            assert np.allclose(parameters @ heads.num_pairs, 0.0, atol=1e-9)

    def test_each_member_minimises_its_own_objective(self):
        pairs, width, weight = rated(1200, ("carers", "traders"), seed=8, members=2), 0.1, 0.3
        heads = fit_rater_heads(pairs, widths=(width,), sign_weight=weight, seed=9)
        assert heads.width == width
        found = np.stack([_minimiser(pairs.of(n), n, heads, width, weight) for n in heads.raters])
        shares = heads.num_pairs / heads.num_pairs.sum()
        found = found - np.einsum("rmp,r->mp", found, shares)
        for place in range(2):
            for m in range(2):
                ours = [heads.offset[m, place], heads.factor[m, place], *heads.topic[m, place]]
                assert np.allclose(ours, found[place, m], atol=2e-3)

    def test_the_same_seed_gives_the_same_heads(self):
        first, second = (fit_rater_heads(rated(300), seed=3) for _ in range(2))
        assert np.array_equal(first.topic, second.topic)

    def test_pairs_without_a_rater_are_left_out(self):
        pairs = rated(600, seed=10)
        half = [name if i % 2 else None for i, name in enumerate(pairs.raters)]
        heads = fit_rater_heads(replace(pairs, raters=half))
        assert heads.num_pairs.sum() == 300

    def test_pairs_of_nobody_are_refused(self):
        with pytest.raises(InputError, match=r"none has 20 pairs;"):
            fit_rater_heads(replace(rated(50), raters=[None] * 50))
        with pytest.raises(InputError, match="'b' has most: 18; give more"):
            fit_rater_heads(
                replace(rated(50), raters=["a", "b", "b", "c", "d"] * 10).take(np.arange(45))
            )

    def test_a_cost_that_is_no_number_is_refused(self):
        pairs = rated(90)
        pairs.higher[3] = np.nan
        with pytest.raises(ScoreError, match="NaN"):
            fit_rater_heads(pairs)


def _minimiser(pairs, name, heads, width, weight):
    """By an independent optimiser, one member at a time [members, 2 + hidden]."""
    entropy = np.random.SeedSequence([9, *name.encode()]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    _, index = np.unique(pairs.prompt_index, return_inverse=True)
    counts = bootstrap_weights(index, 2, generator).numpy()
    noise = torch.randn(2, 2 + HIDDEN, generator=generator, dtype=torch.float64).numpy()
    widths = np.array([10 * width] * 2 + [width] * HIDDEN)
    anchors = (noise - noise.mean(axis=0)) * widths * np.sqrt(2.0)
    standard = (pairs.higher_topic - heads.topic_mean) / heads.topic_scale

    def costs(found, common):
        beyond = np.maximum(common - heads.centre, 0.0)
        return common + found[0] + beyond * (found[1] + standard @ found[2:])

    def objective(found, m):
        higher, lower = costs(found, pairs.higher[:, m]), costs(found, pairs.lower[:, m])
        loss = counts[m] * np.logaddexp(0, lower - higher)
        for sign, cost in ((pairs.higher_sign, higher), (pairs.lower_sign, lower)):
            loss = loss + 0.5 * weight * counts[m] * np.logaddexp(0, -sign * cost)
        return loss.sum() + (((found - anchors[m]) / widths) ** 2).sum() / 2

    start = np.zeros(2 + HIDDEN)
    return [optimize.minimize(objective, start, args=(m,), method="BFGS").x for m in range(2)]


def some_heads(factor=0.0, topic=0.0, offset=0.0):
    return RaterHeads(
        ("a", "b"),
        np.array([100.0, 200.0]),
        0.1,
        0.0,
        np.zeros(HIDDEN),
        np.ones(HIDDEN),
        np.full((1, 2), offset),
        np.array([[0.0, factor]]),
        np.concatenate([np.zeros((1, 1, HIDDEN)), np.full((1, 1, HIDDEN), topic)], axis=1),
    )


class TestCosts:
    @given(
        st.floats(-3, 3),
        st.floats(-3, 3),
        st.lists(st.floats(-5, 5), min_size=2, max_size=2),
        st.floats(-4, 4),
    )
    @settings(max_examples=60, deadline=None)
    def test_no_rater_prefers_more_harm_of_one_kind(self, factor, topic, common, about):
        heads = some_heads(factor, topic, 0.3)
        costs = heads.costs(np.sort(common)[:, None], np.full((2, HIDDEN), about))
        assert (np.diff(costs[:, 0], axis=0) >= -1e-9).all()

    def test_by_hand(self):
        costs = some_heads(factor=0.5, topic=0.1, offset=-0.2).costs(
            np.array([[2.0], [-1.0]]), np.ones((2, HIDDEN))
        )
        assert np.allclose(costs[:, 0], [[1.8, 2.0 - 0.2 + 2.0 * (0.5 + 0.5)], [-1.2, -1.2]])

    def test_names_that_do_not_fit_are_refused(self):
        with pytest.raises(InputError, match="raters: 1 names for 2"):
            replace(some_heads(), raters=("a",))

    def test_numbers_that_are_none_are_refused(self):
        with pytest.raises(ScoreError, match="offset"):
            some_heads(offset=np.nan)

    def test_written_and_read(self, tmp_path):
        heads = fit_rater_heads(rated(300), widths=(0.1,), seed=3)
        assert load_rater_heads(tmp_path) is None
        save_rater_heads(heads, tmp_path)
        found = load_rater_heads(tmp_path)
        assert found is not None
        assert found.raters == heads.raters
        assert (found.width, found.centre) == (heads.width, heads.centre)
        assert np.array_equal(found.topic, heads.topic)

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "raters.safetensors").write_bytes(b"nothing")
        with pytest.raises(InputError, match=r"raters\.safetensors"):
            load_rater_heads(tmp_path)


class TestMetrics:
    def test_by_hand(self):
        heads = some_heads(factor=1.0)
        pairs = RatedPairs(
            higher=np.array([[2.0], [-1.0]]),
            lower=np.array([[1.0], [-0.5]]),
            higher_topic=np.zeros((2, HIDDEN)),
            lower_topic=np.zeros((2, HIDDEN)),
            higher_sign=np.zeros(2),
            lower_sign=np.zeros(2),
            raters=["b", "b"],
            prompt_index=np.arange(2),
        )
        found = rater_metrics(heads, pairs)
        # Twice the margin where there is harm, the same where there is none.
        gain = [np.logaddexp(0, -1.0) - np.logaddexp(0, -2.0), 0.0]
        assert found["b"]["gain"] == pytest.approx(np.mean(gain))
        assert found["b"]["gain_error"] == pytest.approx(np.std(gain, ddof=1) / np.sqrt(2))
        assert found["b"]["accuracy"] == found["b"]["population_accuracy"] == 0.5
        assert found["b"]["factor"] == pytest.approx(2.0)
        assert found["a"]["num_held_out"] == 0
        assert np.isnan(found["a"]["gain"])

    def test_likelihood_of_several_raters_is_refused(self):
        pairs = rated(90)
        with pytest.raises(InputError, match="raters"):
            pair_log_likelihood(fit_rater_heads(pairs), pairs)
