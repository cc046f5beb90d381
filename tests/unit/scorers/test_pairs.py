import numpy as np
import pytest

from tailguard.data import Preference
from tailguard.errors import InputError
from tailguard.scorers.pairs import ResponsePairs

PREFERENCES = [
    Preference(f"p{i % 5}", f"kind {i}", f"mean {i}", chosen_safe=True, rejected_safe=flag)
    for i, flag in enumerate([False, None, True] * 4)
]


def test_a_reward_puts_the_chosen_answer_higher_and_a_cost_the_rejected():
    reward, cost = ResponsePairs.for_reward(PREFERENCES), ResponsePairs.for_cost(PREFERENCES)
    assert reward.higher[0] == cost.lower[0] == "kind 0"
    assert reward.higher_sign is None
    assert cost.lower_sign == [-1] * 12
    assert cost.higher_sign == [1, 0, -1] * 4


def test_pairs_of_a_cost_know_who_compared_them():
    rows = [
        Preference("p", "a", "b", annotator="carers", category="bodily"),
        Preference("q", "c", "d", annotator=None, category="privacy"),
    ]
    assert ResponsePairs.for_cost(rows).raters is None
    assert ResponsePairs.for_cost(rows, "annotator").raters == ["carers", None]
    assert ResponsePairs.for_cost(rows, "category").take([1]).raters == ["privacy"]


def test_a_split_shares_no_prompt_and_loses_no_pair():
    pairs = ResponsePairs.for_cost(PREFERENCES)
    first, second = pairs.split_by_prompt(0.4, np.random.default_rng(0))
    assert len(set(second.prompts)) == 2
    assert not set(first.prompts) & set(second.prompts)
    assert sorted([*first.higher, *second.higher]) == sorted(pairs.higher)
    assert pairs.higher_sign is not None  # and each answer keeps its own
    sign = dict(zip(pairs.higher, pairs.higher_sign, strict=True))
    assert [sign[text] for text in second.higher] == second.higher_sign


def test_prompts_are_numbered_by_what_they_say():
    index = ResponsePairs.for_reward(PREFERENCES).prompt_index()
    assert index.tolist() == [i % 5 for i in range(12)]


def test_wrong_pairs_are_refused():
    with pytest.raises(InputError, match="empty"):
        ResponsePairs.for_reward([])
    with pytest.raises(InputError, match=r"pairs\.lower: 1 entries for 2"):
        ResponsePairs(["p", "q"], ["a", "b"], ["c"])
    with pytest.raises(InputError, match=r"use \+1, −1 or 0"):
        ResponsePairs(["p"], ["a"], ["b"], higher_sign=[2])
    with pytest.raises(InputError, match="two different prompts"):
        ResponsePairs(["p", "p"], ["a", "b"], ["c", "d"]).split_by_prompt(
            0.5, np.random.default_rng(0)
        )
    with pytest.raises(InputError, match="strictly between"):
        ResponsePairs(["p", "q"], ["a", "b"], ["c", "d"]).split_by_prompt(
            1.0, np.random.default_rng(0)
        )
