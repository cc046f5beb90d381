"""Hidden states of given answers, and input that does not fit together."""

import pytest
import torch

from tailguard.engines import response_hidden_states, tested_policy
from tailguard.errors import InputError


def test_hidden_states_feed_the_output_layer(policy, oracle):
    responses = [[1, 2, 3, 0], [2], [3, 3, 1]]
    prompts = ["a b", "c", "b b a c a"]
    positions = [[0, 2, 4], [1], []]
    states = response_hidden_states(policy, prompts, responses, positions, batch_size=2)
    assert [s.shape[0] for s in states] == [3, 1, 0]
    for prompt, response, wanted, found in zip(prompts, responses, positions, states, strict=True):
        ids = policy.tokenizer(prompt)["input_ids"]
        for position, state in zip(wanted, found, strict=True):
            logits = policy.model.lm_head(state.double())
            expected = oracle(policy.model, [*ids, *response[:position]])
            torch.testing.assert_close(logits.log_softmax(-1), expected, atol=1e-5, rtol=1e-5)


def test_hidden_states_are_read_without_logits(policy):
    """One position of a row gets logits in each pass, whatever the number of tokens."""
    tested_policy(policy)
    made = []
    hook = policy.model.lm_head.register_forward_hook(lambda _, __, logits: made.append(logits))
    try:
        response_hidden_states(policy, ["a b", "c"], [[1] * 9, [2, 3]], [[9], [1]])
    finally:
        hook.remove()
    assert [tuple(logits.shape[:2]) for logits in made] == [(2, 1), (2, 1)]


@pytest.mark.parametrize(
    ("prompts", "responses", "positions", "message"),
    [
        (["a"], [[1], [2]], [[0], [0]], "token_rows"),
        (["a"], [[1]], [[2]], r"positions\[0\]"),
        (["a"], [[1]], [], "positions"),
        (["a", "b"], [[1], [1] * 40], [[], []], r"token_rows\[1\]"),
    ],
)
def test_wrong_teacher_forcing_input_is_refused(policy, prompts, responses, positions, message):
    with pytest.raises(InputError, match=message):
        response_hidden_states(policy, prompts, responses, positions)
