"""Drawing under a rule by a real model: the same as the rule on the same draws, and failing closed."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tailguard.decoding.decoder import Decoder, DrawSetting
from tailguard.decoding.dial import Dial, DialCertificate, DialEntry
from tailguard.decoding.drawing import Scorers, draw_answers
from tailguard.decoding.rule import DrawPrior, Rule
from tailguard.decoding.worth import SCORERS_WORD, AnswerWorth
from tailguard.engines import SamplingLaw
from tailguard.engines.draws import StartedPrompts
from tailguard.errors import InfeasibleError, InputError
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import RatersLimit
from tailguard.risk import CVaR, Mean, RiskLimit
from tailguard.scorers.doubt import error_doubt
from tailguard.scorers.readings import Reading

PROMPTS = ["w1 w2 w3", "w4", "w5 w6", "w7 w8 w9 w2"]
PRIOR = DrawPrior(0.0, 0.5, 0.5, 1.0, 1.0, 5.0)
ENTRY = DialEntry((0.4, 0.6), Rule(0.5, 0.02, 6, PRIOR), 0.0)
SETTING = DrawSetting(max_new_tokens=5, fallback="no", max_draws=6)


class Counting:
    """Scores by the letters of a text, alike for all members but for a spread."""

    def __init__(self, shift, fault=None):
        self.shift = shift
        self.fault = fault

    def score(self, prompts, responses):
        value = [sum(map(ord, text)) * self.shift % 1.7 - 0.6 for text in responses]
        scores = np.array(value, dtype=float)[:, None] + np.array([-0.1, 0.1])
        return scores if self.fault is None else self.fault(scores, list(responses))


SCORERS = Scorers(Counting(0.37), Counting(0.53), 1.0)


def drawn(soup, scorers=SCORERS, entry=ENTRY, prompts=PROMPTS, **options):
    given: Any = {"law": SamplingLaw(), "max_new_tokens": 5, "fallback": "no", "stop": ()} | options
    given = {"worth": SCORERS_WORD} | given
    seeds = given.pop("seeds", range(len(prompts)))
    return draw_answers(soup, prompts, entry, scorers, seeds=list(seeds), **given)


@pytest.mark.parametrize("penalty", [0.0, 4.0])
def test_it_is_the_rule_on_the_same_draws(soup, penalty):
    rule = Rule(-0.2, 0.1, 3, PRIOR)
    entry = DialEntry(ENTRY.point, rule, 0.0, penalty)
    worth = AnswerWorth(-0.5)
    found = drawn(soup, entry=entry, seeds=range(100, 112), prompts=PROMPTS * 3, worth=worth)
    started = StartedPrompts(
        soup, PROMPTS * 3, [ENTRY.point] * 12, max_new_tokens=5, law=SamplingLaw()
    )
    statuses = set()
    for i, answer in enumerate(found):
        # All draws of the prompt, then the rule by hand.
        seeds = [
            np.random.SeedSequence([100 + i, n]).generate_state(1, np.uint64)[0] for n in range(3)
        ]
        draws = started.draw([i] * 3, [int(seed) for seed in seeds])
        texts = [draw.text for draw in draws]
        reward = SCORERS.reward.score(PROMPTS, texts).mean(1)
        cost = SCORERS.cost.score(PROMPTS, texts)
        bound = cost.mean(1) + cost.std(1, ddof=1)
        reward -= penalty * np.maximum(bound + 0.5, 0.0)
        num = 1
        while rule.wants_draw(reward[None, :num], bound[None, :num] <= -0.2)[0]:
            num += 1
        assert answer.num_draws == num
        assert answer.num_tokens_generated == sum(len(d.token_ids) for d in draws[:num])
        ok = [n for n in range(num) if bound[n] <= -0.2]
        statuses.add((bool(ok), num > 1))
        assert answer.abstained == (not ok)
        assert answer.text == (texts[max(ok, key=lambda n: reward[n])] if ok else "no")
    assert len(statuses) >= 3  # withheld, served at once, and drawn on for


def test_an_answer_depends_on_its_own_prompt_and_seed(soup):
    together = drawn(soup, seeds=[7, 8, 9, 10])
    alone = [
        drawn(soup, prompts=[p], seeds=[s])[0] for p, s in zip(PROMPTS, [7, 8, 9, 10], strict=True)
    ]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.num_draws for a in together] == [a.num_draws for a in alone]
    assert [a.text for a in drawn(soup, seeds=[7, 8, 9, 10], batch_size=1)] == [
        a.text for a in alone
    ]


def raising(scores, texts):
    raise RuntimeError("out of order")


def only_the_first(scores, texts):
    scores[1:] = np.nan
    return scores


def wrong_shape(scores, texts):
    return scores[:, 0]


@pytest.mark.parametrize("kind", ["reward", "cost"])
@pytest.mark.parametrize("fault", [raising, wrong_shape, lambda s, t: s * np.nan])
def test_without_scores_nothing_is_served(soup, kind, fault):
    broken: Any = {kind: Counting(0.3, fault)}
    scorers = Scorers(**{"reward": SCORERS.reward, "cost": SCORERS.cost, "pessimism": 1.0} | broken)
    for answer in drawn(soup, scorers, DialEntry((0.4, 0.6), Rule(math.inf, 0.0, 3, PRIOR), 0.0)):
        assert answer.abstained
        assert answer.text == "no"
        assert answer.reason == "score unavailable"
        assert answer.num_draws == 3


class Foreign(Counting):
    """Finds answers to some prompts unlike what it was fitted on; of others it tells no shift."""

    def read(self, prompts, responses):
        told = {"w4": 3.5, "w5 w6": math.nan}
        shift = np.array([told.get(p, 0.2) for p in prompts])
        return Reading(self.score(prompts, responses), shift)


def test_answers_unlike_what_was_fitted_on_are_withheld_and_say_so(soup):
    scorers = Scorers(SCORERS.reward, Foreign(0.53), 1.0, largest_shift=2.5)
    entry = DialEntry((0.4, 0.6), Rule(math.inf, math.inf, 3, PRIOR), 0.0)
    usual, foreign, silent, _ = drawn(soup, scorers, entry)
    # Where there is a limit, a scorer that tells nothing has no say.
    assert (usual.abstained, foreign.abstained, silent.abstained) == (False, True, True)
    assert foreign.text == "no"
    assert foreign.num_draws == 3
    assert "3 answers are unlike" in foreign.reason
    assert "at least 3.5, and 2.5" in foreign.reason
    assert (usual.shift, foreign.shift, silent.shift) == (0.2, 3.5, None)
    assert (usual.unlike, foreign.unlike, silent.unlike) == (False, True, True)
    assert "does not tell" in silent.reason
    # Without a limit nothing is withheld for it.
    scorers = Scorers(SCORERS.reward, Foreign(0.53), 1.0)
    assert not any(answer.abstained for answer in drawn(soup, scorers, entry))


def test_doubt_is_of_the_verdict_on_what_is_served(soup):
    for answer in drawn(soup):
        members = SCORERS.cost.score(PROMPTS, [answer.text])
        assert answer.doubt == pytest.approx(error_doubt(members)[0])


def test_no_certificate_covers_a_request_unlike_those_it_was_made_on(soup):
    table = DialTable(np.zeros((1, 100, 1)), np.ones(1), np.zeros(1), np.full(1, 10.0))
    limit = RiskLimit(CVaR(0.1), 0.5)
    entry = DialEntry((0.4, 0.6), Rule(math.inf, math.inf, 3, PRIOR), 0.0)
    shown = DialCertificate(0, limit, -1.0, -1.0, 0.95, 100)
    dial = Dial((entry,), table, limit, 0.0, certificates=(shown,))
    scorers = Scorers(SCORERS.reward, Foreign(0.53), 1.0, largest_shift=2.5)
    answers = Decoder(soup, dial, scorers, replace(SETTING, max_draws=3)).generate(PROMPTS)
    assert [answer.certified for answer in answers] == [True, False, False, True]
    assert [answer.bounded for answer in answers] == [True, False, False, True]
    assert "unlike" not in answers[1].to_dict()


def test_one_failure_takes_no_other_prompt_down(soup):
    scorers = Scorers(SCORERS.reward, Counting(0.53, only_the_first), 1.0)
    entry = DialEntry((0.4, 0.6), Rule(math.inf, math.inf, 1, PRIOR), 0.0)
    assert [answer.abstained for answer in drawn(soup, scorers, entry)] == [False, True, True, True]


def test_stop_texts_and_temperature_zero(soup):
    whole = drawn(soup, entry=DialEntry((0.4, 0.6), Rule(math.inf, math.inf, 1, PRIOR), 0.0))
    stop = next(answer.text.split()[-1] for answer in whole if len(answer.text.split()) > 1)
    cut = drawn(
        soup, entry=DialEntry((0.4, 0.6), Rule(math.inf, math.inf, 1, PRIOR), 0.0), stop=[stop]
    )
    assert all(stop not in answer.text for answer in cut)
    greedy = drawn(
        soup, law=SamplingLaw(0.0), entry=DialEntry((0.4, 0.6), Rule(-9.0, 0.0, 6, PRIOR), 0.0)
    )
    assert {answer.num_draws for answer in greedy} == {1}


@pytest.fixture(scope="module")
def decoder(soup):
    cost = np.array([0.0, 1.0])[:, None, None] + 0.001 * np.random.default_rng(0).normal(
        size=(2, 100, 1)
    )
    table = DialTable(cost, np.array([0.5, 1.0]), np.zeros(2), np.array([10.0, 20.0]))
    loose = DialEntry((1.0, 0.0), Rule(math.inf, math.inf, 6, PRIOR), 0.0)
    dial = Dial((ENTRY, loose), table, RiskLimit(CVaR(0.1), 0.5), 0.0)
    return Decoder(soup, dial, SCORERS, SETTING, profiles=[RatersLimit(RiskLimit(CVaR(0.1), 2.0))])


class TestDecoder:
    def test_the_limit_decides_the_point(self, decoder):
        strict = decoder.generate(PROMPTS, seed=3)
        loose = decoder.generate(PROMPTS, measure=Mean(), budget=3.0, seed=3)
        assert strict[0].to_dict()["served"]["weights"] == {"loose": 0.4, "strict": 0.6}
        assert loose[0].to_dict()["served"]["weights"] == {"loose": 1.0, "strict": 0.0}
        assert not any(answer.abstained for answer in loose)
        assert {answer.chosen.num_draws for answer in loose} == {1}
        again = decoder.generate(PROMPTS, seed=3)
        assert [a.text for a in again] == [a.text for a in strict]

    def test_what_it_says_of_itself(self, decoder):
        default, other = decoder.profiles
        assert (default.to_dict()["reward"], other.to_dict()["reward"]) == (0.5, 1.0)
        fields = decoder.generate(PROMPTS[:1])[0].to_dict()
        assert {
            "text",
            "cost_upper_bound",
            "doubt",
            "bounded",
            "certified",
            "num_draws",
        } <= fields.keys()

    @pytest.mark.parametrize(
        ("asked", "error", "said"),
        [
            ({"measure": Mean()}, InputError, "give both"),
            ({"measure": Mean(), "budget": -5.0}, InfeasibleError, "out of the dial's reach"),
            ({"stop": [""]}, InputError, "stop"),
            ({"max_draws": 0}, InputError, "max_draws"),
            ({"temperature": -1.0}, InputError, "temperature"),
            ({"max_new_tokens": 0}, InputError, "max_new_tokens"),
            ({"seed": [1]}, InputError, "1 seeds for 4 prompts"),
            ({"certified": True}, InfeasibleError, "no entry of the dial is certified"),
        ],
        ids=str,
    )
    def test_what_it_refuses(self, decoder, asked, error, said):
        with pytest.raises(error, match=said):
            decoder.generate(PROMPTS, **asked)
        with pytest.raises(InputError, match="prompts"):
            decoder.generate([])


CHANGED: list[dict[str, Any]] = [
    {"temperature": 0.5},
    {"top_p": 0.9},
    {"max_new_tokens": 4},
    {"max_draws": 2},
    {"max_candidates": 2},
    {"stop": ["w3"]},
]


def test_what_was_shown_holds_for_the_sampling_it_was_shown_of(soup):
    cost = np.zeros((1, 100, 1)) + 0.001 * np.random.default_rng(0).normal(size=(1, 100, 1))
    table = DialTable(cost, np.ones(1), np.zeros(1), np.ones(1))
    asked = RiskLimit(CVaR(0.1), 0.5)
    shown = DialCertificate(0, asked, 0.2, 0.3, 0.95, 100)
    loose = DialEntry((1.0, 0.0), Rule(math.inf, math.inf, 6, PRIOR), 0.0)
    dial = Dial((loose,), table, asked, 0.0, (shown,))
    served = Decoder(soup, dial, SCORERS, SETTING)

    def said(**options):
        (answer,) = served.generate(PROMPTS[:1], seed=1, **options)
        return answer.bounded, answer.certified

    assert said() == (True, True)
    assert said(temperature=1.0, top_p=1.0, max_new_tokens=5, max_draws=6) == (True, True)
    assert said(certified=True) == (True, True)
    for change in CHANGED:
        assert said(**change) == (False, False)
    assert said(measure=CVaR(0.5), budget=0.4) == (True, True)  # nowhere larger than CVaR at .1
    assert said(measure=CVaR(0.1), budget=0.25) == (True, False)  # the judge's bound is above it
    assert said(measure=CVaR(0.1), budget=0.1) == (False, False)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [(["w1", " "], r"prompts\[1\]"), (["w1 " * 70], r"prompts\[0\] is too long")],
)
def test_prompts_that_cannot_be_read_are_named(decoder, prompts, said):
    with pytest.raises(InputError, match=said):
        decoder.generate(prompts)


def test_a_server_abstains_in_the_decoders_own_fields(decoder, monkeypatch):
    from tailguard.errors import ScoreError
    from tailguard.serve.fail_closed import answer_all

    usual = answer_all(decoder, PROMPTS[:1], {"seed": 0})

    def fails(*_, **__):
        raise ScoreError("nothing can be scored")

    monkeypatch.setattr(decoder, "draw", fails)
    (closed,) = answer_all(decoder, PROMPTS[:1], {"seed": 0})
    assert closed.keys() == usual[0].keys()
    assert (closed["text"], closed["abstained"], closed["certified"]) == ("no", True, False)


def test_a_dial_with_a_floor_samples_as_it_was_measured(soup):
    cost = np.zeros((1, 40, 1))
    table = DialTable(cost, np.zeros(1), np.zeros(1), np.ones(1))
    limit = RiskLimit(CVaR(0.5), 1.0)
    dial = Dial((ENTRY,), table, limit, 0.0, floors=(RatersLimit(limit),))
    decoder = Decoder(soup, dial, SCORERS, SETTING)
    assert len(decoder.generate(PROMPTS)) == len(PROMPTS)
    changes: list[Any] = [{"temperature": 2.0}, {"max_draws": 64}, {"stop": "w1"}, {"top_p": 0.5}]
    for changed in changes:
        with pytest.raises(InputError, match="keeps a limit for all"):
            decoder.generate(PROMPTS, **changed)
