import numpy as np
import pytest
from hypothesis import given, strategies as st

from tailguard.errors import InputError
from tailguard.evaluation import hypervolume

points = st.lists(st.tuples(st.integers(-2, 6), st.integers(-2, 6)), min_size=1, max_size=8)


@given(points)
def test_area_is_the_number_of_unit_cells_dominated(chosen):
    reward, risk = np.meshgrid(np.arange(0, 6), np.arange(0, 6))
    # The cell [r, r+1] × [ρ, ρ+1] is dominated by a point with reward ≥ r+1 and risk ≤ ρ.
    hit = np.zeros_like(reward, dtype=bool)
    for r, rho in chosen:
        hit |= (r >= reward + 1) & (rho <= risk)
    inside = [(r, max(rho, 0)) for r, rho in chosen]  # cells below risk 0 are outside the grid
    assert hypervolume(inside, (0, 6)) == pytest.approx(hit.sum())


def test_more_points_never_shrink_it_and_order_does_not_matter():
    rng = np.random.default_rng(0)
    cloud = rng.uniform(size=(20, 2))
    areas = [hypervolume(cloud[:k], (0, 1)) for k in range(1, 21)]
    assert np.all(np.diff(areas) >= -1e-12)
    assert hypervolume(cloud[::-1], (0, 1)) == pytest.approx(areas[-1])


@pytest.mark.parametrize(
    ("given_points", "reference"),
    [([1.0, 2.0], (0, 1)), ([[1.0, 2.0]], (0,)), ([[np.nan, 0.0]], (0, 1))],
)
def test_bad_input_is_named(given_points, reference):
    with pytest.raises(InputError):
        hypervolume(given_points, reference)
