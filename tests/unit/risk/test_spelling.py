"""How measures and limits are written, and read back."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tailguard.errors import InputError
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskLimit, Spectral
from tailguard.risk.spelling import (
    MEASURES,
    describe_limit,
    limit_from_json,
    limit_to_json,
    parse_measure,
    parse_request,
    spell_measure,
)

shares = st.floats(0.0, 1.0)
# Built in the tests: the types are checked by sampling, which hypothesis wants to do itself.
kinds = st.sampled_from(sorted(MEASURES))
numbers = st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), shares, st.floats(-1e6, 1e6))


def built(kind, drawn):
    one, other, share, bound = drawn
    arguments = {
        "mean": (),
        "cvar": (one,),
        "mean-cvar": (one, share),
        "entropic": (1e3 * one, bound),
        "spectral": ((one, other), (share, 1.0 - share)),
    }
    return MEASURES[kind](*arguments.get(kind, (10.0 * one,)))


@given(kinds, numbers)
def test_every_measure_is_read_back_as_it_was_written(kind, drawn):
    measure = built(kind, drawn)
    assert parse_measure(spell_measure(measure)) == measure


@given(
    kinds,
    numbers,
    st.floats(allow_nan=False).filter(lambda d: d != -math.inf),
    st.sampled_from(["pooled", "per_prompt"]),
)
def test_every_limit_goes_through_json(kind, drawn, budget, scope):
    limit = RiskLimit(built(kind, drawn), budget, scope)
    assert limit_from_json(json.loads(json.dumps(limit_to_json(limit)))) == limit


def test_no_limit_stays_none():
    assert limit_to_json(None) is None
    assert limit_from_json(None) is None
    assert describe_limit(None) == "unconstrained"


def test_parameters_stand_in_the_text_beside_it_or_in_the_context():
    for found in (
        parse_measure("mean-cvar:tail_mass=0.1,weight=0.3"),
        parse_measure("mean-cvar:tail_mass=0.1", {"weight": 0.3}),
        parse_measure("mean-cvar", {"tail_mass": 0.1, "weight": None}, context={"weight": 0.3}),
    ):
        assert found == MeanCVaR(0.1, 0.3)
    assert parse_measure("mean-cvar", {"tail_mass": 0.1}) == MeanCVaR(0.1, 0.5)
    # What the context says of other measures does not matter.
    assert parse_measure("mean", context={"tail_mass": 0.1, "cost_bound": 3.0}) == Mean()


@pytest.mark.parametrize(
    ("text", "beside", "parameter", "said"),
    [
        ("cvr", {}, "measure", "give one of mean, cvar"),
        ("cvar", {}, "tail_mass", "needs tail_mass"),
        ("mean", {"tail_mass": 0.1}, "tail_mass", "takes no parameters"),
        ("cvar:tail_mass=0.1", {"tail_mass": 0.2}, "tail_mass", "given twice"),
        ("cvar:tail_mass=0.1,tail_mass=0.2", {}, "tail_mass", "stands twice"),
        ("cvar:tail_mass", {}, "measure", "name:parameter=number"),
        ("cvar:", {}, "measure", "name:parameter=number"),
        ("cvar:tail_mass=", {}, "measure", "name:parameter=number"),
        ("cvar:tail_mass=x", {}, "tail_mass", "must be a number, got 'x'"),
        ("cvar:tail_mass=0.1/0.2", {}, "tail_mass", "is one number"),
        ("cvar", {"tail_mass": [0.1, 0.2]}, "tail_mass", "is one number"),
        ("mean-variance:aversion=1/2", {}, "aversion", "is one number"),
        ("spectral:tail_masses=0.1/,weights=1", {}, "tail_masses", "must be a number"),
        # What float() and Python would let pass, and nobody means.
        ("cvar:tail_mass=0_1", {}, "tail_mass", "must be a number"),
        ("cvar:tail_mass=٠.١", {}, "tail_mass", "must be a number"),
        ("cvar", {"tail_mass": True}, "tail_mass", "must be a number"),
        ("cvar", {"tail_mass": {}}, "tail_mass", "must be a number"),
        ("entropic", {"theta": 1.0}, "cost_bound", "needs cost_bound"),
    ],
)
def test_what_is_wrong_names_the_parameter(text, beside, parameter, said):
    with pytest.raises(InputError, match=said) as caught:
        parse_measure(text, beside)
    assert caught.value.parameter == parameter


def test_a_value_out_of_range_is_the_measure_s_own_error():
    with pytest.raises(InputError, match="tail_mass must lie"):
        parse_measure("cvar:tail_mass=1.5")


@pytest.mark.parametrize("written", ["spectral:tail_masses=0.1,weights=1", "spectral"])
def test_a_mixture_of_one_is_read_from_a_single_number(written):
    beside = {} if ":" in written else {"tail_masses": 0.1, "weights": "1"}
    found = parse_measure(written, beside)
    assert found == Spectral((0.1,), (1.0,))
    assert parse_measure(spell_measure(found)) == found


def test_weights_written_with_few_digits_are_those_of_a_mean():
    thirds = Spectral((0.1, 0.3, 0.9), (0.3333333,) * 3)
    assert thirds.value([2.0] * 100) == pytest.approx(2.0, rel=1e-15)
    assert parse_measure(spell_measure(thirds)) == thirds


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"measure": "cvar", "tail_mass": 0.1},
        {"measure": "cvar", "tail_mass": 0.1, "budget": None},
        {"measure": "cvar", "tail_mass": 0.1, "budget": [1]},
        {"measure": "cvar", "tail_mass": [0.1, 0.2], "budget": 1},
        [1],
    ],
)
def test_a_file_that_holds_no_limit_is_refused_in_one_line(content):
    # Past the run-time type check: a file may hold anything.
    read = getattr(limit_from_json, "__wrapped__", limit_from_json)
    with pytest.raises(InputError):
        read(content)


def test_requests():
    assert parse_request(None, None, {"tail_mass": None}) is None
    assert parse_request(None, 0.5, {"tail_mass": 0.1}) == RiskLimit(CVaR(0.1), 0.5)
    assert parse_request("mean", 0.5, {}) == RiskLimit(Mean(), 0.5)
    asked = parse_request("entropic", 0.5, {"theta": 2.0})
    assert asked is not None
    assert Entropic(2.0, 7.0).dominates(asked.measure)  # whatever the calibrated bound
    for measure, beside in (("mean", {}), (None, {"tail_mass": 0.1})):
        with pytest.raises(InputError, match="needs a budget") as caught:
            parse_request(measure, None, beside)
        assert caught.value.parameter == "budget"


def test_words_for_tables():
    assert describe_limit(RiskLimit(CVaR(0.1), 0.25)) == "cvar at 0.1 ≤ 0.25"
    assert describe_limit(RiskLimit(Mean(), -1.0)) == "mean ≤ -1"
    told = describe_limit(RiskLimit(MeanCVaR(0.1, 0.5), 2.0))
    assert told == "mean-cvar at tail mass 0.1, weight 0.5 ≤ 2"


@given(kinds, numbers, kinds, numbers, st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=12))
def test_what_dominates_is_nowhere_smaller(kind, drawn, other_kind, other_drawn, listed):
    one, other = built(kind, drawn), built(other_kind, other_drawn)
    costs = np.minimum(listed, min(one.largest_cost, other.largest_cost))
    if one.dominates(other):
        mass = np.full(len(costs), 1.0 / len(costs))
        larger, smaller = (float(measure.value_rows(costs, mass)) for measure in (one, other))
        assert larger >= smaller - 1e-6 * (1.0 + abs(smaller))


def test_names_cover_every_measure_once():
    assert len(set(MEASURES.values())) == len(MEASURES)
