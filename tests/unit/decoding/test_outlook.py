"""Leaving off: only what does not pay, only beside something servable, and served as it is simulated."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import integrate, stats
from tests.unit.decoding.test_drawing import PRIOR, PROMPTS, SCORERS
from tests.unit.decoding.test_rule import random_pool

from tailguard.decoding.dial import DialEntry
from tailguard.decoding.drawing import draw_answers
from tailguard.decoding.outlook import Line, Outlook, Prospects, Stage
from tailguard.decoding.rule import Rule, simulate
from tailguard.decoding.worth import SCORERS_WORD, AnswerScores
from tailguard.engines import SamplingLaw
from tailguard.engines.draws import StartedPrompts
from tailguard.engines.prefix import PrefixWatch
from tailguard.errors import InputError
from tailguard.values import ProcessHeads

PLAIN = Line(1.0, 0.0, 0.5)


def stage(**changes):
    return replace(Stage(4, 10.0, PLAIN, PLAIN), **changes)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.floats(0.001, 0.2))
def test_going_on_pays_by_the_integral_over_what_may_come(utility, bound, best, price):
    made = stage()
    gain, _ = integrate.quad(
        lambda u: (u - best) * stats.norm.pdf(u, utility, 0.5), best, utility + 8, limit=200
    )
    worth = max(gain, 0.0) * stats.norm.cdf((1.0 - bound) / 0.5)
    pays = made.pays(
        np.array([utility]),
        np.array([bound]),
        best=np.array([best]),
        level=1.0,
        rate=np.array([price]),
    )
    if abs(worth - price * 10.0) > 1e-4:
        assert pays[0] == (worth > price * 10.0)


def test_without_anything_to_serve_and_at_price_zero_nothing_is_left_off():
    hopeless = {"utility": np.full(2, -99.0), "bound": np.full(2, 99.0)}
    options: Any = {"level": 0.0, "rate": np.full(2, 5.0)}
    found = stage().pays(**hopeless, best=np.array([-np.inf, 0.0]), **options)
    assert found.tolist() == [True, False]
    free = stage().pays(**hopeless, best=np.zeros(2), level=0.0, rate=None)
    assert free.all()


def test_lines_are_least_squares():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(500)
    y = 2.0 * x - 1.0 + 0.3 * rng.standard_normal(500)
    slope, intercept = np.polyfit(x, y, 1)
    found = Line.fit(x, y)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept))
    assert found.deviation == pytest.approx((y - slope * x - intercept).std())
    assert Line.fit(np.ones(9), y[:9]).slope == 0.0


def prospects_of(pool, rng, noise=0.2):
    """Forecasts that are nearly right, some draws being too short for the second checkpoint."""
    shape = (*pool.reward.shape, 2)
    utility = pool.reward[..., None] + noise * rng.standard_normal(shape)
    bound = pool.cost_bound[..., None] + noise * rng.standard_normal(shape)
    utility[pool.num_tokens <= 8, 1] = np.nan
    stages = (stage(tokens=2, rest=12.0), stage(tokens=8, rest=6.0))
    return Prospects(stages, utility, bound)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.05]), st.floats(-1, 1.5))
def test_simulated_step_by_step(seed, price, level):
    rng = np.random.default_rng(seed)
    pool = random_pool(rng, prompts=12, draws=6)
    prospects = prospects_of(pool, rng)
    rule = Rule(level, price, 6, PRIOR)
    found = simulate(pool, rule, prospects=prospects)
    plain = simulate(pool, rule)
    if price == 0.0:
        np.testing.assert_array_equal(found.num_tokens, plain.num_tokens)
        np.testing.assert_array_equal(found.served, plain.served)
    for i in range(12):
        # One prompt by hand.
        seen, tokens, best, served, rate = [], 0.0, -math.inf, -1, None
        for d in range(6):
            if d:
                u, a, f = (np.array([[row[k] for row in seen]]) for k in range(3))
                wants, rate = rule.next_draw(u, a, f)
                if not wants[0]:
                    break
            left = None
            for k, each in enumerate(prospects.stages):
                forecast = prospects.utility[i, d, k], prospects.bound[i, d, k]
                if d and left is None and np.isfinite(forecast[0]):
                    pays = each.pays(
                        *(np.array([x]) for x in forecast),
                        best=np.array([best]),
                        level=level,
                        rate=rate if price else None,
                    )
                    left = None if pays[0] else (each.tokens, *forecast)
            if left is not None:
                tokens += left[0]
                seen.append((left[1], left[2] <= level, False))
                continue
            admitted = pool.cost_bound[i, d] <= level
            tokens += pool.num_tokens[i, d]
            seen.append((pool.reward[i, d], admitted, True))
            if admitted and pool.reward[i, d] > best:
                best, served = pool.reward[i, d], d
        assert found.num_draws[i] == len(seen)
        assert found.num_tokens[i] == pytest.approx(tokens)
        assert found.served[i] == served
    # Nobody is left without an answer for it.
    np.testing.assert_array_equal(found.served < 0, plain.served < 0)


def test_leaving_off_saves_tokens_at_next_to_no_loss():
    rng = np.random.default_rng(1)
    pool = random_pool(rng, prompts=4000, draws=8)
    pool = replace(pool, num_tokens=np.full(pool.reward.shape, 16.0))
    prospects = prospects_of(pool, rng, noise=0.3)
    prospects = replace(
        prospects,
        stages=tuple(
            replace(s, utility=Line(1.0, 0.0, 0.3), bound=Line(1.0, 0.0, 0.3))
            for s in prospects.stages
        ),
    )
    rule = Rule(9.0, 0.002, 8, replace(PRIOR, tokens=16.0))
    off, on = simulate(pool, rule), simulate(pool, rule, prospects=prospects)
    value = [(each.reward - 0.002 * each.num_tokens).mean() for each in (off, on)]
    assert on.num_tokens.mean() < 0.8 * off.num_tokens.mean()
    assert value[1] > value[0]


def heads_for(width, members, checkpoints, seed=0):
    rng = np.random.default_rng(seed)
    weights = 0.3 * rng.standard_normal((len(checkpoints), width + members + 1, 4))
    return ProcessHeads(
        np.array(checkpoints), np.array([-0.5, 0.5]), weights, np.zeros(len(checkpoints))
    )


def test_what_is_served_is_what_is_simulated(soup):
    """All draws in full with what was foreseen of them, then the rule on the pool; and the decoder."""
    prompts, point = PROMPTS * 6, (0.4, 0.6)
    kept: dict[tuple[int, int], np.ndarray] = {}

    def look(checkpoint, rows, states):
        kept.update({(checkpoint, int(r)): s.numpy() for r, s in zip(rows, states, strict=True)})

    started = StartedPrompts(
        soup, prompts, [point] * 24, max_new_tokens=5, law=SamplingLaw(), watched=True
    )
    heads = heads_for(started.width, 2, (1, 3))
    lines = {0.0: (stage(tokens=1, rest=4.0), stage(tokens=3, rest=2.0))}
    outlook = Outlook(heads, 0.0, lines)
    index = [i for i in range(24) for _ in range(5)]
    seeds = [
        int(np.random.SeedSequence([500 + i, n]).generate_state(1, np.uint64)[0])
        for i in range(24)
        for n in range(5)
    ]
    draws = started.draw(index, seeds, PrefixWatch((1, 3), look))
    asked, texts = [prompts[i] for i in index], [draw.text for draw in draws]
    reward, cost = (each.score(asked, texts) for each in (SCORERS.reward, SCORERS.cost))
    shape = (24, 5)
    prospects = Prospects(lines[0.0], np.full((*shape, 2), np.nan), np.full((*shape, 2), np.nan))
    for (checkpoint, row), state in kept.items():
        place = (*divmod(row, 5), checkpoint)
        found = outlook.at(checkpoint, state[None], np.array([point]), 0.0)
        prospects.utility[place], prospects.bound[place] = (float(x[0]) for x in found)
    pool = random_pool(np.random.default_rng(0), prompts=24, draws=5)
    pool = replace(
        pool,
        reward=reward.mean(1).reshape(shape),
        cost_bound=(cost.mean(1) + cost.std(1, ddof=1)).reshape(shape),
        num_tokens=np.array([float(len(d.token_ids)) for d in draws]).reshape(shape),
    )
    rule = Rule(0.4, 0.01, 5, PRIOR)
    expected = simulate(pool, rule, prospects=prospects)
    served = draw_answers(
        soup,
        prompts,
        DialEntry(point, rule, 0.0),
        SCORERS,
        worth=SCORERS_WORD,
        outlook=outlook,
        seeds=list(range(500, 524)),
        law=SamplingLaw(),
        max_new_tokens=5,
        fallback="no",
    )
    plain = simulate(pool, rule)
    assert expected.num_tokens.sum() < plain.num_tokens.sum()  # some were left off
    assert [a.num_draws for a in served] == expected.num_draws.tolist()
    assert [a.num_tokens_generated for a in served] == expected.num_tokens.tolist()
    assert [a.text for a in served] == [
        texts[5 * i + k] if k >= 0 else "no" for i, k in enumerate(expected.served)
    ]


def test_lines_are_fitted_on_the_draws_that_get_there(soup):
    rng = np.random.default_rng(2)
    pool = random_pool(rng, prompts=50, draws=4)
    heads = heads_for(3, 1, (2, 6))
    foreseen = rng.standard_normal((50, 4, 2, 4))
    foreseen[pool.num_tokens <= 6, 1] = np.nan
    pool = replace(pool, foreseen=foreseen)
    utility = AnswerScores.of_pool(pool).reward
    outlook = Outlook.fit(heads, 0.0, [pool], {0.0: [utility], 2.0: [utility]})
    assert outlook is not None
    there = np.isfinite(foreseen[..., 1, 0])
    second = outlook.stages[0.0][1]
    assert second.tokens == 6
    assert second.rest == pytest.approx((pool.num_tokens[there] - 6).mean())
    slope, _ = np.polyfit(foreseen[there][:, 1, 0], utility[there], 1)
    assert second.utility.slope == pytest.approx(slope)
    again = Outlook.from_json(heads, 0.0, outlook.to_json())
    assert again.stages == outlook.stages
    assert np.isnan(outlook.of_pool(pool, 2.0).utility[~there, 1]).all()
    with pytest.raises(InputError, match="foreseen"):
        Outlook.fit(heads, 0.0, [replace(pool, foreseen=None)], {0.0: [utility]})
    with pytest.raises(InputError, match="checkpoints"):
        PrefixWatch((3, 3), lambda *_: None)
    unwatched = StartedPrompts(soup, PROMPTS, [(0.4, 0.6)] * 4, max_new_tokens=3, law=SamplingLaw())
    with pytest.raises(InputError, match="watched=True"):
        unwatched.draw([0], [1], PrefixWatch((1,), lambda *_: None))
