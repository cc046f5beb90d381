"""The world's tables: every response once, scores as drawn, text and number agreeing."""

import numpy as np
import pytest
from scipy import stats

from tailguard.errors import InfeasibleError, InputError
from tailguard.lab.exact import TruthScorer, make_exact_world, truth_function
from tailguard.scorers.scorer import Scorer


def test_every_response_is_there_once_in_order():
    world = make_exact_world(3, 4, 2)
    assert world.responses.shape == (81, 4)
    assert len({tuple(row) for row in world.responses.tolist()}) == 81
    assert world.response_index(world.texts(np.arange(81))).tolist() == list(range(81))
    assert world.texts([5]) == ["0 0 1 2"]


def test_rewards_are_standardised_and_costs_have_a_heavy_tail():
    world = make_exact_world(8, 5, 1)
    assert world.reward.mean() == pytest.approx(0.0, abs=1e-12)
    assert world.reward.std() == pytest.approx(1.0)
    # Exceedances of Pareto(2.5): far beyond a normal's with the same spread.
    cost = world.cost[0]
    assert np.mean(cost > 0) == pytest.approx(2**-2.5, abs=0.03)
    assert stats.kurtosis(cost) > 10
    assert stats.spearmanr(world.reward[0], cost).statistic > 0.2


def test_seeds_and_prompts_differ():
    world, other = make_exact_world(seed=1), make_exact_world(seed=2)
    assert np.array_equal(world.reward, make_exact_world(seed=1).reward)
    assert not np.allclose(world.reward, other.reward)
    assert not np.allclose(world.cost[0], world.cost[1])


def test_the_truth_is_told_of_texts_and_chats():
    world = make_exact_world(3, 2, 2)
    prompts = ["p1", [{"role": "user", "content": "p0"}]]
    scorer = TruthScorer(world, "cost")
    assert isinstance(scorer, Scorer)
    expected = [world.cost[1, 5], world.cost[0, 3]]
    assert scorer.score(prompts, ["1 2", "1 0"])[:, 0].tolist() == expected
    told = truth_function(world, "reward")(
        prompts=prompts, completions=["1 2", [{"role": "assistant", "content": "1 0"}]], step=3
    )
    assert told == [world.reward[1, 5], world.reward[0, 3]]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda w: w.response_index(["0 1 2"]), "no response"),
        (lambda w: w.response_index(["0 3"]), "no response"),
        (lambda w: w.response_index(["0 x"]), "no response"),
        (lambda w: w.prompt_index(["p9"]), "no prompt"),
        (lambda _: make_exact_world(1, 4), "two tokens"),
        (lambda _: make_exact_world(10, 9), "too many"),
    ],
)
def test_what_is_not_of_the_world_is_named(call, said):
    with pytest.raises(InputError, match=said):
        call(make_exact_world(3, 2, 2))


def test_infeasible_is_another_kind_of_error():
    assert not issubclass(InfeasibleError, InputError)
