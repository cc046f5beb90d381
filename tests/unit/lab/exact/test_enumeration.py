"""Exact laws against generation, token-by-token arithmetic and Monte-Carlo."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailguard.errors import InputError
from tailguard.lab.exact import (
    exact_log_probs,
    exact_outcome,
    exact_policy,
    log_prob_tensor,
    make_exact_world,
)
from tailguard.models.policy import Policy, encode_prompts
from tailguard.risk import CVaR


@pytest.fixture(scope="module")
def world():
    return make_exact_world(4, 4, 3)


@pytest.fixture(scope="module")
def policy(world):
    return exact_policy(world, seed=1)


@pytest.fixture(scope="module")
def log_probs(world, policy):
    return exact_log_probs(world, policy)


def test_probabilities_sum_to_one_and_are_neither_uniform_nor_alike(world, log_probs):
    law = np.exp(log_probs)
    assert law.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    entropy = -(law * log_probs).sum(axis=1)
    assert (entropy < np.log(256) - 0.1).all()
    assert (entropy > 0.5 * np.log(256)).all()
    assert np.abs(law[0] - law[1]).sum() > 0.1
    strangers = np.exp(exact_log_probs(world, exact_policy(world, seed=2)))
    assert np.abs(law - strangers).sum(axis=1).min() > 0.1


def test_the_largest_world_is_enumerated():
    world = make_exact_world(8, 6, 1)
    law = np.exp(exact_log_probs(world, exact_policy(world, width=16)))
    assert law.shape == (1, 262_144)
    assert law.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_response_has_the_product_of_its_tokens_probabilities(world, policy, log_probs):
    text = world.texts([137])[0]
    ids = policy.tokenizer(f"p2 {text}", add_special_tokens=False)["input_ids"]
    total = 0.0
    for end in range(1, len(ids)):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([ids[:end]])).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[ids[end]])
    assert log_probs[2, 137] == pytest.approx(total, abs=1e-5)


def test_batches_do_not_change_the_law(world, policy, log_probs):
    assert exact_log_probs(world, policy, batch_size=7) == pytest.approx(log_probs, abs=1e-5)


def test_generation_follows_the_law(world, policy, log_probs):
    draws = 6000
    prompt = encode_prompts(policy, [world.prompts[1]], world.length)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = policy.model.generate(
            input_ids=prompt.token_ids.expand(draws, -1),
            attention_mask=prompt.mask.expand(draws, -1).long(),
            do_sample=True,
            top_k=0,
            max_new_tokens=world.length,
        )
    texts = policy.tokenizer.batch_decode(
        out[:, prompt.token_ids.shape[1] :], skip_special_tokens=True
    )
    seen = np.bincount(world.response_index(texts), minlength=256)
    expected = np.exp(log_probs[1]) * draws
    assert stats.chisquare(seen, expected / expected.sum() * draws).pvalue > 1e-3
    wrong = np.exp(log_probs[0]) * draws
    assert stats.chisquare(seen, wrong / wrong.sum() * draws).pvalue < 1e-6


def test_exact_figures_are_the_limit_of_monte_carlo(world, log_probs):
    rng = np.random.default_rng(3)
    reference = np.full_like(log_probs, -np.log(256))
    outcome = exact_outcome(world, log_probs, reference, CVaR(0.1), kl_coef=0.5)
    law = np.exp(log_probs)
    draws = 200_000
    pooled = (law / law.sum()).ravel()
    prompts, drawn = np.divmod(rng.choice(pooled.size, draws, p=pooled), 256)
    reward, cost = world.reward[prompts, drawn], world.cost[prompts, drawn]
    assert outcome.reward == pytest.approx(reward.mean(), abs=0.01)
    assert outcome.cost == pytest.approx(cost.mean(), abs=0.02)
    assert outcome.risk == pytest.approx(CVaR(0.1).value(cost), rel=0.02)
    assert outcome.unsafe_rate == pytest.approx(np.mean(cost > 0), abs=0.005)
    ratio = log_probs[prompts, drawn] + np.log(256)
    assert outcome.kl_nats == pytest.approx(ratio.mean(), abs=0.01)
    assert outcome.value == pytest.approx(outcome.reward - 0.5 * outcome.kl_nats)


def test_the_reference_is_no_distance_from_itself(world, log_probs):
    outcome = exact_outcome(world, log_probs, log_probs, CVaR(0.1), kl_coef=1.0)
    assert outcome.kl_nats == pytest.approx(0.0, abs=1e-9)


def test_gradients_flow_through_the_exact_objective(world, policy):
    reward = torch.tensor(world.reward)
    value = (log_prob_tensor(world, policy).exp() * reward).sum(1).mean()
    weight = policy.model.lm_head.weight
    (gradient,) = torch.autograd.grad(value, [weight])
    step = 1e-3
    direction = gradient / gradient.norm()
    with torch.no_grad():
        weight.add_(step * direction)
        moved = (log_prob_tensor(world, policy).exp() * reward).sum(1).mean()
        weight.sub_(step * direction)
    assert float(moved - value.detach()) / step == pytest.approx(float(gradient.norm()), rel=0.02)


def test_a_mixture_is_enumerated_through_its_logits(world, policy, log_probs):
    other = exact_policy(world, seed=2)

    def mixed(ids):
        parts = [p.model(input_ids=ids).logits.log_softmax(-1) for p in (policy, other)]
        return 0.5 * parts[0] + 0.5 * parts[1]

    law = exact_log_probs(world, policy, mixed)
    assert np.exp(law).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert np.abs(law - log_probs).max() > 0.1
    assert exact_log_probs(world, policy, lambda ids: policy.model(input_ids=ids).logits) == (
        pytest.approx(log_probs)
    )


def test_a_policy_that_ends_early_is_refused(world):
    leaky = exact_policy(world, seed=1)
    with torch.no_grad():
        cast(Any, leaky.model).lm_head.weight[world.num_tokens + 1] = 0.0
    with pytest.raises(InputError, match="leaves this world"):
        exact_log_probs(world, leaky)


def test_the_checkpoint_is_a_stock_one(world, policy, log_probs, tmp_path):
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    again = Policy(model.eval(), AutoTokenizer.from_pretrained(tmp_path))
    assert exact_log_probs(world, again) == pytest.approx(log_probs, abs=1e-6)


def test_training_mode_is_left_as_it_was(world, policy):
    policy.model.train()
    exact_log_probs(world, policy)
    assert policy.model.training
    policy.model.eval()
