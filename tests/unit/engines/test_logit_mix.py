"""The geometric mixture against its law by enumeration."""

from collections import Counter

import pytest
import torch

from tailguard.engines import LogitMix, response_hidden_states, response_log_probs, sample_responses
from tailguard.errors import InputError
from tailguard.models.policy import Policy

PROMPTS = ["a b", "c a b c"]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_a_mix_of_equal_models_is_the_model(policy):
    mix = LogitMix([policy, policy, policy], [0.2, 0.5, 0.3])
    alone = sample_responses(policy, PROMPTS, num_samples=6, max_new_tokens=8, generator=seeded(0))
    mixed = sample_responses(mix, PROMPTS, num_samples=6, max_new_tokens=8, generator=seeded(0))
    assert mixed.token_rows == alone.token_rows
    torch.testing.assert_close(mixed.log_probs, alone.log_probs)
    assert mixed.num_passes == 3 * alone.num_passes


def test_zero_weight_leaves_a_member_out(policy, other_policy):
    mix = LogitMix([policy, other_policy], [1.0, 0.0])
    assert mix.members == (policy,)


def test_frequencies_follow_the_enumerated_mixture(
    policy, other_policy, oracle, enumerate_law, assert_follows
):
    def mixed(ids):
        logits = 0.3 * oracle(policy.model, ids) + 0.7 * oracle(other_policy.model, ids)
        return logits.log_softmax(dim=-1)

    law = enumerate_law(mixed, policy.tokenizer("a b")["input_ids"], 3)
    mix = LogitMix([policy, other_policy], [0.3, 0.7])
    drawn = sample_responses(
        mix, ["a b"], num_samples=6000, max_new_tokens=3, generator=seeded(1), batch_size=3000
    )
    assert_follows(Counter(map(tuple, drawn.token_rows)), law)
    rows = [list(response) for response in law]
    forced = response_log_probs(mix, ["a b"] * len(rows), rows)
    torch.testing.assert_close(
        forced.exp().double(), torch.tensor(list(law.values()), dtype=torch.float64)
    )


def test_hidden_states_stand_side_by_side(policy, other_policy):
    mix = LogitMix([policy, other_policy], [0.5, 0.5])
    arguments = (["a b"], [[1, 2]], [[0, 2]])
    expected = torch.cat(
        [response_hidden_states(p, *arguments)[0] for p in (policy, other_policy)], dim=1
    )
    torch.testing.assert_close(response_hidden_states(mix, *arguments)[0], expected)


@pytest.mark.parametrize("weights", [[0.5], [0.7, 0.7], [-0.5, 1.5], [float("nan"), 1.0]])
def test_wrong_weights_are_refused(policy, other_policy, weights):
    with pytest.raises(InputError, match="weights"):
        LogitMix([policy, other_policy], weights)


def test_different_vocabularies_are_refused(policy, build_llama, build_tokenizer):
    other = Policy(build_llama(1), build_tokenizer(("<end>", "b", "a", "c")))
    with pytest.raises(InputError, match="vocabulary"):
        LogitMix([policy, other], [0.5, 0.5])
