"""Which costs a certificate bounds, and what tables call the decoders that have one."""

import math

import pytest

from tailguard.decoding import CalibratedProfile, DecodingSetting, Draft
from tailguard.decoding.guidance import GuidedResponse
from tailguard.errors import InputError
from tailguard.pipeline.calibrate import served_costs
from tailguard.pipeline.decoder_files import guided_names

SETTING = DecodingSetting(
    policy="p",
    multiplier=1.0,
    threshold=0.0,
    tail_mass=0.1,
    pessimism=1.0,
    acceptance_level=0.0,
    max_candidates=1,
    block_tokens=4,
    max_new_tokens=8,
    temperature=1.0,
    fallback="no",
)


def drafts(*bounds):
    guided = GuidedResponse((), False, 1, 1, 0, 0)
    return [Draft("", None, None, cost, None, None, back, guided) for cost, back in bounds]


def test_what_is_served_at_a_level_counts_and_never_more_than_the_declared_bound():
    given = drafts((0.2, -1.0), (0.6, -1.0), (9.0, -1.0), (math.inf, -0.5), (math.inf, math.inf))
    assert served_costs(given, 0.5, 4.0).tolist() == [0.2, -1.0, -1.0, -0.5, 4.0]
    assert served_costs(given, math.inf, 4.0).tolist() == [0.2, 0.6, 4.0, -0.5, 4.0]
    assert served_costs(given, -math.inf, 4.0).tolist() == [-1.0, -1.0, -1.0, -0.5, 4.0]


def names(*profiles):
    return guided_names([CalibratedProfile("cvar", a, d, SETTING, None) for a, d in profiles])


def test_names_are_as_short_as_tells_decoders_apart():
    assert names((0.1, 0.0), (0.1, 0.5)) == ["p+guided ≤0.00", "p+guided ≤0.50"]
    assert names((0.1, 0.5), (0.05, 0.5)) == ["p+guided CVaR0.1 ≤0.50", "p+guided CVaR0.05 ≤0.50"]
    assert names((0.1, 0.501), (0.1, 0.502)) == [
        "p+guided CVaR0.1 ≤0.501",
        "p+guided CVaR0.1 ≤0.502",
    ]
    with pytest.raises(InputError, match="two entries are the same"):
        names((0.1, 0.5), (0.1, 0.5))
