"""Bounds from an ensemble whose members are given by hand."""

import math

import numpy as np
import pytest
import torch

from tailguard.errors import InputError
from tailguard.risk import CVaR
from tailguard.values import pessimistic_scorer
from tailguard.values.process_heads import HeadPrediction

REWARD = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]])
HINGE = torch.tensor([[[1.0, 0.4, 0.0], [2.0, 1.0, 0.5], [3.0, 2.0, 1.0]], [[1.0, 0.5, 0.1]] * 3])


class GivenHeads:
    thresholds = torch.tensor([-1.0, 0.0, 1.0])

    def __init__(self, members=3):
        self.members = members

    def predict(self, hidden):
        assert hidden.shape[0] == 2
        members = self.members
        return HeadPrediction(REWARD[:, :members], HINGE[:, :members], torch.zeros(2, members, 1))


def bounds(threshold, tail_mass, pessimism, members=3):
    scorer = pessimistic_scorer(
        GivenHeads(members), measure=CVaR(tail_mass), threshold=threshold, pessimism=pessimism
    )
    return scorer(torch.zeros(2, 4))


def test_doubt_lowers_reward_and_raises_penalty():
    reward, penalty = bounds(threshold=0.0, tail_mass=0.2, pessimism=1.5)
    members = 0.0 + np.array([0.4, 1.0, 2.0]) / 0.2  # ν + E(C − ν)₊/α
    assert float(reward[0]) == pytest.approx(3.0 - 1.5 * np.std([1, 2, 6], ddof=1))
    assert float(penalty[0]) == pytest.approx(members.mean() + 1.5 * members.std(ddof=1))
    # Members that agree have no doubt.
    assert float(reward[1]) == 0.0
    assert float(penalty[1]) == pytest.approx(0.5 / 0.2)


def test_without_pessimism_the_means_remain():
    reward, penalty = bounds(threshold=0.5, tail_mass=1.0, pessimism=0.0)
    assert float(reward[0]) == pytest.approx(3.0)
    assert float(penalty[0]) == pytest.approx(0.5 + np.mean([0.2, 0.75, 1.5]))
    assert float(bounds(0.5, 1.0, 0.0, members=1)[0][0]) == pytest.approx(1.0)


def test_one_member_has_no_known_doubt():
    with pytest.raises(InputError, match="pessimism"):
        bounds(0.0, 0.5, 1.0, members=1)


@pytest.mark.parametrize(
    ("tail_mass", "pessimism", "name"),
    [(0.0, 1.0, "tail_mass"), (1.5, 1.0, "tail_mass"), (0.5, -1.0, "pessimism"),
     (0.5, math.inf, "pessimism"), (0.5, math.nan, "pessimism")],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(tail_mass, pessimism, name):
    with pytest.raises(InputError, match=name):
        bounds(0.0, tail_mass, pessimism)
