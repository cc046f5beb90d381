"""The decoder's rule: its law in a small world, its limits, and what it may never do."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm

from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import DrawPrior, Rule, fit_prior, simulate
from tailguard.errors import InputError

PRIOR = DrawPrior(0.5, 0.3, 0.7, 3.0, 1.0, 10.0)


def pool_of(reward, bound, tokens=None, judged=None) -> Pool:
    reward, bound = np.asarray(reward, float), np.asarray(bound, float)
    prompts = len(reward)
    return Pool(
        reward=reward,
        cost=bound - 0.1,
        cost_bound=bound,
        spread=np.full(reward.shape, 0.1),
        num_tokens=np.full(reward.shape, 10.0) if tokens is None else np.asarray(tokens, float),
        fallback_reward=np.full(prompts, -1.0),
        fallback_cost=np.full(prompts, -2.0),
        fallback_cost_bound=np.full(prompts, -2.0),
        judged_cost=judged,
        judged_reward=None if judged is None else reward,
        fallback_judged_cost=np.full(prompts, -3.0),
        fallback_judged_reward=np.full(prompts, -1.0),
    )


def random_pool(seed: Any = 0, prompts=200, draws=8):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(prompts, 1))
    reward = mean + rng.normal(size=(prompts, draws))
    bound = rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, draws))
    return pool_of(reward, bound, rng.integers(5, 15, (prompts, draws)), judged=bound + 1)


def test_the_law_of_what_is_served_is_that_of_enumeration():
    """Two kinds of draw, all sequences of three: shares of each outcome against simulation."""
    values = [(1.0, 0.0, 0.5), (2.0, 0.0, 0.2), (3.0, 5.0, 0.3)]  # utility, bound, probability
    rule = Rule(1.0, 0.03, 3, PRIOR)
    exact: dict[float, float] = {}
    for sequence in itertools.product(values, repeat=3):
        chance = math.prod(p for _, _, p in sequence)
        pool = pool_of([[u for u, _, _ in sequence]], [[b for _, b, _ in sequence]])
        found = simulate(pool, rule)
        served = pool.reward[0, found.served[0]] if found.served[0] >= 0 else -1.0
        exact[served] = exact.get(served, 0.0) + chance
    assert sum(exact.values()) == pytest.approx(1.0)
    assert exact[-1.0] == pytest.approx(0.3**3)  # abstains iff all three draws are inadmissible
    rng = np.random.default_rng(1)
    kinds = rng.choice(3, size=(100_000, 3), p=[p for _, _, p in values])
    table = np.array(values)
    found = simulate(pool_of(table[kinds, 0], table[kinds, 1]), rule)
    for value, chance in exact.items():
        seen = float((found.reward == value).mean())
        assert abs(seen - chance) < 5 * math.sqrt(chance * (1 - chance) / 100_000) + 1e-9


def test_at_an_infinite_price_it_is_rejection_sampling():
    pool = random_pool()
    found = simulate(pool, Rule(0.3, math.inf, 8, PRIOR))
    admissible = pool.cost_bound <= 0.3
    first = np.where(admissible.any(axis=1), admissible.argmax(axis=1), -1)
    np.testing.assert_array_equal(found.served, first)
    np.testing.assert_array_equal(found.num_draws, np.where(first >= 0, first + 1, 8))
    tokens = [pool.num_tokens[p, : found.num_draws[p]].sum() for p in range(200)]
    np.testing.assert_allclose(found.num_tokens, tokens)


def test_at_price_zero_it_is_the_best_admissible_of_all():
    pool = random_pool(1)
    found = simulate(pool, Rule(0.3, 0.0, 8, PRIOR))
    utility = np.where(pool.cost_bound <= 0.3, pool.reward, -np.inf)
    best = np.where(np.isfinite(utility).any(axis=1), utility.argmax(axis=1), -1)
    np.testing.assert_array_equal(found.served, best)
    assert (found.num_draws == 8).all()


def test_with_a_known_law_it_stops_at_the_reservation_value():
    """Weitzman: stop iff the best is at least z with E(U − z)₊ = price of a draw."""
    mean, deviation, price = 0.4, 0.9, 0.02
    known = DrawPrior(mean, 0.0, deviation**2, 1.0, 0.0, 10.0)
    levels = np.linspace(-3, 4, 100_001)
    z = (mean - levels) / deviation
    gain = deviation * (z * norm.cdf(z) + norm.pdf(z))
    reservation = levels[np.argmin(np.abs(gain - price * known.tokens))]
    best = np.linspace(-2, 3, 501)[:, None]
    wants = Rule(0.0, price, 9, known).wants_draw(best, np.ones_like(best, dtype=bool))
    clear = np.abs(best[:, 0] - reservation) > 1e-3
    np.testing.assert_array_equal(wants[clear], (best[:, 0] < reservation)[clear])


@settings(max_examples=40)
@given(st.integers(0, 50), st.floats(-1, 2), st.floats(0.0, 0.2), st.floats(0.0, 0.2))
def test_dearer_tokens_are_never_more(seed, level, price, more):
    pool = random_pool(seed, prompts=30)
    prior = fit_prior(pool.reward, pool.cost_bound <= level, pool.num_tokens)
    cheap = simulate(pool, Rule(level, price, 8, prior))
    dear = simulate(pool, Rule(level, price + more, 8, prior))
    assert (dear.num_draws <= cheap.num_draws).all()
    assert (dear.reward <= cheap.reward + 1e-12)[dear.served >= 0].all()


@settings(max_examples=40)
@given(st.integers(0, 50), st.floats(-2, 2), st.floats(0.0, 0.2))
def test_nothing_inadmissible_is_ever_served(seed, level, price):
    pool = random_pool(seed, prompts=30)
    bound = pool.cost_bound.copy()
    bound[::3, 0] = np.inf  # no score
    bound[1::3, 1] = np.nan
    pool = pool_of(pool.reward, bound, judged=pool.judged_cost)
    found = simulate(pool, Rule(level, price, 8, PRIOR))
    served = found.served >= 0
    assert (found.cost_bound[served] <= level).all()
    assert (found.reward[~served] == -1.0).all()
    assert found.judged_cost is not None
    assert (found.judged_cost[~served] == -3.0).all()
    everything = simulate(pool, Rule(math.inf, price, 8, PRIOR))
    assert np.isfinite(everything.cost_bound).all()


def test_later_draws_do_not_change_earlier_decisions():
    pool = random_pool(4)
    rule = Rule(0.3, 0.02, 8, PRIOR)
    before = simulate(pool, rule)
    changed = pool.reward.copy()
    for p, n in enumerate(before.num_draws):
        changed[p, n:] = 100.0
    after = simulate(pool_of(changed, pool.cost_bound, pool.num_tokens), rule)
    np.testing.assert_array_equal(before.num_draws, after.num_draws)
    np.testing.assert_array_equal(before.served, after.served)


def test_the_prior_is_recovered():
    rng = np.random.default_rng(0)
    mean = 0.7 + 0.5 * rng.normal(size=(4000, 1))
    utility = mean + 1.2 * rng.normal(size=(4000, 6))
    share = rng.beta(2.0, 3.0, size=(4000, 1))
    found = fit_prior(utility, rng.random((4000, 6)) < share, np.full((4000, 6), 9.0))
    assert found.mean == pytest.approx(0.7, abs=0.05)
    assert found.between == pytest.approx(0.25, abs=0.06)
    assert found.within == pytest.approx(1.44, rel=0.05)
    assert found.admissible == pytest.approx(2.0, rel=0.2)
    assert found.inadmissible == pytest.approx(3.0, rel=0.2)
    assert found.tokens == 9.0


def test_balanced_prompts_are_answered_or_withheld_rightly():
    """Half of the prompts have an admissible answer in a third of draws, half have none."""
    rng = np.random.default_rng(0)
    feasible = np.arange(2000) % 2 == 0
    share = np.where(feasible, 1 / 3, 0.0)[:, None]
    bound = np.where(rng.random((2000, 16)) < share, -1.0, 1.0)
    pool = pool_of(rng.normal(size=(2000, 16)), bound)
    found = simulate(pool, Rule(0.0, 0.05, 16, PRIOR))
    withheld = found.served < 0
    assert withheld[~feasible].all()
    assert withheld[feasible].mean() < 0.05


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"level": math.nan}, "level"),
        ({"token_price": -0.1}, "token_price"),
        ({"max_draws": 0}, "max_draws"),
    ],
)
def test_rules_that_can_only_be_mistakes(fields, said):
    with pytest.raises(InputError, match=said):
        Rule(**{"level": 0.0, "token_price": 0.1, "max_draws": 2, "prior": PRIOR} | fields)
    with pytest.raises(InputError, match="max_draws: 9 of 8"):
        simulate(random_pool(), Rule(0.0, 0.1, 9, PRIOR))
