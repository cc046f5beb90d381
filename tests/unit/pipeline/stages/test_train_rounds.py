"""Who is held out of training, and what a proposal makes a policy's target."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tailguard.config.recipe import TrainSection
from tailguard.pipeline.stages.train_rounds import held_out_prompts, target_of
from tailguard.planning import SampleBank, solve
from tailguard.portfolio import Proposal
from tailguard.risk import CVaR, Mean, RiskLimit

GENERATOR = np.random.default_rng(0)
BANK = SampleBank(GENERATOR.normal(size=(8, 16)), GENERATOR.normal(size=(8, 16)))


@given(st.integers(1, 500), st.integers(1, 9))
def test_a_quarter_is_held_out_where_there_are_rounds_and_nothing_where_there_are_none(num, rounds):
    held = held_out_prompts(num, rounds)
    assert held.shape == (num,)
    assert held.sum() == num // 4
    assert not held_out_prompts(num, 0).any()
    # What a recipe is checked against before it runs.
    assert TrainSection(num_rounds=rounds).num_held_out(num) == held.sum()
    # The same prompts in each round: what was trained on stays trained on.
    np.testing.assert_array_equal(held, held_out_prompts(num, rounds + 1))


def test_a_target_is_the_limit_that_it_was_planned_for():
    limit = RiskLimit(CVaR(0.5), 0.2)
    solution = solve(BANK, limit, kl_coef=0.5)
    target = target_of("strict", Proposal(0, solution, 0.2, 0.1))
    assert target.name == "strict"
    assert target.limit == limit
    assert target.figures.multiplier == pytest.approx(solution.multipliers[0])
    assert target.figures.multiplier > 0
    assert target.figures.threshold == pytest.approx(solution.thresholds[0])


@pytest.mark.parametrize("limit", [RiskLimit(Mean(), np.inf), RiskLimit(Mean(), 50.0)])
def test_without_a_limit_that_binds_the_policy_is_trained_without_one(limit):
    solution = solve(BANK, limit, kl_coef=0.5)
    assert target_of("loose", Proposal(0, solution, 0.2, 0.1)).limit is None
