"""The real decoder behind the server."""

import numpy as np
import openai
import pytest

from tailguard.decoding import CalibratedProfile, Decoder, DecodingSetting, GuidedPolicy
from tailguard.models.policy import load_policy
from tailguard.risk import CVaR, RiskLimit

LEVELS = {-0.5: -100.0, 0.5: 100.0}  # budget → acceptance level: nothing passes, everything passes


class Scorer:
    """Costs near zero from two members, NaN on request."""

    broken = False

    def score(self, prompts, responses):
        scores = np.tile([0.1, -0.1], (len(prompts), 1))
        return scores * np.nan if self.broken else scores


@pytest.fixture(scope="module")
def policy(tiny_scorers, tmp_path_factory):
    return load_policy(tiny_scorers.save_causal_lm(tmp_path_factory.mktemp("lm")))


@pytest.fixture
def scorer():
    return Scorer()


@pytest.fixture
def client(policy, scorer, serve):
    profiles = [
        CalibratedProfile(
            DecodingSetting(
                limit=RiskLimit(CVaR(0.1), budget),
                policy="base",
                multiplier=1.0,
                threshold=0.0,
                pessimism=1.0,
                acceptance_level=level,
                max_candidates=1,
                block_tokens=4,
                max_new_tokens=8,
                temperature=1.0,
                fallback="w0 w1",
            ),
        )
        for budget, level in LEVELS.items()
    ]
    guided = {"base": GuidedPolicy(policy, None)}
    return serve(Decoder(guided, profiles, cost_scorer=scorer))


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
    # snapped to the next stricter calibrated profile
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


def test_what_cannot_be_honoured_is_refused(client, ask):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "w1", tailguard={"token_price": 0.1})
    assert caught.value.param == "tailguard.token_price"
