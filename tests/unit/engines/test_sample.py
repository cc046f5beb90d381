"""Sampling against recomputation without a cache and against enumerated laws."""

from collections import Counter
from typing import Any, cast

import pytest
import torch
from tests.unit.engines.tiny_models import tiny_model

from tailguard.engines import (
    EngineMode,
    SinglePolicy,
    response_hidden_states,
    response_log_probs,
    sample_responses,
)
from tailguard.errors import InputError, ScoreError
from tailguard.models.policy import Policy, encode_prompts

PROMPTS = ["a b", "c", "b b a c a", "a"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompt_ids(policy, prompt):
    return policy.tokenizer(prompt)["input_ids"]


def recomputed(policy, prompt, response, oracle):
    ids = prompt_ids(policy, prompt)
    return sum(
        float(oracle(policy.model, [*ids, *response[:t]])[token])
        for t, token in enumerate(response)
    )


def test_log_probs_equal_a_recomputation_without_cache(policy, oracle):
    drawn = sample_responses(policy, PROMPTS, num_samples=3, max_new_tokens=10, generator=seeded(0))
    for i, response in enumerate(drawn.token_rows):
        expected = recomputed(policy, PROMPTS[drawn.prompt_index[i]], response, oracle)
        assert float(drawn.log_probs[i]) == pytest.approx(expected, abs=1e-4)


def test_greedy_takes_the_most_likely_token(policy, oracle):
    drawn = sample_responses(policy, PROMPTS, max_new_tokens=8, temperature=0.0)
    for prompt, response in zip(PROMPTS, drawn.token_rows, strict=True):
        ids = prompt_ids(policy, prompt)
        for t, token in enumerate(response):
            assert token == int(oracle(policy.model, [*ids, *response[:t]]).argmax())
    assert torch.equal(drawn.log_probs, torch.zeros(len(PROMPTS)))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_follow_the_enumerated_law(
    policy, oracle, enumerate_law, assert_follows, temperature
):
    def law_of_next(ids):
        return (oracle(policy.model, ids) / temperature).log_softmax(dim=-1)

    law = enumerate_law(law_of_next, prompt_ids(policy, "a b"), 3)
    assert sum(law.values()) == pytest.approx(1.0)
    drawn = sample_responses(
        policy,
        ["a b"],
        num_samples=8000,
        max_new_tokens=3,
        temperature=temperature,
        generator=seeded(1),
        batch_size=4000,
    )
    assert_follows(Counter(map(tuple, drawn.token_rows)), law)
    for i in range(50):
        expected = law[tuple(drawn.token_rows[i])]
        assert float(drawn.log_probs[i].exp()) == pytest.approx(expected, rel=1e-4)


def test_padding_and_batching_change_nothing(policy):
    drawn = [
        sample_responses(
            policy,
            PROMPTS,
            num_samples=5,
            max_new_tokens=9,
            generator=seeded(2),
            batch_size=batch_size,
        )
        for batch_size in (64, 7, 2, 1)
    ]
    for other in drawn[1:]:
        assert other.token_rows == drawn[0].token_rows
        torch.testing.assert_close(other.log_probs, drawn[0].log_probs)
        assert other.prompt_index.tolist() == [i // 5 for i in range(20)]


def test_a_response_ends_at_its_first_stop_token(policy):
    drawn = sample_responses(
        policy, PROMPTS, num_samples=40, max_new_tokens=12, generator=seeded(3)
    )
    assert {True, False} == set(drawn.finished.tolist())
    for response, text, length, finished in zip(
        drawn.token_rows, drawn.texts, drawn.lengths.tolist(), drawn.finished.tolist(), strict=True
    ):
        assert length == len(response)
        assert 0 not in response[:-1]
        assert (response[-1] == 0) == finished
        assert finished or length == 12
        assert "<end>" not in text
        assert len(text.split()) == length - finished


def test_prompts_are_read_once_and_tokens_one_by_one(policy, count_calls):
    calls = count_calls(policy)
    drawn = sample_responses(
        policy, ["a b c", "b"], num_samples=4, max_new_tokens=6, generator=seeded(4)
    )
    longest = int(drawn.lengths.max())
    assert calls[0] == (2, 3)
    assert all(tokens == 1 for _, tokens in calls[1:])
    assert len(calls) == drawn.num_passes == longest
    # The last token of a response is never read.
    assert calls[1][0] == 8


def test_more_samples_than_rows_share_one_reading(policy, count_calls):
    calls = count_calls(policy)
    drawn = sample_responses(
        policy, ["a b c"], num_samples=9, max_new_tokens=4, generator=seeded(5), batch_size=3
    )
    assert [tokens for _, tokens in calls].count(3) == 1
    assert len(calls) == drawn.num_passes
    assert drawn.lengths.shape == (9,)


def test_rows_that_ended_leave_the_batch(policy, count_calls):
    calls = count_calls(policy)
    drawn = sample_responses(
        policy, ["a b"], num_samples=200, max_new_tokens=20, generator=seeded(6), batch_size=200
    )
    rows_read = sum(rows for rows, tokens in calls if tokens == 1)
    assert rows_read < 0.6 * 200 * (int(drawn.lengths.max()) - 1)


def test_progress_counts_responses(policy):
    seen = []
    sample_responses(
        policy,
        PROMPTS,
        num_samples=3,
        max_new_tokens=2,
        batch_size=3,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(3, 12), (6, 12), (9, 12), (12, 12)]


def test_the_generator_decides(policy):
    def texts(seed):
        return sample_responses(
            policy, PROMPTS, num_samples=4, max_new_tokens=8, generator=seeded(seed)
        ).texts

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)


@pytest.mark.parametrize("argument", ["num_samples", "max_new_tokens", "batch_size"])
def test_counts_below_one_are_refused(policy, argument):
    arguments: dict[str, Any] = {"max_new_tokens": 2, argument: 0}
    with pytest.raises(InputError, match=argument):
        sample_responses(policy, ["a"], **arguments)


def test_nan_predictions_are_refused(build_llama, build_tokenizer):
    broken = Policy(build_llama(0), build_tokenizer())
    cast(Any, broken.model).lm_head.weight.data[1] = float("nan")
    with pytest.raises(ScoreError, match="NaN"):
        sample_responses(broken, ["a"], max_new_tokens=3)


def test_the_models_mode_is_restored(build_llama, build_tokenizer):
    policy = Policy(build_llama(0).train(), build_tokenizer())
    sample_responses(policy, ["a"], max_new_tokens=2)
    assert policy.model.training


def test_what_fills_up_a_row_may_lie_past_the_context(build_tokenizer, oracle):
    model = tiny_model("gpt2", vocab_size=4, n_positions=32, dtype=torch.float64)
    policy = Policy(model, build_tokenizer())
    prompts, responses = [" ".join(["a"] * 20), "b"], [[1, 2], [3] * 28]
    found = response_log_probs(policy, prompts, responses)
    for prompt, response, value in zip(prompts, responses, found.tolist(), strict=True):
        assert value == pytest.approx(recomputed(policy, prompt, response, oracle), abs=1e-4)


@torch.no_grad()
def test_forks_and_gathers_give_the_logits_of_reading_anew(policy, oracle):
    prompts = ["a b", "c a b"]
    ids = [prompt_ids(policy, p) for p in prompts]
    prefix, _ = SinglePolicy(policy, EngineMode()).prefill(encode_prompts(policy, prompts), 0)
    rows = prefix.fork(torch.tensor([0, 0, 1, 1]), 3)  # too little room: it must grow
    written = [[1], [2], [3], [1]]
    rows.step(torch.tensor([w[-1] for w in written]))
    for w, token in zip(written, (3, 1, 1, 2), strict=True):
        w.append(token)
    rows.step(torch.tensor([w[-1] for w in written]))

    def check(sources, **kwargs):
        rows.gather(torch.tensor(sources), **kwargs)
        nonlocal written, owners
        written = [[*written[s]] for s in sources]
        owners = [owners[s] for s in sources]
        tokens = [1 + (i % 3) for i in range(len(sources))]
        step = rows.step(torch.tensor(tokens), with_hidden=True)
        for i, token in enumerate(tokens):
            written[i].append(token)
            expected = oracle(policy.model, [*ids[owners[i]], *written[i]])
            torch.testing.assert_close(step.logits[i].log_softmax(-1), expected)

    owners = [0, 0, 1, 1]
    check([1, 1, 2, 2], shared_tokens=0)  # winners of each prompt, prefix shared
    check([0, 0, 3, 3], shared_tokens=2)
    check([3, 0])  # fewer rows, in another order
    check([1, 1, 0, 0, 1, 0])  # more rows than before
    check([0, 2, 5])
    # The rows that were forked from are untouched.
    again = prefix.fork(torch.tensor([1]), 2).step(torch.tensor([2]))
    torch.testing.assert_close(again.logits[0].log_softmax(-1), oracle(policy.model, [*ids[1], 2]))


def test_teacher_forcing_agrees_with_sampling_and_recomputation(policy, oracle):
    drawn = sample_responses(
        policy, PROMPTS, num_samples=4, max_new_tokens=7, temperature=0.7, generator=seeded(10)
    )
    prompts = [PROMPTS[i] for i in drawn.prompt_index]
    tempered = response_log_probs(policy, prompts, drawn.token_rows, temperature=0.7, batch_size=3)
    torch.testing.assert_close(tempered, drawn.log_probs, atol=1e-4, rtol=1e-4)
    plain = response_log_probs(policy, prompts, drawn.token_rows)
    for prompt, response, value in zip(prompts, drawn.token_rows, plain.tolist(), strict=True):
        assert value == pytest.approx(recomputed(policy, prompt, response, oracle), abs=1e-4)


def test_what_comes_out_may_meet_autograd(policy):
    """Inference tensors would be refused when saved for a backward pass."""
    drawn = sample_responses(policy, ["a b"], num_samples=3, max_new_tokens=4)
    states = response_hidden_states(policy, ["a b"], [[1, 2]], [[0, 1, 2]])[0]
    log_probs = response_log_probs(policy, ["a b"], [[1, 2]])
    for tensor in (drawn.token_ids, drawn.lengths, drawn.log_probs, states, log_probs):
        assert not tensor.is_inference()
    assert not torch.is_inference_mode_enabled()
