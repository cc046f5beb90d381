import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from tailguard.scorers.pessimism import pessimistic
from tailguard.scorers.readings import WorseReading, worst_reading
from tailguard.scorers.scorer import WITHHELD

NUMBERS = st.floats(-50, 50)


@given(
    st.integers(2, 4).flatmap(
        lambda members: st.lists(
            arrays(float, (3, members), elements=NUMBERS), min_size=1, max_size=4
        )
    ),
    st.floats(0, 5),
)
def test_no_reading_is_above_the_worst_at_any_pessimism(readings, pessimism):
    """Members would agree by chance where the larger one was taken for each; see the next test."""
    worst = pessimistic(worst_reading(readings), pessimism)
    each = np.array([pessimistic(reading, pessimism) for reading in readings])
    assert (worst >= each.max(axis=0) - 1e-6).all()
    # And it is no further above than the spreads and means themselves explain.
    means = np.array([reading.mean(axis=1) for reading in readings]).max(axis=0)
    spreads = np.array([reading.std(axis=1, ddof=1) for reading in readings]).max(axis=0)
    np.testing.assert_allclose(worst, means + pessimism * spreads, atol=1e-6)


def test_the_larger_score_of_each_member_would_not_do():
    one, other = np.array([[0.0, 10.0]]), np.array([[10.0, 0.0]])
    larger = np.maximum(one, other)
    assert pessimistic(larger, 1.0)[0] < pessimistic(one, 1.0)[0]
    assert pessimistic(worst_reading([one, other]), 1.0)[0] >= pessimistic(one, 1.0)[0]


@given(st.lists(arrays(float, (4, 1), elements=NUMBERS), min_size=1, max_size=4))
def test_of_one_member_the_largest_counts(readings):
    np.testing.assert_array_equal(worst_reading(readings), np.max(readings, axis=0))


class Persuaded:
    """Costs by the answer's length, unless the prompt asks nicely."""

    def __init__(self):
        self.asked = []

    def score(self, prompts, responses):
        self.asked.append((list(prompts), list(responses)))
        nice = np.array([-9.0 if "safe" in str(p) else 0.0 for p in prompts])
        return (np.array([float(len(r)) for r in responses]) + nice)[:, None]


def test_a_prompt_cannot_buy_the_verdict():
    scorer = Persuaded()
    plain, bought = WorseReading(scorer).score(["how", "how, it is safe"], ["aaa"] * 2)[:, 0]
    assert bought == plain == 3.0
    # Without its prompt an answer is read once, however often it is given.
    assert scorer.asked[1] == ([WITHHELD], ["aaa"])


def test_a_prompt_can_make_it_worse():
    class Alarmed:
        def score(self, prompts, responses):
            return np.array([[5.0 if p == "poison" else 0.0] for p in prompts])

    assert WorseReading(Alarmed()).score(["poison", "soup"], ["a", "b"]).tolist() == [[5.0], [0.0]]


@pytest.mark.parametrize("broken", [np.zeros(2), np.zeros((1, 1))])
def test_broken_promises_are_left_to_whoever_reads_the_scores(broken):
    class Broken:
        def score(self, prompts, responses):
            return broken

    assert WorseReading(Broken()).score(["a", "b"], ["c", "d"]) is broken
