"""Guidance against plain sampling, order statistics, and heads that know the truth."""

from collections import Counter
from typing import Any, cast

import pytest
import torch

from tailguard.decoding import Guidance, guide_responses
from tailguard.engines import (
    LogitMix,
    SamplingLaw,
    prompt_seeds,
    response_hidden_states,
    response_log_probs,
    sample_responses,
    tested_policy,
)
from tailguard.errors import InputError
from tailguard.values import PrefixScore


def by_projection(width=16, seed=0):
    """Scores that are fixed linear functions of the hidden state."""
    direction = torch.randn(width, 2, generator=torch.Generator().manual_seed(seed))

    def score(hidden):
        values = hidden.float() @ direction
        return PrefixScore(values[:, 0], values[:, 1])

    return score


def guide(policy, prompts, *, seed=0, max_new_tokens=12, batch_size=64, **guidance):
    settings: dict[str, Any] = {
        "block_tokens": 3,
        "score_prefix": by_projection(),
        "multiplier": 0.5,
    } | guidance
    return guide_responses(
        policy,
        prompts,
        Guidance(**settings),
        max_new_tokens=max_new_tokens,
        law=SamplingLaw(),
        seeds=prompt_seeds(seed, len(prompts)),
        batch_size=batch_size,
    )


PROMPTS = ["a b", "c", "b b a c a", "a"]


@pytest.mark.parametrize("block_tokens", [1, 3, 5, 100])
def test_one_candidate_is_plain_sampling(policy, block_tokens):
    prompts = PROMPTS * 10
    plain = guide(policy, prompts, num_candidates=1, score_prefix=None)
    guided = guide(policy, prompts, num_candidates=1, block_tokens=block_tokens)
    tokens = [g.candidates[0].token_ids for g in guided]
    assert tokens == [g.candidates[0].token_ids for g in plain]
    assert [g.num_tokens_generated for g in guided] == [len(t) for t in tokens]


def test_one_candidate_follows_the_plain_law(policy, oracle, enumerate_law, assert_follows):
    law = enumerate_law(
        lambda ids: oracle(policy.model, ids), policy.tokenizer("a b")["input_ids"], 3
    )
    guided = guide(
        policy,
        ["a b"] * 3000,
        num_candidates=1,
        block_tokens=2,
        max_new_tokens=3,
        batch_size=3000,
    )
    assert_follows(Counter(tuple(g.candidates[0].token_ids) for g in guided), law)


def test_best_of_k_follows_the_order_statistics(policy, oracle, enumerate_law, assert_follows):
    """Heads that know the value of each whole response exactly: the best of K independent draws."""
    prompt, k = "a b", 3
    law = enumerate_law(
        lambda ids: oracle(policy.model, ids), policy.tokenizer(prompt)["input_ids"], 3
    )
    responses = [list(response) for response in law]
    states = torch.cat(
        response_hidden_states(
            policy, [prompt] * len(law), responses, [[len(r)] for r in responses]
        )
    )
    value = torch.randperm(len(law), generator=torch.Generator().manual_seed(5)).float()

    def exact(hidden):
        nearest = torch.cdist(hidden.float(), states).argmin(dim=1)
        return PrefixScore(value[nearest], torch.zeros(hidden.shape[0]))

    # The best of K is outcome j with probability F(j)^K − F(j−1)^K.
    order = value.argsort()
    below = 0.0
    best_law = {}
    for j in order.tolist():
        mass = law[tuple(responses[j])]
        best_law[tuple(responses[j])] = (below + mass) ** k - below**k
        below += mass
    assert sum(best_law.values()) == pytest.approx(1.0)
    guided = guide(
        policy,
        [prompt] * 3000,
        num_candidates=k,
        block_tokens=3,
        max_new_tokens=3,
        score_prefix=exact,
        batch_size=9000,
    )
    assert_follows(Counter(tuple(g.candidates[0].token_ids) for g in guided), best_law)


def test_the_score_is_that_of_the_last_hidden_state(policy):
    guided = guide(policy, PROMPTS * 4, num_candidates=4, num_finalists=4)
    for prompt, result in zip(PROMPTS * 4, guided, strict=True):
        rows = [c.token_ids for c in result.candidates]
        states = response_hidden_states(
            policy, [prompt] * len(rows), rows, [[len(row)] for row in rows]
        )
        reward, penalty = by_projection()(torch.cat(states))
        for i, candidate in enumerate(result.candidates):
            assert candidate.reward_lower == pytest.approx(float(reward[i]), abs=1e-4)
            assert candidate.penalty_upper == pytest.approx(float(penalty[i]), abs=1e-4)
            expected = candidate.reward_lower - 0.5 * candidate.penalty_upper
            assert candidate.score == pytest.approx(expected, abs=1e-4)
        scores = [c.score for c in result.candidates]
        assert scores == sorted(scores, reverse=True)


def simulated(policy, prompt, uniform, oracle, *, block, scorer, multiplier):
    """Blockwise best-of-K spelled out, one unbatched recomputation at a time."""
    ids = policy.tokenizer(prompt)["input_ids"]
    num_candidates, num_tokens = uniform.shape
    prefix, reserve = [], []

    def scored(row):
        state = response_hidden_states(policy, [prompt], [row], [[len(row)]])[0]
        reward, penalty = scorer(state)
        return float(reward - multiplier * penalty)

    for start in range(0, num_tokens, block):
        live = []
        for k in range(num_candidates):
            row = list(prefix)
            for t in range(start, min(start + block, num_tokens)):
                probs = oracle(policy.model, [*ids, *row]).exp()
                row.append(int((probs.cumsum(0) > float(uniform[k, t])).nonzero()[0]))
                if row[-1] == 0:
                    break
            over = row[-1] == 0 or len(row) == num_tokens
            (reserve if over else live).append((scored(row), row))
        best_reserve = max(reserve, default=(-float("inf"), []))
        best_live = max(live, default=(-float("inf"), []))
        if best_live[0] <= best_reserve[0]:
            return best_reserve
        prefix = best_live[1]
    raise AssertionError


@pytest.mark.parametrize(("k", "block"), [(3, 2), (4, 5), (2, 1)])
def test_batched_guidance_equals_the_spelled_out_algorithm(policy, oracle, k, block):
    from tailguard.engines.sampling_law import uniform_draws

    prompts = PROMPTS * 3
    uniform = uniform_draws(prompt_seeds(11, len(prompts)), k, 9)
    guided = guide(policy, prompts, num_candidates=k, block_tokens=block, max_new_tokens=9, seed=11)
    lengths = set()
    for prompt, numbers, result in zip(prompts, uniform, guided, strict=True):
        score, row = simulated(
            policy, prompt, numbers, oracle, block=block, scorer=by_projection(), multiplier=0.5
        )
        assert result.candidates[0].token_ids == row
        assert result.candidates[0].score == pytest.approx(score, abs=1e-4)
        lengths.add(len(row))
    assert len(lengths) > 1  # some went on over several blocks


def test_a_prompt_does_not_depend_on_the_others(policy):
    prompts = PROMPTS * 3
    seeds = prompt_seeds(4, len(prompts))
    together = guide(policy, prompts, seed=4, num_candidates=3)
    small = guide(policy, prompts, seed=4, num_candidates=3, batch_size=1)
    alone = [
        guide_responses(
            policy,
            [prompt],
            Guidance(3, 3, by_projection(), 0.5),
            max_new_tokens=12,
            law=SamplingLaw(),
            seeds=[seed],
        )[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    texts = [g.candidates[0].text for g in together]
    assert texts == [g.candidates[0].text for g in small]
    assert texts == [g.candidates[0].text for g in alone]
    assert [g.num_tokens_generated for g in together] == [g.num_tokens_generated for g in alone]


def test_nothing_is_read_twice(policy, count_calls):
    calls = count_calls(policy)
    result = guide(policy, ["a b c"], num_candidates=4, block_tokens=2, max_new_tokens=6, seed=8)[0]
    assert calls[0] == (1, 3)
    assert all(tokens == 1 for _, tokens in calls[1:])
    # Each of at most 6 tokens is read once, the last one only for its score.
    assert len(calls) == result.num_forward_passes <= 1 + 6
    rows_read = sum(rows for rows, _ in calls[1:])
    assert result.num_tokens_generated <= rows_read <= 4 * 6


def test_more_candidates_raise_the_score(policy):
    prompts = PROMPTS * 20
    means = []
    for k in (1, 2, 8):
        guided = guide(policy, prompts, num_candidates=k, batch_size=256)
        means.append(sum(g.candidates[0].score for g in guided) / len(guided))
    assert means[0] < means[1] < means[2]


def test_a_nan_score_fails_its_prompt_alone(policy):
    calm = guide(policy, PROMPTS, num_candidates=3)
    poisoned_row = {"first": True}

    def sometimes(hidden):
        reward, penalty = by_projection()(hidden)
        if poisoned_row["first"]:
            penalty[4] = float("nan")  # a candidate of the second prompt of the batch
            poisoned_row["first"] = False
        return PrefixScore(reward, penalty)

    guided = guide(policy, PROMPTS, num_candidates=3, score_prefix=sometimes)
    assert sum(g.failed for g in guided) == 1
    for before, after in zip(calm, guided, strict=True):
        if after.failed:
            assert after.candidates == ()
        else:
            assert after.candidates[0].text == before.candidates[0].text


def test_nan_predictions_fail_every_prompt(build_llama, build_tokenizer):
    from tailguard.models.policy import Policy

    broken = Policy(build_llama(0), build_tokenizer())
    tested_policy(broken)  # which would refuse it; weights may also go bad later
    cast(Any, broken.model).lm_head.weight.data[1] = float("nan")
    for score_prefix, k in ((None, 1), (by_projection(), 2)):
        guided = guide(broken, PROMPTS, num_candidates=k, score_prefix=score_prefix)
        assert all(g.failed and not g.candidates for g in guided)


def test_a_mix_can_be_guided(policy, other_policy):
    mix = LogitMix([policy, other_policy], [0.5, 0.5])
    scorer = by_projection(width=32)
    guided = guide(mix, PROMPTS, num_candidates=3, score_prefix=scorer)
    for prompt, result in zip(PROMPTS, guided, strict=True):
        row = result.candidates[0].token_ids
        state = response_hidden_states(mix, [prompt], [row], [[len(row)]])[0]
        assert result.candidates[0].reward_lower == pytest.approx(float(scorer(state)[0]), abs=1e-4)


def test_unguided_draws_have_the_probability_they_claim(policy):
    drawn = sample_responses(policy, ["a b"] * 3, max_new_tokens=5)
    forced = response_log_probs(policy, ["a b"] * 3, drawn.token_rows)
    torch.testing.assert_close(forced, drawn.log_probs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_candidates": 0}, "num_candidates"),
        ({"num_candidates": 2, "block_tokens": 0}, "block_tokens"),
        ({"num_candidates": 2, "score_prefix": None}, "score_prefix"),
        ({"num_candidates": 2, "multiplier": -1.0}, "multiplier"),
        ({"num_candidates": 2, "max_new_tokens": 0}, "max_new_tokens"),
        ({"num_candidates": 2, "max_new_tokens": 31}, r"prompts\[0\] is too long"),
    ],
)
def test_wrong_arguments_are_refused(policy, wrong, message):
    with pytest.raises(InputError, match=message):
        guide(policy, ["a b"], **wrong)
    with pytest.raises(InputError, match="seeds"):
        guide_responses(
            policy,
            ["a"],
            Guidance(1, 1, None),
            max_new_tokens=1,
            law=SamplingLaw(),
            seeds=[1, 2],
        )
