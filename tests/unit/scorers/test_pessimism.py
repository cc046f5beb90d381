"""One pessimism for every reader of an ensemble, held against the standard library's statistics."""

import math
import statistics

import numpy as np
import pytest
import torch

from tailguard.artifacts.text import read_json, write_json
from tailguard.data.table import read_table, write_table
from tailguard.decoding.scoring import score_closed
from tailguard.errors import InputError, ScoreError
from tailguard.scorers.pair_metrics import pair_metrics
from tailguard.scorers.pessimism import (
    PessimisticCost,
    ScorerPair,
    pessimistic,
    require_pessimism,
    spread,
)
from tailguard.training.on_policy import combine_members

MEMBERS = np.array([[0.0, 1.0, 5.0], [2.0, 2.0, 2.0], [-1e3, 0.5, 7.0]])
LIBRARIES = [np.asarray, torch.as_tensor]


class Given:
    """The same members' scores for every answer."""

    def __init__(self, *members):
        self.members = members

    def score(self, prompts, responses):
        return np.tile(np.array(self.members, dtype=np.float64), (len(responses), 1))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("pessimism", [0.0, 0.5, 3.0, -1.0])
def test_mean_and_sample_deviation(library, pessimism):
    expected = [
        statistics.fmean(row) + pessimism * statistics.stdev(row) for row in MEMBERS.tolist()
    ]
    assert pessimistic(library(MEMBERS), pessimism).tolist() == pytest.approx(expected)
    deviations = [statistics.stdev(row) for row in MEMBERS.tolist()]
    assert spread(library(MEMBERS)).tolist() == pytest.approx(deviations)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_spread_of_a_single_member_is_unknown(library):
    single = library(np.array([[1.0], [2.0]]))
    assert all(math.isnan(value) for value in spread(single).tolist())
    assert pessimistic(single, 0.0).tolist() == [1.0, 2.0]
    for pessimism in (1e-9, -0.5, 2.0):
        with pytest.raises(InputError, match=r"at least 2 members.*set pessimism to 0"):
            pessimistic(single, pessimism)


def test_training_planning_and_decoding_read_the_same_cost():
    """Two members 0 and 1 at κ = 1: ½ + √½ = 1.21, not the 1.0 of the population's deviation."""
    expected = 0.5 + math.sqrt(0.5)
    scorer = Given(0.0, 1.0)
    trained = combine_members(scorer.score(["p"], ["a"]), 1, "cost", 1.0)
    planned = ScorerPair(scorer, PessimisticCost(scorer, 1.0, bound=10.0)).score(["p"], ["a"])
    decoded = score_closed(scorer, ["p"], ["a"], 1.0)
    assert trained.tolist() == planned.cost.tolist() == [decoded[0].bound]
    assert planned.cost[0] == pytest.approx(expected)


def test_costs_are_clipped_at_their_bound_and_never_guessed():
    cost = PessimisticCost(Given(0.0, 1.0), 1.0, bound=1.0)
    assert cost.score(["p"] * 2, ["a", "b"]).tolist() == [[1.0], [1.0]]
    with pytest.raises(ScoreError, match="cost"):
        cost.combine(np.array([[0.0, np.nan]]))
    with pytest.raises(InputError, match="at least 2 members"):
        PessimisticCost(Given(0.0), 1.0, bound=1.0).score(["p"], ["a"])
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(InputError, match="pessimism"):
            PessimisticCost(Given(0.0), wrong, bound=1.0)
        with pytest.raises(InputError, match="pessimism"):
            require_pessimism(wrong)


def test_an_unknown_spread_is_stored_as_unknown(tmp_path):
    pair = ScorerPair(Given(1.0), PessimisticCost(Given(2.0), 0.0, bound=10.0))
    scores = pair.score(["p"] * 3, ["a"] * 3)
    assert scores.cost.tolist() == [2.0] * 3
    assert np.isnan(scores.reward_std).all()
    assert np.isnan(scores.cost_std).all()
    found = {name: values for name, values in vars(scores).items() if values is not None}
    write_table(tmp_path / "bank.parquet", found)
    columns = read_table(tmp_path / "bank.parquet")
    assert all(math.isnan(value) for value in columns["cost_std"])
    assert columns["cost"] == [2.0] * 3
    write_json(tmp_path / "figures.json", {"spread": scores.cost_std})
    assert read_json(tmp_path / "figures.json") == {"spread": [None] * 3}


def test_figures_of_a_single_member_name_no_spread():
    margins = np.array([[1.0], [-0.5], [2.0]])
    rng = np.random.default_rng(0)
    figures = pair_metrics(margins, np.zeros_like(margins), generator=rng)
    assert all(math.isnan(figures[name]) for name in ("spread", "spread_auroc", "doubt_auroc"))
    assert figures["confidence_auroc"] == 1.0


class Shaped:
    """A scorer of somebody's own, which gives another shape than was asked for."""

    def __init__(self, *shape):
        self.shape = shape

    def score(self, prompts, responses):
        return np.zeros(self.shape)


@pytest.mark.parametrize("shape", [(2,), (2, 0), (2, 1, 1)])
def test_scores_of_another_shape_are_no_scores(shape):
    with pytest.raises(ScoreError, match=r"must be \[n, members\]"):
        PessimisticCost(Shaped(*shape), 0.0, 5.0).score(["a", "b"], ["c", "d"])
    cost = PessimisticCost(Given(0.0), 0.0, 5.0)
    with pytest.raises(ScoreError, match="reward: the scorer gave"):
        ScorerPair(Shaped(*shape), cost).score(["a", "b"], ["c", "d"])


def test_a_bound_that_is_no_number_bounds_nothing():
    with pytest.raises(InputError, match="bound: nan"):
        PessimisticCost(Given(0.0), 0.0, math.nan)
