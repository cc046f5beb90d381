"""What a bank accepts, converts and refuses."""

import numpy as np
import pytest
import torch

from tailguard.errors import InputError
from tailguard.planning import RiskConstraint, SampleBank, solve
from tailguard.risk import CVaR


def test_tensors_lists_and_integers_become_float64():
    bank = SampleBank(
        reward=torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True),
        cost=[[0, 1]],
        prompt_ids=["a"],
    )
    assert bank.reward.dtype == bank.cost.dtype == np.float64
    assert bank.reward.tolist() == [[1.0, 2.0]]
    assert bank.prompt_ids == ("a",)


def test_arrays_are_copies_and_read_only():
    reward = np.zeros((2, 3))
    bank = SampleBank(reward, np.ones((2, 3)))
    reward[0, 0] = 9.0
    assert bank.reward[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        bank.cost[0, 0] = 1.0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"reward": [[1.0, np.nan]]}, r"reward\[0, 1\] is nan"),
        ({"cost": [[1.0, np.inf]]}, r"cost\[0, 1\] is inf"),
        ({"reward": [1.0, 2.0]}, "reward must be"),
        ({"reward": np.zeros((0, 2)), "cost": np.zeros((0, 2))}, "not empty"),
        ({"cost": [[1.0, 2.0, 3.0]]}, r"got \(1, 3\)"),
        ({"cost": [[1.0], [2.0]]}, r"got \(2, 1\)"),
        ({"reward": [[1.0, 2.0], [3.0]]}, "rectangular"),
        ({"rater_weight": [1.0]}, "rater_weight needs a cost"),
        ({"cost": np.ones((1, 2, 2)), "rater_weight": [1.0]}, r"shape \(2,\)"),
        ({"cost": np.ones((1, 2, 2)), "rater_weight": [1.0, -1.0]}, "≥ 0"),
        ({"cost": np.ones((1, 2, 2)), "rater_weight": [0.0, 0.0]}, "positive sum"),
        ({"prompt_ids": ["a", "b"]}, "2 names for 1 prompts"),
        ({"log_weight": [[0.0]]}, "log_weight must have reward's shape"),
        ({"log_weight": [[0.0, np.nan]]}, "NaN"),
        ({"log_weight": [[-np.inf, -np.inf]]}, "leaves no sample in prompt 0"),
    ],
)
def test_wrong_input_is_named(fields, told):
    with pytest.raises(InputError, match=told):
        SampleBank(**({"reward": [[1.0, 2.0]], "cost": [[0.0, 1.0]]} | fields))


def test_rater_weights_are_scaled():
    bank = SampleBank([[1.0]], [[[0.0, 4.0]]], rater_weight=[1.0, 3.0])
    assert bank.average_raters(bank.cost).tolist() == [[3.0]]


def test_take_keeps_everything_of_the_chosen_prompts():
    cost = np.arange(12.0).reshape(3, 2, 2)
    bank = SampleBank(np.eye(3)[:, :2], cost, [1, 3], "abc", np.zeros((3, 2)))
    half = bank.take(np.array([True, False, True]))
    assert half.cost.tolist() == cost[[0, 2]].tolist()
    assert half.prompt_ids == ("a", "c")
    assert half.rater_weight is not None
    assert half.rater_weight.tolist() == [0.25, 0.75]


def test_left_out_samples_count_for_nothing(draw):
    reward, cost = draw("pareto", 4, 12, seed=0)
    weight = np.zeros((4, 15))
    weight[:, 12:] = -np.inf
    padded = SampleBank(
        np.pad(reward, ((0, 0), (0, 3)), constant_values=50.0),
        np.pad(cost, ((0, 0), (0, 3)), constant_values=-50.0),
        log_weight=weight,
    )
    for scope in ("pooled", "per_prompt"):
        for budget in (0.3, -40.0):
            constraint = RiskConstraint(CVaR(0.2), budget, scope)
            with_padding = solve(padded, constraint, 0.3)
            without = solve(SampleBank(reward, cost), constraint, 0.3)
            assert with_padding.feasible == without.feasible
            assert with_padding.smallest_reachable_risks == without.smallest_reachable_risks
            if without.feasible:
                assert with_padding.value == pytest.approx(without.value, abs=1e-4)
                assert with_padding.weights[:, 12:].max() == 0.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((CVaR(0.1), np.nan), "budget"),
        ((CVaR(0.1), -np.inf), "budget"),
    ],
)
def test_constraints_are_checked(arguments, told):
    with pytest.raises(InputError, match=told):
        RiskConstraint(*arguments)


@pytest.mark.parametrize("kl_coef", [0.0, -1.0, np.nan, np.inf])
def test_kl_coef_must_be_positive(kl_coef):
    bank = SampleBank([[1.0, 2.0]], [[0.0, 1.0]])
    with pytest.raises(InputError, match="kl_coef"):
        solve(bank, RiskConstraint(CVaR(0.5), 0.0), kl_coef)
