"""Every architecture: what the engine does is what plain forward passes say, or it is refused by name.

The oracle is written here and shares nothing with the self-test: one unpadded row at a time, no
cache, and the output layer's own input.
"""

import logging
from typing import Any, cast

import pytest
import torch
from tests.unit.conftest import make_tokenizer
from tests.unit.engines.tiny_models import ARCHITECTURES, VOCAB_SIZE, tiny_model

from tailguard.engines import (
    response_hidden_states,
    response_log_probs,
    sample_responses,
    tested_policy as engine_of,
)
from tailguard.errors import InputError
from tailguard.models.policy import Policy, encode_prompts

WORDS = ["<end>", *(f"w{i}" for i in range(1, VOCAB_SIZE))]
PROMPTS = ["w3 w9 w27", "w5", "w40 w2 w11 w7 w7 w30 w21 w1 w19 w4 w33"]
TWO_BYTES = [
    "gpt2",
    "gemma2",
    "gpt_oss",
    "llama",
    "mamba2",
    "mistral",
    "mixtral",
    "qwen3",
    "zamba2",
]


def tiny_policy(name, **options) -> Policy:
    return Policy(cast(Any, tiny_model(name, **options)), make_tokenizer(WORDS))


@torch.no_grad()
def plainly(policy, token_ids):
    """Log-probabilities [tokens, vocab] and the output layer's input [tokens, hidden] of one row."""
    met = []
    layer = policy.model.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    try:
        row = torch.tensor([token_ids])
        logits = policy.model(input_ids=row, use_cache=False).logits
    finally:
        hook.remove()
    return logits[0].double().log_softmax(dim=-1), met[-1][0].float()


def follows_the_model(policy, tolerance, batch_size):
    drawn = sample_responses(
        policy,
        PROMPTS,
        num_samples=3,
        max_new_tokens=9,
        generator=torch.Generator().manual_seed(1),
        batch_size=batch_size,
    )
    prompts = [PROMPTS[i] for i in drawn.prompt_index]
    rows = drawn.token_rows
    positions = [[0, len(row) // 2, len(row)] for row in rows]
    forced = response_log_probs(policy, prompts, rows, batch_size=batch_size)
    states = response_hidden_states(policy, prompts, rows, positions, batch_size=batch_size)
    for i, row in enumerate(rows):
        prompt = policy.tokenizer(prompts[i])["input_ids"]
        laws, hidden = plainly(policy, [*prompt, *row])
        start = len(prompt) - 1
        expected = sum(float(laws[start + t, token]) for t, token in enumerate(row))
        allowed = tolerance * len(row)
        assert float(drawn.log_probs[i]) == pytest.approx(expected, abs=allowed)
        assert float(forced[i]) == pytest.approx(expected, abs=allowed)
        wanted = hidden[[start + position for position in positions[i]]]
        scale = float(wanted.square().mean().sqrt())
        assert float((states[i] - wanted).abs().mean()) <= tolerance * scale


@torch.no_grad()
def winners_are_gathered(policy, tolerance):
    """As guided decoding does it: fork, a block of tokens, the winner into all rows, the next."""
    engine = engine_of(policy)
    prompts = [policy.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    prefix, _ = engine.prefill(encode_prompts(policy, PROMPTS), 0)
    rows = prefix.fork(torch.arange(3).repeat_interleave(2), 8)
    written = [[*prompts[i // 2]] for i in range(6)]

    def step(tokens):
        found = rows.step(torch.tensor(tokens)).logits.double().log_softmax(dim=-1)
        for i, token in enumerate(tokens):
            written[i].append(token)
            expected = plainly(policy, written[i])[0][-1]
            # What hardly occurs is rounded more than it matters.
            assert float((found[i].exp() - expected.exp()).abs().sum()) <= tolerance

    step([1, 2, 3, 4, 5, 6])
    step([11, 12, 13, 14, 15, 16])
    rows.gather(torch.tensor([1, 1, 2, 2, 5, 5]), shared_tokens=0)
    written = [[*written[i]] for i in (1, 1, 2, 2, 5, 5)]
    step([7, 8, 9, 10, 17, 18])
    rows.gather(torch.tensor([4, 0, 3]))
    written = [[*written[i]] for i in (4, 0, 3)]
    step([20, 21, 22])
    step([23, 24, 25])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_engine_follows_plain_forward_passes(name, caplog):
    policy = tiny_policy(name)
    with caplog.at_level(logging.WARNING, logger="tailguard"):
        mode = engine_of(policy).mode
    told = [record.getMessage() for record in caplog.records if record.name.startswith("tailguard")]
    if mode.cached and mode.padded:
        assert told == []
    else:
        assert len(told) == 1
        assert type(policy.model).__name__ in told[0]
    follows_the_model(policy, 3e-4, batch_size=64)  # prompts of unlike lengths together
    follows_the_model(policy, 3e-4, batch_size=3)  # and each alone
    winners_are_gathered(policy, tolerance=2e-3)


@pytest.mark.parametrize("name", TWO_BYTES)
def test_weights_of_two_bytes(name):
    policy = tiny_policy(name, dtype=torch.bfloat16)
    follows_the_model(policy, 0.1, batch_size=64)
    winners_are_gathered(policy, tolerance=0.2)


@pytest.mark.parametrize("name", ["llama", "recurrent_gemma"])
def test_several_tokens_may_end_an_answer(name):
    policy = tiny_policy(name)
    cast(Any, policy.model).generation_config.eos_token_id = [5, 17, 30, 41]
    drawn = sample_responses(
        policy,
        PROMPTS,
        num_samples=20,
        max_new_tokens=12,
        generator=torch.Generator().manual_seed(2),
    )
    ends = {0, 5, 17, 30, 41}
    assert len({row[-1] for row in drawn.token_rows} & ends) >= 3
    for row, finished in zip(drawn.token_rows, drawn.finished.tolist(), strict=True):
        assert (row[-1] in ends) == finished
        assert not ends & set(row[:-1])


def test_ids_that_no_token_has_are_never_drawn():
    policy = Policy(cast(Any, tiny_model("llama")), make_tokenizer(WORDS[:20]))
    drawn = sample_responses(policy, ["w1", "w2 w3"], num_samples=50, max_new_tokens=8)
    assert int(drawn.token_ids.max()) < 20
    forced = response_log_probs(
        policy, [["w1", "w2 w3"][i] for i in drawn.prompt_index], drawn.token_rows
    )
    torch.testing.assert_close(forced, drawn.log_probs, atol=1e-4, rtol=1e-4)


def test_a_model_that_cannot_be_read_is_refused_by_name():
    policy = tiny_policy("xlstm", dtype=torch.bfloat16)  # its kernels mix types
    with pytest.raises(InputError, match="xLSTMForCausalLM"):
        sample_responses(policy, ["w1"], max_new_tokens=2)
