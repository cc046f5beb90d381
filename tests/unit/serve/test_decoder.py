"""The real decoder behind the server."""

import numpy as np
import openai
import pytest
from tests.unit.engines.test_soup import save_adapter

from tailguard.decoding import Decoder, Dial, DialEntry, DrawPrior, DrawSetting, Rule, Scorers
from tailguard.engines.soup import SoupPolicy
from tailguard.portfolio.dial import DialTable
from tailguard.risk import CVaR, RiskLimit

PRIOR = DrawPrior(0.0, 1.0, 1.0, 1.0, 1.0, 5.0)
LEVELS = (-100.0, 100.0)  # of two entries: nothing passes, everything passes


class Scorer:
    """Costs near zero from two members, NaN on request."""

    broken = False

    def score(self, prompts, responses):
        scores = np.tile([0.1, -0.1], (len(prompts), 1))
        return scores * np.nan if self.broken else scores


@pytest.fixture(scope="module")
def soup(tiny_scorers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soup")
    base = tiny_scorers.save_causal_lm(folder / "base")
    adapters = {n: save_adapter(base, folder / n, k, 2, ["q_proj"]) for k, n in enumerate("ab")}
    return SoupPolicy.load(base, adapters)


@pytest.fixture
def scorer():
    return Scorer()


@pytest.fixture
def client(soup, scorer, serve):
    entries = [DialEntry((0.5, 0.5), Rule(level, np.inf, 1, PRIOR), 0.0) for level in LEVELS]
    cost = np.array([-0.5, 0.5])[:, None, None] + np.zeros((2, 100, 1))
    table = DialTable(cost, np.array([0.0, 1.0]), np.zeros(2), np.ones(2))
    dial = Dial(tuple(entries), table, RiskLimit(CVaR(0.1), 0.5), 0.0)
    setting = DrawSetting(max_new_tokens=8, fallback="w0 w1", max_draws=1)
    return serve(Decoder(soup, dial, Scorers(scorer, scorer, 1.0), setting))


def test_one_prompt_at_two_risk_levels(client, ask):
    strict = ask(client, "w1 w2", seed=3, tailguard={"tail_mass": 0.1, "budget": -0.5})
    loose = ask(client, "w1 w2", seed=3, tailguard={"tail_mass": 0.1, "budget": 0.5})
    again = ask(client, "w1 w2", seed=3, tailguard={"tail_mass": 0.2, "budget": 0.7})
    assert strict.choices[0].finish_reason == "content_filter"
    assert strict.choices[0].message.content == "w0 w1"
    finished = loose.model_extra["tailguard"]["finished"]
    assert loose.choices[0].finish_reason == ("stop" if finished else "length")
    assert loose.usage.prompt_tokens > 0
    assert 1 <= loose.usage.completion_tokens <= 8
    assert loose.model_extra["tailguard"]["abstained"] is False
    assert loose.model_extra["tailguard"]["cost"]["mean"] == 0.0
    # the same entry of the dial
    assert again.choices[0].message.content == loose.choices[0].message.content


def test_infeasible(client, ask):
    with pytest.raises(openai.BadRequestError, match=r"Smallest reachable risk: -0\.5"):
        ask(client, "w1", tailguard={"tail_mass": 0.1, "budget": -2.0})


def test_broken_scorer_abstains(client, scorer, ask):
    scorer.broken = True
    completion = ask(client, "w1", tailguard={"tail_mass": 0.1, "budget": 0.5})
    assert completion.choices[0].finish_reason == "content_filter"
    assert completion.choices[0].message.content == "w0 w1"
    assert completion.model_extra["tailguard"]["cost"] is None


def test_prompt_beyond_the_context(client, ask):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, " ".join(["w1"] * 70))
    assert caught.value.code == "context_length_exceeded"


def test_sampling_settings_are_honoured(client, ask):
    def answer(**settings):
        loose = {"tail_mass": 0.1, "budget": 0.5}
        return ask(client, "w1", tailguard=loose, **settings).choices[0]

    greedy = [
        answer(temperature=0.0, top_p=p, seed=int(p * 10)).message.content for p in (0.9, 1.0)
    ]
    assert greedy[0] == greedy[1]
    asked = next(
        {"temperature": 2.0, "seed": seed}
        for seed in range(50)
        if len(answer(temperature=2.0, seed=seed).message.content.split()) > 3
    )
    words = answer(**asked).message.content.split()
    assert answer(**asked, max_tokens=2).message.content.split() == words[:2]
    cut = answer(**asked, stop=words[2])
    assert cut.message.content.split() == words[: words.index(words[2])]
    assert cut.finish_reason == "stop"
