import numpy as np
import pytest

from tailguard.data import Preference
from tailguard.errors import InputError, ScoreError
from tailguard.scorers.direction import check_scorer
from tailguard.scorers.pairs import ResponsePairs


class RuleScorer:
    """Each answer's length in words, times a sign, plus noise that depends on the text."""

    def __init__(self, sign=1.0, scale=0.0, spoil=None):
        self.sign, self.scale, self.spoil = sign, scale, spoil

    def score(self, prompts, responses):
        rng = np.random.default_rng(0)
        base = self.sign * np.array([[float(len(r.split()))] * 2 for r in responses])
        scores = base + self.scale * rng.standard_normal(base.shape)
        return scores if self.spoil is None else self.spoil(scores)


PREFERENCES = [Preference(f"question {i}", "a b c", "a b", True, False) for i in range(12)]


def test_the_right_direction_passes_and_is_measured():
    check = check_scorer(RuleScorer(), ResponsePairs.for_reward(PREFERENCES))
    assert check.accuracy == 1.0
    assert check.margin == pytest.approx(1.0)
    assert check.num_prompts == 12


@pytest.mark.parametrize("kind", ["reward", "cost"])
def test_a_reversed_scorer_is_named_as_such(kind):
    pairs = getattr(ResponsePairs, f"for_{kind}")(PREFERENCES)
    right = 1.0 if kind == "reward" else -1.0
    check_scorer(RuleScorer(sign=right), pairs, kind=kind)
    with pytest.raises(InputError, match=f"{kind} scorer reads reversed"):
        check_scorer(RuleScorer(sign=-right), pairs, kind=kind)


def test_no_direction_is_not_taken_for_a_direction():
    pairs = ResponsePairs.for_reward(PREFERENCES)
    with pytest.raises(InputError, match="shows no direction"):
        check_scorer(RuleScorer(sign=0.0, scale=1.0), pairs)
    with pytest.raises(InputError, match="shows no direction"):
        check_scorer(RuleScorer(sign=0.0), pairs)


def test_many_pairs_of_one_prompt_are_no_evidence():
    pairs = ResponsePairs.for_reward([Preference("one", "a b c", "a b")] * 50)
    with pytest.raises(InputError, match="shows no direction"):
        check_scorer(RuleScorer(), pairs)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda scores: scores * np.nan,
        lambda scores: scores[:, 0],
        lambda scores: scores.astype(np.float32),
        lambda scores: scores[1:],
    ],
)
def test_broken_promises_are_score_errors(spoil):
    with pytest.raises(ScoreError):
        check_scorer(RuleScorer(spoil=spoil), ResponsePairs.for_reward(PREFERENCES))
