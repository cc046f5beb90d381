"""The measured dial: look-ups against brute force, and what never may happen."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tailguard.errors import InputError
from tailguard.portfolio.dial import DialTable
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskLimit, Spectral

MEASURES = [
    CVaR(0.1),
    CVaR(1.0),
    Mean(),
    MeanCVaR(0.2, weight=0.3),
    Entropic(0.5, cost_bound=100.0),
    Spectral((0.1, 0.5), (0.4, 0.6)),
]


def table(num_entries=30, num_prompts=120, num_samples=3, seed=0, kl_coef=0.1):
    """Entries with more reward have more and heavier cost."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(0.2, 2.0, num_entries)
    prompts = rng.exponential(size=(1, num_prompts, 1))
    noise = rng.standard_t(4, size=(num_entries, num_prompts, num_samples))
    cost = np.minimum(scale[:, None, None] * (prompts + np.abs(noise)) - 1.0, 100.0)
    tokens = rng.uniform(10, 40, num_entries)
    return DialTable(cost, scale + 0.1 * rng.normal(size=num_entries), scale**2, tokens, kl_coef)


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_the_best_entry_within_the_budget_is_found(measure, num_samples):
    dial = table(num_samples=num_samples)
    for budget in (-0.5, 0.0, 1.0, 3.0, 50.0):
        found = dial.look_up(RiskLimit(measure, budget), token_price=0.01)
        high, values = [], []
        for entry in range(dial.num_entries):
            costs = dial.cost[entry]
            risk = measure.value(costs.ravel())
            penalty = measure.penalty(costs.ravel(), measure.minimiser(costs.ravel()))
            assert penalty.mean() == pytest.approx(risk, abs=1e-6)
            means = penalty.reshape(costs.shape).mean(axis=1)
            high.append(risk + 2 * means.std(ddof=1) / math.sqrt(len(means)))
            values.append(dial.reward[entry] - 0.1 * dial.kl[entry] - 0.01 * dial.tokens[entry])
        meeting = [entry for entry in range(dial.num_entries) if high[entry] <= budget]
        assert found.feasible == bool(meeting)
        best = max(meeting, key=lambda e: values[e]) if meeting else int(np.argmin(high))
        assert found.entry == best
        assert found.value == pytest.approx(values[best])


HINGES = [measure for measure in MEASURES if measure.hinge is not None]


@given(
    st.lists(st.integers(-3, 3), min_size=10, max_size=40),
    st.sampled_from([*HINGES, CVaR(0.29), CVaR(0.95), MeanCVaR(0.5, weight=0.9)]),
    st.floats(-1e3, 1e3),
)
def test_with_one_answer_to_a_prompt_sums_say_what_the_law_says(costs, measure, shift):
    """Ties, constants, and tails that end at an atom, between two, and at the last."""
    given = np.array(costs, dtype=float) / 3.0 + shift
    zero = np.zeros(1)
    dial = DialTable(given[None, :, None], zero, zero, zero)
    if measure.smallest_tail < dial.smallest_tail_mass:
        return
    risk, error = dial.risks(measure)
    penalty = measure.penalty(given, measure.minimiser(given))
    exact = measure.value_rows(given, np.full(len(given), 1 / len(given)))
    assert risk[0] == pytest.approx(exact, abs=1e-9)
    assert error[0] == pytest.approx(penalty.std(ddof=1) / math.sqrt(len(given)), abs=1e-6)


def test_errors_are_those_of_repeated_samples():
    """The standard error of CVaR over prompts, against its spread over fresh samples of prompts."""
    risks, errors = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        own = rng.exponential(size=(1, 300, 1))  # shared by a prompt's answers
        cost = own + 0.2 * rng.exponential(size=(1, 300, 4))
        dial = DialTable(cost, np.zeros(1), np.zeros(1), np.zeros(1))
        risk, error = dial.risks(CVaR(0.1))
        risks.append(risk[0])
        errors.append(error[0])
    assert np.mean(errors) == pytest.approx(np.std(risks), rel=0.15)


@given(st.floats(-2, 10), st.floats(0, 3), st.floats(0, 3), st.sampled_from(MEASURES))
def test_looser_is_never_worth_less(budget, more, margin, measure):
    dial = table(num_entries=12, num_prompts=40, seed=3)
    measure = CVaR(0.3) if measure.smallest_tail < dial.smallest_tail_mass else measure
    tight = dial.look_up(RiskLimit(measure, budget), margin=margin)
    loose = dial.look_up(RiskLimit(measure, budget + more), margin=margin)
    assert loose.feasible >= tight.feasible
    if tight.feasible:
        assert loose.value >= tight.value
        assert tight.risk <= budget
    careful = dial.look_up(RiskLimit(measure, budget), margin=margin + more)
    assert careful.feasible <= tight.feasible


def test_a_cap_on_divergence_holds_also_out_of_reach():
    dial = table()
    for budget in (-10.0, 1.0, 100.0):
        assert dial.kl[dial.look_up(RiskLimit(Mean(), budget), largest_kl=1.0).entry] <= 1.0
    with pytest.raises(InputError, match="largest_kl"):
        dial.look_up(RiskLimit(Mean(), 0.0), largest_kl=0.001)


def test_what_is_not_useful_is_never_chosen():
    dial = table(num_entries=60, num_prompts=100)
    keep = dial.useful()
    assert 0 < keep.sum() < 60
    assert dial.useful()[dial.reward.argmax()]
    for measure in MEASURES:
        for budget in (-0.2, 0.5, 2.0, 9.0):
            for price in (0.0, 0.05):
                limit = RiskLimit(measure, budget)
                found = dial.look_up(limit, margin=0.0, token_price=price)
                kept = dial.take(keep).look_up(limit, margin=0.0, token_price=price)
                if found.feasible:
                    assert kept.value == pytest.approx(found.value, abs=1e-9)


def test_a_tail_of_a_handful_of_prompts_is_not_answered():
    dial = table(num_prompts=50)
    assert dial.smallest_tail_mass == pytest.approx(0.2)
    with pytest.raises(InputError, match=r"no tail below 0\.2 is measured"):
        dial.look_up(RiskLimit(CVaR(0.1), 0.0))
    dial.look_up(RiskLimit(CVaR(0.2), 0.0))


def test_one_prompt_shows_no_error_and_meets_no_budget():
    dial = table(num_prompts=1)
    found = dial.look_up(RiskLimit(Mean(), 1e6))
    assert not found.feasible
    assert math.isinf(found.error)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_answers_without_a_score_are_refused(fault):
    dial = table()
    cost = dial.cost.copy()
    cost[3, 4, 1] = fault
    with pytest.raises(InputError, match="cost: NaN or infinite"):
        DialTable(cost, dial.reward, dial.kl, dial.tokens)


def test_arrays_bring_it_back():
    dial = table()
    again = DialTable.from_arrays(dial.to_arrays())
    limit = RiskLimit(CVaR(0.1), 1.0)
    assert again.look_up(limit).entry == dial.look_up(limit).entry
    with pytest.raises(InputError, match="no array"):
        DialTable.from_arrays({"cost": dial.cost})


def test_a_second_look_takes_no_time():
    dial = table(num_entries=700, num_prompts=600, num_samples=1)
    dial.look_up(RiskLimit(CVaR(0.1), 1.0))
    started = time.process_time()
    for budget in np.linspace(-1, 5, 100):
        dial.look_up(RiskLimit(CVaR(0.1), float(budget)))
    assert (time.process_time() - started) / 100 < 0.005
