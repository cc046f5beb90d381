"""Who judges, and what each judge needs."""

import numpy as np
import pytest

from tailguard.errors import ScoreError
from tailguard.evaluation.judge_needs import JUDGE_NEEDS, JUDGE_OF_DATA
from tailguard.evaluation.judges import JUDGES, Judge, JudgeInputs
from tailguard.lab.sandbox import parse_answer, parse_request, sample_requests, true_cost
from tailguard.scorers.pairs import ResponsePairs

NO_PAIRS = JudgeInputs(pairs=lambda kind: None, steps=lambda what: lambda done, total: None)


class Constant:
    def __init__(self, value):
        self.value = value

    def score(self, prompts, responses):
        return np.full((len(prompts), 2), self.value)


def test_every_kind_of_data_has_a_judge():
    assert set(JUDGE_OF_DATA) == {"sandbox", "files"}  # the values of a recipe's data.source
    assert set(JUDGE_OF_DATA.values()) <= set(JUDGES) == set(JUDGE_NEEDS)


def test_the_truth_needs_no_pairs_and_parses():
    judge = JUDGES["truth"](NO_PAIRS)
    assert judge is not None
    (request,) = sample_requests(np.random.default_rng(0), 1)
    texts = ["i can not help with that .", "not in the grammar"]
    _, cost = judge.score([request.text] * 2, texts)
    parsed = parse_request(request.text)
    assert parsed is not None
    assert cost == pytest.approx([true_cost(parsed, parse_answer(text)) for text in texts])
    assert judge.cost_bound == 10.0


@pytest.mark.parametrize("kind", ["reward", "cost"])
def test_a_fitted_judge_is_none_without_pairs_of_both_kinds(kind):
    pairs = ResponsePairs(["p"], ["a"], ["b"])
    some = JudgeInputs(lambda asked: (pairs, pairs) if asked == kind else None, NO_PAIRS.steps)
    assert JUDGES["minilm"](some) is None


def test_a_score_is_the_mean_over_members_and_is_finite():
    judge = Judge("constant", Constant(1.5), Constant(-0.5), is_refusal=lambda text: not text)
    reward, cost = judge.score(["p", "q"], ["a", "b"])
    assert (reward.tolist(), cost.tolist()) == ([1.5, 1.5], [-0.5, -0.5])
    broken = Judge("broken", Constant(1.0), Constant(float("nan")), is_refusal=lambda text: False)
    with pytest.raises(ScoreError, match="judge's cost"):
        broken.score(["p"], ["a"])
