import zlib

import numpy as np
import pytest
from scipy import stats

from tailguard.data import Preference
from tailguard.errors import InputError, ScoreError
from tailguard.scorers.check import check_scorer
from tailguard.scorers.direction import (
    direction_outlook,
    pairs_needed,
    smallest_accuracy,
)
from tailguard.scorers.pairs import ResponsePairs


class RuleScorer:
    """Each answer's length in words, times a sign, plus noise that depends on the text."""

    def __init__(self, sign=1.0, scale=0.0, spoil=None):
        self.sign, self.scale, self.spoil = sign, scale, spoil

    def score(self, prompts, responses):
        base = self.sign * np.array([[float(len(r.split()))] * 2 for r in responses])
        noise = [zlib.crc32(f"{p}{r}".encode()) for p, r in zip(prompts, responses, strict=True)]
        scores = base + self.scale * stats.norm.ppf((np.array(noise) + 0.5) / 2**32)[:, None]
        return scores if self.spoil is None else self.spoil(scores)


PREFERENCES = [Preference(f"question {i}", "a b c", "a b", True, False) for i in range(12)]


def test_the_right_direction_passes_and_is_measured():
    check = check_scorer(RuleScorer(), ResponsePairs.for_reward(PREFERENCES)).direction
    assert check is not None
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
        check_scorer(RuleScorer(sign=0.0, scale=0.1), pairs)
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


def shown(num_prompts, accuracy, runs=4000):
    """Oracle: how often the test itself shows a scorer that orders so many pairs rightly."""
    effect = stats.norm.ppf(accuracy)
    margins = np.random.default_rng(0).normal(effect, 1.0, size=(runs, num_prompts))
    found = stats.ttest_1samp(margins, 0.0, axis=1, alternative="greater")
    return np.mean(np.asarray(found.pvalue) < 0.05)


@pytest.mark.parametrize("accuracy", [0.6, 0.7, 0.9])
def test_pairs_needed_show_a_direction_four_times_in_five(accuracy):
    needed = pairs_needed(accuracy)
    assert shown(needed, accuracy) >= 0.78
    assert shown(needed - 1, accuracy) <= 0.82
    assert smallest_accuracy(needed) <= accuracy < smallest_accuracy(needed - 1)


def test_too_few_pairs_say_how_many_are_needed():
    assert direction_outlook(pairs_needed(), "cost") is None
    said = direction_outlook(31, "cost")
    assert said is not None
    assert "31 prompts" in said
    assert f"60% needs {pairs_needed(0.6)}" in said
    with pytest.raises(InputError, match=r"reward pairs: 3 prompts .* give more pairs"):
        direction_outlook(3, "reward")


@pytest.mark.parametrize("accuracy", [0.5, 1.0, float("nan")])
def test_no_number_of_pairs_shows_such_an_accuracy(accuracy):
    with pytest.raises(InputError, match="accuracy"):
        pairs_needed(accuracy)
