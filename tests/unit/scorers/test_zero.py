"""The zero of a cost, against laws whose zero is known."""

import numpy as np
import pytest

from tailguard.errors import InputError
from tailguard.scorers.zero import estimate_zero


@pytest.mark.parametrize("zero", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("slope", [0.7, 4.0])
def test_finds_the_zero_of_a_logistic_law_even_where_unsafe_is_rare(zero, slope):
    generator = np.random.default_rng(0)
    scores = zero - 1.0 + generator.normal(size=20_000)  # most answers are safe
    unsafe = generator.random(scores.size) < 1 / (1 + np.exp(-slope * (scores - zero)))
    # The zero's standard error is below .04 here: sd of a logistic regression's ratio estimate.
    assert estimate_zero(scores, unsafe) == pytest.approx(zero, abs=0.15)


def test_moves_with_the_scores():
    generator = np.random.default_rng(1)
    scores = generator.normal(size=500)
    unsafe = scores + generator.normal(size=500) > 0.4
    moved = estimate_zero(3.0 * scores + 5.0, unsafe)
    assert moved == pytest.approx(3.0 * estimate_zero(scores, unsafe) + 5.0, abs=1e-2)


def test_separable_labels_give_a_zero_between_them():
    scores = np.concatenate([np.linspace(-3, -1, 20), np.linspace(1, 3, 20)])
    assert -1 < estimate_zero(scores, scores > 0) < 1


@pytest.mark.parametrize(
    ("scores", "unsafe"),
    [
        (np.zeros(20), np.ones(20, bool)),
        (np.zeros(3), np.zeros(3, bool)),
    ],
)
def test_refuses_what_has_no_zero(scores, unsafe):
    with pytest.raises(InputError):
        estimate_zero(scores, unsafe)
