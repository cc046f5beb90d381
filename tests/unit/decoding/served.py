"""What the tests of decoding serve: a scorer that counts words, a setting, and decoders of both."""

import dataclasses

import numpy as np

from tailguard.decoding import (
    CalibratedProfile,
    Certificate,
    Decoder,
    DecodingSetting,
    GuidedPolicy,
)
from tailguard.risk import CVaR, RiskLimit

FALLBACK = "c c c"
PROMPTS = ["a b", "c", "b b a c a", "a"]

SETTING = DecodingSetting(
    limit=RiskLimit(CVaR(0.5), 0.0),
    policy="base",
    multiplier=0.5,
    threshold=0.0,
    pessimism=1.0,
    acceptance_level=1.0,
    max_candidates=3,
    block_tokens=2,
    max_new_tokens=8,
    temperature=1.0,
    fallback=FALLBACK,
)


class CountingScorer:
    """Cost by words: +1 for each 'a', −1 for each 'c'; two members that differ by ``spread``."""

    def __init__(self, spread=0.2, members=2):
        self.offsets = np.linspace(-spread / 2, spread / 2, members)

    def score(self, prompts, responses):
        assert len(prompts) == len(responses)
        counts = [r.split().count("a") - r.split().count("c") for r in responses]
        return np.array(counts, dtype=float)[:, None] + self.offsets


def profile(setting=SETTING, *, tail_mass=0.1, budget=0.0, bound=None):
    certificate = None if bound is None else Certificate(bound, 0.95, 1000)
    limit = RiskLimit(CVaR(tail_mass), budget)
    return CalibratedProfile(dataclasses.replace(setting, limit=limit), certificate)


def decoder(policy, heads, *profiles, cost=None, **kwargs):
    return Decoder(
        {"base": GuidedPolicy(policy, heads)},
        profiles or [profile()],
        cost_scorer=cost or CountingScorer(),
        **kwargs,
    )
