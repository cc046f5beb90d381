"""Which points of the weight space are measured."""

import pytest

from tailguard.config import DialSection
from tailguard.pipeline.points import measured_points


def test_two_members_are_a_line_at_each_scale_and_the_base():
    points = measured_points(2, (0.0, 0.5, 1.5), (0.5, 1.0))
    assert points == [
        (0.0, 0.0),
        (0.5, 0.0),
        (0.25, 0.25),
        (-0.25, 0.75),
        (1.0, 0.0),
        (0.5, 0.5),
        (-0.5, 1.5),
    ]


def test_each_pair_of_more_members_and_no_point_twice():
    points = measured_points(3, (0.0, 0.5, 1.0), (1.0,))
    assert len(points) == len(set(points)) == 1 + 3 + 3
    assert all(sum(weight != 0 for weight in point) <= 2 for point in points)
    assert measured_points(1, (0.5,), (0.5, 1.0)) == [(0.0,), (0.5,), (1.0,)]


@pytest.mark.parametrize(
    "fields",
    [
        {"num_draws": 1},
        {"shares": []},
        {"shares": [0.5, 0.5]},
        {"scales": [0.0]},
        {"token_prices": [-1.0]},
        {"largest_withheld": 0.0},
        {"margin": -1.0},
    ],
    ids=str,
)
def test_keys_that_can_only_be_mistakes(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        DialSection.model_validate(fields)
