"""Bounds from few labels: coverage under any choice of labels, what a good choice gains, and the floor."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.unit.risk.test_bounds import fails_at_most

from tailguard.errors import InputError
from tailguard.risk import (
    CVaR,
    label_probabilities,
    labelled_risk_bound,
    predictable_risk_bound,
)

TAIL = CVaR(0.2)


def world(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Costs in [0, 2], and a proxy that sees most of them."""
    cost = 2.0 * rng.beta(0.5, 2.0, size)
    return cost, cost + 0.1 * rng.normal(size=size)


def few(rng: np.random.Generator, cost: np.ndarray, prob: np.ndarray) -> np.ndarray:
    return np.where(rng.random(cost.size) < prob, cost, np.nan)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_covers_with_a_good_proxy_and_with_one_that_points_the_wrong_way(sign):
    rng, repetitions = np.random.default_rng(31), 150
    truth = TAIL.value(world(rng, 400_000)[0])
    missed = 0
    for _ in range(repetitions):
        cost, proxy = world(rng, 600)
        doubt = np.maximum(sign * proxy, 0.0) + (sign < 0) * 2.0
        prob = label_probabilities(doubt, 200, 0.1)
        bound = labelled_risk_bound(
            few(rng, cost, prob), prob, sign * proxy, TAIL, upper=2.0, smallest=0.1, confidence=0.8
        )
        missed += bound < truth
    assert missed <= fails_at_most(0.8, repetitions)


def test_labels_where_they_matter_are_worth_more_while_variance_is_what_counts():
    rng, uniform, active = np.random.default_rng(32), [], []
    for _ in range(25):
        cost, proxy = world(rng, 4000)
        prob = label_probabilities(np.maximum(proxy, 0.0), 1000, 0.15)
        labels = few(rng, cost, prob)
        uniform.append(predictable_risk_bound(cost[:1000], TAIL, upper=2.0))
        active.append(labelled_risk_bound(labels, prob, proxy, TAIL, upper=2.0, smallest=0.15))
    truth = TAIL.value(world(rng, 400_000)[0])
    assert np.mean(active) - truth < 0.8 * (np.mean(uniform) - truth)


def test_no_choice_of_labels_gets_below_the_floor():
    # Harm of mass p among answers labelled with q is unseen with probability (1 − pq)^n: at .05
    # that law is still possible, so a bound that held less would be wrong for it.
    num, q = 2000, 0.25
    rng = np.random.default_rng(33)
    labels = few(rng, np.zeros(num), np.full(num, q))
    bound = labelled_risk_bound(
        labels, np.full(num, q), rng.random(num), TAIL, upper=10.0, smallest=q
    )
    hidden = (1.0 - 0.05 ** (1.0 / num)) / q
    assert bound >= 10.0 * hidden / 0.2
    assert bound < 2.0 * 10.0 * hidden / 0.2  # and it is near it


def test_with_every_answer_labelled_the_proxy_does_not_matter():
    # Then Z is φ itself, and the capital can be written out bet by bet.
    rng = np.random.default_rng(34)
    cost, proxy = world(rng, 80)
    everything = np.ones(80)
    bound = labelled_risk_bound(
        cost, everything, proxy, TAIL, upper=2.0, smallest=1.0, confidence=0.9
    )
    other = labelled_risk_bound(
        cost, everything, -proxy, TAIL, upper=2.0, smallest=1.0, confidence=0.9
    )
    assert bound == pytest.approx(other, abs=1e-9)

    def capital(value: float) -> float:
        known, most = 1.0, 1.0
        marks = [20]  # four in the tail, and at most a quarter of the labels
        while marks[-1] < 80:
            marks.append(min(80, math.ceil(1.25 * marks[-1])))
        for i in range(20, 80):
            past = cost[: max(mark for mark in marks if mark <= i)]
            nu = TAIL.minimiser(past)
            seen = nu + np.maximum(past - nu, 0.0) / 0.2
            top = nu + (2.0 - nu) / 0.2
            variance = 0.25 * (top - seen.min()) ** 2 + past.size * seen.var()
            bet = math.sqrt(2 * math.log(10) / (80 * variance / (past.size + 1)))
            bet = min(bet, 0.9 / max(top - value, 1e-12))
            known *= 1 + bet * (value - nu - max(cost[i] - nu, 0.0) / 0.2)
            most = max(most, known)
        return most

    assert capital(bound - 1e-6) < 10.0 <= capital(bound + 1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.0, 100.0), min_size=4, max_size=60),
    st.floats(0.05, 1.0),
    st.floats(0.1, 1.0),
)
def test_probabilities_spend_the_labels_and_follow_the_doubt(doubt, share, least):
    num, smallest = share * len(doubt), share * least
    prob = label_probabilities(doubt, num, smallest)
    assert prob.sum() == pytest.approx(num, rel=1e-6)
    assert (prob >= smallest * (1 - 1e-9)).all()
    assert (prob <= 1 + 1e-9).all()
    order = np.argsort(doubt)
    assert (np.diff(prob[order]) >= -1e-9).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probabilities": np.full(50, 0.05)}, "probabilities"),
        ({"costs": np.full(50, np.nan)}, "0 labels"),
        ({"costs": np.full(50, 3.0)}, "upper"),
        ({"proxy": np.full(50, np.inf)}, "proxy: not finite"),
        ({"proxy": np.zeros(49)}, "shapes"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    given = {"costs": np.zeros(50), "probabilities": np.full(50, 0.5), "proxy": np.zeros(50)}
    with pytest.raises(InputError, match=said):
        labelled_risk_bound(**(given | change), measure=TAIL, upper=2.0, smallest=0.2)


def test_the_scale_may_come_from_other_answers():
    rng = np.random.default_rng(35)
    others = rng.exponential(size=20_000)
    prob = label_probabilities(rng.exponential(size=2000), 500, 0.1, others)
    assert prob.sum() == pytest.approx(500, rel=0.05)
    alone = [label_probabilities([doubt], 0.25, 0.1, others)[0] for doubt in (0.0, 0.5, 9.0)]
    again = label_probabilities([9.0, 0.5, 0.0], 0.75, 0.1, others)
    assert again[::-1] == pytest.approx(alone)  # what one gets does not depend on the others


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="smallest"):
        label_probabilities(np.ones(10), 5, 0.6)
    with pytest.raises(InputError, match="doubt"):
        label_probabilities(np.full(10, -1.0), 5, 0.1)
