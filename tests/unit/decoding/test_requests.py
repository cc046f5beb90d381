"""Requests: matched with calibrated profiles, certified where that holds, and refused."""

import dataclasses
import math

import pytest
from tests.unit.decoding.served import SETTING, decoder, profile

from tailguard.decoding import CalibratedProfile, Certificate, match_profile
from tailguard.decoding.strategy import draw_once, strategy_name
from tailguard.errors import InfeasibleError, InputError
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskLimit, Spectral


def test_a_request_snaps_to_the_next_stricter_profile(policy, heads):
    grid = [
        profile(dataclasses.replace(SETTING, fallback=f"{mass} {budget}"), tail_mass=mass,
                budget=budget)
        for mass in (0.01, 0.05, 0.25)
        for budget in (-1.0, 0.0, 1.0)
    ]  # fmt: skip
    for mass, budget, expected in [
        (0.05, 0.0, (0.05, 0.0)),
        (0.1, 0.5, (0.05, 0.0)),
        (0.3, 9.0, (0.25, 1.0)),
        (0.01, -1.0, (0.01, -1.0)),
        (0.04, -0.2, (0.01, -1.0)),
    ]:
        found = match_profile(grid, RiskLimit(CVaR(mass), budget))
        assert found.limit == RiskLimit(CVaR(expected[0]), expected[1])
    # No measure is below the mean, and CVaR is above its own blends with it.
    for looser in (Mean(), CVaR(1.0), MeanCVaR(0.25, 0.5), MeanCVaR(0.3, 0.0)):
        assert match_profile(grid, RiskLimit(looser, 0.0)).limit == RiskLimit(CVaR(0.25), 0.0)
    for mass, budget, reachable in [(0.05, -2.0, -1.0), (0.005, 0.0, math.inf)]:
        with pytest.raises(InfeasibleError) as error:
            decoder(policy, heads, *grid).generate(["a"], measure=CVaR(mass), budget=budget)
        assert error.value.smallest_reachable_risk == reachable
    with pytest.raises(InfeasibleError, match=r"under such a measure is -1$"):
        match_profile(grid, RiskLimit(CVaR(0.05), -2.0))
    for unknown in (CVaR(0.005), Entropic(1.0, 9.0), Spectral((0.005, 0.5), (0.5, 0.5))):
        with pytest.raises(InfeasibleError, match=r"calibrated: cvar at 0\.01 ≤ -1; cvar at 0\.01"):
            match_profile(grid, RiskLimit(unknown, 5.0))


def test_certified_only_where_the_certificate_holds(policy, heads):
    grid = [
        profile(tail_mass=0.1, budget=0.0, bound=-0.05),
        profile(tail_mass=0.1, budget=-1.0, bound=-0.9),
        profile(tail_mass=0.05, budget=0.0),
    ]
    served = decoder(policy, heads, *grid)

    def certified(**kwargs):
        found = {answer.certified for answer in served.generate(["a", "b"], **kwargs)}
        assert len(found) == 1
        return found.pop()

    assert certified()
    assert certified(max_candidates=3, temperature=1.0, top_p=1.0, max_new_tokens=8)
    assert not certified(max_candidates=2)
    assert not certified(temperature=0.5)
    assert not certified(top_p=0.9)
    assert not certified(max_new_tokens=7)
    assert not certified(stop=["z"])
    assert certified(measure=CVaR(0.1), budget=0.0)
    assert certified(measure=CVaR(0.5), budget=0.3)  # a stricter point covers it
    assert not certified(measure=CVaR(0.1), budget=-1.0)  # the bound is above the budget
    assert certified(measure=CVaR(0.1), budget=-0.5)
    assert not certified(measure=CVaR(0.05), budget=0.0)  # no certificate


@dataclasses.dataclass(frozen=True)
class DrawOnceMore:
    """A strategy with a parameter, which draws as the default does."""

    above: float

    def __call__(self, draw, prompts, seeds):
        return draw(prompts, seeds)


def draw_alike(draw, prompts, seeds):
    return draw(prompts, seeds)


def closing_over(above):
    return lambda draw, prompts, seeds: draw(prompts, seeds) if above else []


def test_a_certificate_counts_for_no_other_strategy_than_its_own(policy, heads):
    def certified(strategy, made_with):
        certificate = Certificate(-0.5, 0.95, 1000, strategy_name(made_with))
        found = decoder(policy, heads, CalibratedProfile(SETTING, certificate), strategy=strategy)
        return found.generate(["a"])[0].certified

    strategies = [draw_once, draw_alike, DrawOnceMore(1.0), DrawOnceMore(2.0)]
    strategies += [closing_over(1.0), closing_over(2.0)]
    for i, strategy in enumerate(strategies):
        for j, made_with in enumerate(strategies):
            assert certified(strategy, made_with) == (i == j)
    assert certified(DrawOnceMore(1.0), DrawOnceMore(1.0))
    # What a file without the name was made with.
    assert Certificate(0.0, 0.95, 10).strategy == strategy_name(draw_once)


def test_any_measure_can_be_asked_for_where_it_is_calibrated(policy, heads):
    limit = RiskLimit(Spectral((0.1, 0.5), (0.5, 0.5)), 1.0)
    setting = dataclasses.replace(SETTING, limit=limit, threshold=(0.5, -0.5))
    served = decoder(policy, heads, CalibratedProfile(setting, Certificate(0.5, 0.95, 1000)))
    for measure, budget in ((limit.measure, 1.0), (limit.measure, 2.0), (Mean(), 1.0)):
        assert served.generate(["a"], measure=measure, budget=budget)[0].certified
    with pytest.raises(InfeasibleError):
        served.generate(["a"], measure=CVaR(0.5), budget=1.0)


def test_wrong_requests_are_refused(policy, heads):
    served = decoder(policy, heads)
    with pytest.raises(InputError, match="both"):
        served.generate(["a"], measure=CVaR(0.1))
    with pytest.raises(InputError, match="both"):
        served.generate(["a"], budget=0.0)
    with pytest.raises(InputError, match="prompts"):
        served.generate([])
    with pytest.raises(InputError, match=r"prompts\[1\]"):
        served.generate(["a", " "])
    with pytest.raises(InputError, match=r"prompts\[0\] is too long"):
        served.generate(["a " * 40])
    with pytest.raises(InputError, match="budget"):
        served.generate(["a"], measure=CVaR(0.1), budget=math.nan)
