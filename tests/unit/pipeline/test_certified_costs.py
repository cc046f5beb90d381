"""Which costs a certificate bounds, and what tables call the decoders that have one."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tailguard.decoding import (
    CalibratedProfile,
    DecodingSetting,
    Draft,
    ScoreSummary,
    settle_drafts,
)
from tailguard.decoding.guidance import GuidedResponse
from tailguard.errors import InputError
from tailguard.pipeline.decoder_artifact import guided_names
from tailguard.pipeline.stages.calibrate import served_costs
from tailguard.risk import CVaR, RiskLimit

SETTING = DecodingSetting(
    limit=RiskLimit(CVaR(0.1), 0.0),
    policy="p",
    multiplier=1.0,
    threshold=0.0,
    pessimism=1.0,
    acceptance_level=0.0,
    max_candidates=1,
    block_tokens=4,
    max_new_tokens=8,
    temperature=1.0,
    fallback="no",
)


class Fallbacks:
    """The cost of the fallback, by the prompt's number; NaN for no score."""

    costs = (-1.0, -1.0, -1.0, -0.5, math.nan)

    def score(self, prompts, responses):
        assert set(responses) <= {SETTING.fallback}
        return np.array([[self.costs[int(prompt)]] * 2 for prompt in prompts])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        # The fallback's cost does not stand for that of an answer without a score.
        (0.5, [0.2, -1.0, -1.0, 4.0, 4.0]),
        (math.inf, [0.2, 0.6, 4.0, 4.0, 4.0]),
        (-math.inf, [-1.0, -1.0, -1.0, 4.0, 4.0]),
    ],
)
def test_what_is_served_at_a_level_counts_and_never_more_than_the_declared_bound(level, expected):
    guided = GuidedResponse((), False, 1, 1, 0, 0)
    drafts = [
        Draft("", None, None, math.inf, True, guided)
        if cost is None
        else Draft("", None, ScoreSummary(cost, 0.0, {}), cost, True, guided)
        for cost in (0.2, 0.6, 9.0, None, None)
    ]
    answers = settle_drafts(
        [str(i) for i in range(5)],
        drafts,
        replace(SETTING, acceptance_level=level),
        cost_scorer=Fallbacks(),
    )
    assert served_costs(answers, 4.0).tolist() == expected


def names(*profiles):
    limits = [RiskLimit(CVaR(tail_mass), budget) for tail_mass, budget in profiles]
    return guided_names([CalibratedProfile(replace(SETTING, limit=limit)) for limit in limits])


def test_names_are_as_short_as_tells_decoders_apart():
    assert names((0.1, 0.0), (0.1, 0.5)) == ["p+guided ≤0.00", "p+guided ≤0.50"]
    assert names((0.1, 0.5), (0.05, 0.5)) == [
        "p+guided cvar at 0.1 ≤0.50",
        "p+guided cvar at 0.05 ≤0.50",
    ]
    assert names((0.1, 0.501), (0.1, 0.502)) == [
        "p+guided cvar at 0.1 ≤0.501",
        "p+guided cvar at 0.1 ≤0.502",
    ]
    with pytest.raises(InputError, match="two entries are the same"):
        names((0.1, 0.5), (0.1, 0.5))
