"""Serving, withholding and failing closed."""

import copy
import dataclasses
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.unit.decoding.served import (
    FALLBACK,
    PROMPTS,
    SETTING,
    CountingScorer,
    decoder,
    profile,
)

from tailguard.decoding import Decoder, GuidedPolicy
from tailguard.errors import InputError, ScoreError
from tailguard.values.process_heads import ProcessHeads


class FlakyScorer(CountingScorer):
    """Refuses texts that hold a given word; in a batch, the whole batch."""

    def __init__(self, word, how):
        super().__init__()
        self.word, self.how = word, how

    def score(self, prompts, responses):
        scores = super().score(prompts, responses)
        bad = [self.word in r.split() for r in responses]
        if self.how == "raise" and any(bad):
            raise ScoreError("NaN")
        if self.how == "crash" and any(bad):
            raise RuntimeError("out of memory")
        scores[bad, 0] = math.nan
        return scores


def test_an_answer_is_served_exactly_when_its_bound_meets_the_level(policy, heads):
    answers = decoder(policy, heads, profile(tail_mass=0.5)).generate(PROMPTS * 10, seed=1)
    deviation = np.std([-0.1, 0.1], ddof=1)
    assert {a.abstained for a in answers} == {True, False}
    for answer in answers:
        cost = answer.text.split().count("a") - answer.text.split().count("c")
        assert answer.cost is not None
        assert answer.cost.mean == pytest.approx(cost)
        assert answer.cost.std == pytest.approx(deviation)
        assert answer.risk_upper_bound == pytest.approx(cost + deviation)
        if answer.abstained:
            assert answer.text == FALLBACK
            assert "above the acceptance level" in answer.reason
        else:
            assert answer.risk_upper_bound <= SETTING.acceptance_level
            assert answer.reason == ""
    # The same drafts, held against the level by hand.
    drafts = decoder(policy, heads).draft(PROMPTS * 10, SETTING, seed=1)
    for draft, answer in zip(drafts, answers, strict=True):
        assert answer.abstained == (draft.cost_bound > SETTING.acceptance_level)
    assert answers == decoder(policy, heads).settle(PROMPTS * 10, drafts, SETTING)
    with pytest.raises(InputError, match="39 for 40 prompts"):
        decoder(policy, heads).settle(PROMPTS * 10, drafts[1:], SETTING)


class RecordingScorer(CountingScorer):
    """Remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def score(self, prompts, responses):
        self.asked += zip(prompts, responses, strict=True)
        return super().score(prompts, responses)


def test_the_fallback_is_scored_for_the_prompts_that_get_it_and_no_others(policy, heads):
    scorer = RecordingScorer()
    answers = decoder(policy, heads, cost=scorer).generate(PROMPTS * 10, seed=1)
    withheld = [
        (prompt, FALLBACK)
        for prompt, answer in zip(PROMPTS * 10, answers, strict=True)
        if answer.abstained
    ]
    assert 0 < len(withheld) < len(answers)
    assert scorer.asked[len(answers) :] == withheld


def test_counts_are_those_of_guidance(policy, heads):
    for answer in decoder(policy, heads).generate(PROMPTS, seed=2):
        assert answer.num_candidates == 3
        assert 3 <= answer.num_tokens_generated <= 3 * 8
        assert 2 <= answer.num_forward_passes <= 1 + 8


def test_an_answer_that_runs_out_of_tokens_is_not_finished(policy, heads):
    setting = dataclasses.replace(SETTING, max_candidates=1, acceptance_level=0.5)
    answers = decoder(policy, heads, profile(setting)).generate(PROMPTS * 20, seed=4)
    kinds = set()
    for answer in answers:
        # The stop token, too, counts as generated.
        cut = len(answer.text.split()) == answer.num_tokens_generated == 8
        assert answer.finished == (answer.abstained or not cut)
        kinds.add((answer.abstained, answer.finished))
    assert kinds == {(True, True), (False, True), (False, False)}


def test_at_temperature_0_one_candidate_is_grown(policy, heads):
    greedy = decoder(policy, heads).generate(PROMPTS, temperature=0.0, seed=1)
    assert [answer.num_candidates for answer in greedy] == [1] * len(PROMPTS)
    assert all(answer.num_tokens_generated <= 8 for answer in greedy)


def test_sampling_asked_for_is_the_sampling_done(policy, heads):
    easy = dataclasses.replace(SETTING, max_candidates=1, acceptance_level=math.inf)
    served = decoder(policy, heads, profile(easy))

    def texts(**asked):
        return {answer.text for answer in served.generate(["a b"] * 20, seed=1, **asked)}

    assert len(texts()) > 10
    assert len(texts(temperature=0.0)) == 1
    assert len(texts(top_p=1e-6)) == 1
    assert max(len(text.split()) for text in texts(max_new_tokens=2)) == 2
    wrong = {"temperature": -1.0, "top_p": 0.0, "max_new_tokens": 0, "stop": [""]}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=name):
            served.generate(["a"], **cast("dict[str, Any]", {name: value}))


def test_an_answer_ends_before_the_first_stop_text_and_is_scored_up_to_there(policy, heads):
    easy = dataclasses.replace(SETTING, max_candidates=1, acceptance_level=math.inf)
    scorer = RecordingScorer()
    served = decoder(policy, heads, profile(easy), cost=scorer)
    whole = served.generate(PROMPTS * 10, seed=1)
    scorer.asked.clear()
    cut = served.generate(PROMPTS * 10, seed=1, stop=["b", "c a"])
    assert [text for _, text in scorer.asked] == [answer.text for answer in cut]
    for before, after in zip(whole, cut, strict=True):
        places = [before.text.find(stop) for stop in ("b", "c a") if stop in before.text]
        assert after.text == before.text[: min(places, default=None)]
        assert after.finished == (before.finished or bool(places))
    assert any(before.text != after.text for before, after in zip(whole, cut, strict=True))


def test_prompt_tokens_are_those_of_the_prompt_as_it_is_read(policy, heads):
    short, long = decoder(policy, heads).generate(["a", "a b a"], seed=5)
    assert 1 <= short.num_prompt_tokens == long.num_prompt_tokens - 2


def test_pessimism_only_withholds_more(policy, heads):
    def withheld(pessimism):
        # κ also guides; one candidate leaves it the acceptance alone.
        setting = dataclasses.replace(SETTING, pessimism=pessimism, max_candidates=1)
        answers = decoder(policy, heads, profile(setting)).generate(PROMPTS * 10, seed=3)
        return {i for i, a in enumerate(answers) if a.abstained}

    assert withheld(0.0) < withheld(12.0)


@pytest.mark.parametrize("how", ["nan", "raise", "crash"])
def test_an_answer_without_a_score_is_never_served(policy, heads, how):
    easy = dataclasses.replace(SETTING, acceptance_level=math.inf, fallback="c")
    before = decoder(policy, heads, profile(easy)).generate(PROMPTS * 5, seed=4)
    flaky = FlakyScorer("b", how)
    after = decoder(policy, heads, profile(easy), cost=flaky).generate(PROMPTS * 5, seed=4)
    assert any("b" in a.text for a in before)
    for plain, answer in zip(before, after, strict=True):
        if "b" in plain.text.split():
            assert answer.abstained
            assert answer.reason == "score unavailable"
            assert answer.text == "c"
            assert answer.cost is not None
            assert answer.cost.mean == -1.0
        else:
            assert answer.text == plain.text
            assert not answer.abstained


@pytest.mark.parametrize("how", ["nan", "raise", "crash"])
def test_a_fallback_without_a_score_is_served_but_not_certified(policy, heads, how):
    never = dataclasses.replace(SETTING, acceptance_level=-math.inf, fallback="b b")
    answers = decoder(
        policy, heads, profile(never, bound=-1.0), cost=FlakyScorer("b", how)
    ).generate(PROMPTS)
    for answer in answers:
        assert answer.abstained
        assert answer.text == "b b"
        assert answer.cost is None
        assert answer.risk_upper_bound == math.inf
        assert not answer.certified


def test_a_reward_without_a_score_withholds_too(policy, heads):
    easy = dataclasses.replace(SETTING, acceptance_level=math.inf)
    answers = decoder(policy, heads, profile(easy), reward_scorer=FlakyScorer("b", "nan")).generate(
        PROMPTS * 5, seed=4
    )
    assert all("b" not in answer.text.split() for answer in answers)
    assert {answer.reason for answer in answers} == {"", "score unavailable"}
    assert all(answer.reward is not None for answer in answers)


class BrokenHeads:
    """Heads whose predictions are NaN, or which crash."""

    def __init__(self, crash):
        self.crash = crash
        self.thresholds = torch.linspace(-1, 1, 3)
        self.reward = torch.zeros(0)

    def predict(self, hidden):
        if self.crash:
            raise RuntimeError("out of memory")
        self.reward = torch.full((hidden.shape[0], 2), math.nan)
        return self

    def expected_penalty(self, thresholds_grid, measure, threshold):
        return torch.zeros_like(self.reward)


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("max_candidates", [1, 3])
def test_broken_heads_abstain(policy, crash, max_candidates):
    easy = dataclasses.replace(SETTING, acceptance_level=math.inf, max_candidates=max_candidates)
    answers = decoder(policy, BrokenHeads(crash), profile(easy, bound=0.0)).generate(PROMPTS)
    assert len(answers) == len(PROMPTS)
    for answer in answers:
        assert answer.abstained
        assert answer.reason == "score unavailable"
        assert answer.text == FALLBACK
        assert answer.risk_upper_bound == pytest.approx(-3 + np.std([-0.1, 0.1], ddof=1))


def test_one_member_does_not_know_its_doubt(policy, heads):
    single = CountingScorer(members=1)
    with pytest.raises(InputError, match="pessimism"):
        decoder(policy, heads, cost=single).generate(["a"])
    blunt = dataclasses.replace(SETTING, pessimism=0.0)
    answer = decoder(policy, heads, profile(blunt), cost=single).generate(["a"])[0]
    assert answer.cost is not None
    assert answer.cost.std is None
    lone_head = ProcessHeads(16, torch.linspace(-2, 2, 5), torch.tensor([0.5]), num_members=1)
    with pytest.raises(InputError, match="pessimism"):
        decoder(policy, lone_head).generate(["a"])


@dataclasses.dataclass(frozen=True)
class RedrawOnce:
    """A strategy of a user's own: answers whose bound exceeds a limit are drawn once again."""

    above: float

    def __call__(self, draw, prompts, seeds):
        drafts = draw(prompts, seeds)
        again = [i for i, draft in enumerate(drafts) if draft.cost_bound > self.above]
        if again:
            drawn = draw([prompts[i] for i in again], [seeds[i] + 1 for i in again])
            for i, draft in zip(again, drawn, strict=True):
                spent = drafts[i].guided.num_tokens_generated + draft.guided.num_tokens_generated
                guided = dataclasses.replace(draft.guided, num_tokens_generated=spent)
                drafts[i] = dataclasses.replace(draft, guided=guided)
        return drafts


def test_a_strategy_may_draw_again(policy, heads):
    prompts = ["a b"] * 60
    once = decoder(policy, heads, profile(tail_mass=0.5))
    twice = decoder(policy, heads, profile(tail_mass=0.5), strategy=RedrawOnce(above=1.0))
    first, second = once.generate(prompts, seed=1), twice.generate(prompts, seed=1)
    for one, other in zip(first, second, strict=True):
        assert one.abstained or one.text == other.text  # what was acceptable stays
        spent = other.num_tokens_generated - one.num_tokens_generated
        assert (spent > 0) == one.abstained
    assert sum(a.abstained for a in second) < sum(a.abstained for a in first)


def test_the_seed_and_the_place_decide(policy, heads):
    served = decoder(policy, heads, profile(dataclasses.replace(SETTING, acceptance_level=99.0)))

    def texts(prompts, seed):
        return [answer.text for answer in served.generate(prompts, seed=seed)]

    assert texts(PROMPTS * 3, 5) == texts(PROMPTS * 3, 5)
    assert texts(PROMPTS * 3, 5) != texts(PROMPTS * 3, 6)
    assert texts(PROMPTS, 5) == texts(PROMPTS * 3, 5)[: len(PROMPTS)]
    assert len(set(texts(["a b"] * 10, 5))) > 1
    one_each = [9, 8, 9]
    first, second, third = texts(["a b"] * 3, one_each)
    assert first == third
    assert [second] == texts(["a b"], [8])


def test_more_candidates_than_one_pass_holds_are_refused(policy, heads):
    served = decoder(policy, heads, batch_size=8)
    assert served.generate(["a"], max_candidates=8)[0].num_candidates == 8
    with pytest.raises(InputError, match="max_candidates: 9; at most 8"):
        served.generate(["a"], max_candidates=9)


def test_heads_on_another_device_are_refused(policy, heads):
    with pytest.raises(InputError, match="'base' is on cpu and its heads on meta"):
        decoder(policy, copy.deepcopy(heads).to("meta"))


def test_wrong_parts_are_refused_when_joined(policy, heads):
    with pytest.raises(InputError, match="profiles"):
        Decoder({"base": GuidedPolicy(policy, heads)}, [], cost_scorer=CountingScorer())
    with pytest.raises(InputError, match="'tilted'"):
        decoder(policy, heads, profile(dataclasses.replace(SETTING, policy="tilted")))
    with pytest.raises(InputError, match="heads"):
        decoder(policy, None)
    for wrong in ({"pessimism": -1.0}, {"acceptance_level": math.nan}, {"fallback": " "}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            dataclasses.replace(SETTING, **wrong)
