"""The exact lab judges the planner and the sampler: independent enumeration, one truth."""

import numpy as np
import pytest
import torch
from scipy import stats

from tailguard.engines import sample_responses
from tailguard.lab.exact import exact_log_probs, exact_optimum, exact_policy, make_exact_world
from tailguard.planning import RiskConstraint, SampleBank, solve
from tailguard.risk import CVaR, Mean, MeanCVaR

KL_COEF = 0.25


@pytest.fixture(scope="module")
def lab():
    world = make_exact_world(4, 4, 2, seed=1)
    policy = exact_policy(world, seed=1)
    return world, policy, exact_log_probs(world, policy)


@pytest.mark.parametrize("measure", [Mean(), CVaR(0.1), CVaR(0.02), MeanCVaR(0.1, 0.5)], ids=repr)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_planner_finds_the_true_optimum_on_a_bank_of_everything(lab, measure, share):
    world, _, reference = lab
    free = exact_optimum(world, reference, measure, 1e9, KL_COEF).outcome
    least = float(measure.value_rows(world.cost.min(axis=1), np.full(2, 0.5)))
    budget = least + share * (free.risk - least)
    truth = exact_optimum(world, reference, measure, budget, KL_COEF).outcome
    bank = SampleBank(reward=world.reward, cost=world.cost, log_weight=reference)
    plan = solve(bank, RiskConstraint(measure, budget=budget), kl_coef=KL_COEF)
    assert plan.feasible
    assert plan.value == pytest.approx(truth.value, abs=1e-3)
    assert plan.value <= truth.value + 1e-6
    assert plan.risk <= budget + 1e-6


def test_sampled_responses_follow_the_enumerated_law(lab):
    world, policy, log_probs = lab
    drawn = sample_responses(
        policy,
        list(world.prompts),
        num_samples=2000,
        max_new_tokens=world.length,
        generator=torch.Generator().manual_seed(0),
        batch_size=2000,
    )
    index = world.response_index(drawn.texts).reshape(2, -1)
    expected = np.exp(log_probs)
    for row, law in zip(index, expected, strict=True):
        counts = np.bincount(row, minlength=len(law))
        assert stats.chisquare(counts, law / law.sum() * len(row)).pvalue > 1e-3
    told = np.take_along_axis(log_probs, index, axis=1).ravel()
    assert drawn.log_probs.numpy() == pytest.approx(told, abs=1e-4)
