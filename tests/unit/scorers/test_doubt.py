import math

import numpy as np
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from tailguard.scorers.doubt import error_doubt

SCORES = arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(-40, 40))


@given(SCORES)
def test_it_is_the_entropy_of_the_mean_probability(members):
    for doubt, row in zip(error_doubt(members), members, strict=True):
        p = sum(1 / (1 + math.exp(-x)) for x in row) / len(row)
        terms = [-q * math.log2(q) for q in (p, 1 - p) if q > 0]
        assert math.isclose(doubt, sum(terms), abs_tol=1e-9)
        assert 0.0 <= doubt <= 1.0 + 1e-12


def test_it_is_largest_where_the_verdict_is_a_coin_and_not_where_members_differ_most():
    sure, coin, wide = [[8.0, 9.0]], [[0.1, -0.1]], [[4.0, 40.0]]
    assert error_doubt(np.array(sure)) < error_doubt(np.array(coin))
    assert error_doubt(np.array(wide)) < error_doubt(np.array(coin))
    assert error_doubt(np.array([[-9.0, 9.0]]))[0] > 0.99  # members who contradict each other
    assert np.isnan(error_doubt(np.array([[np.nan, 1.0]])))[0]
