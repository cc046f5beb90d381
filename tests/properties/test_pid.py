"""PID control of a multiplier: bounds, anti-windup, convergence."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tailguard.errors import InputError, ScoreError
from tailguard.training.cost_window import CostWindow
from tailguard.training.pid import PID, newton_scale

gains = st.floats(0, 2)
violations = st.lists(st.floats(-50, 50), min_size=1, max_size=40)


@given(gains, gains, gains, st.floats(0.1, 10), st.floats(0, 1), violations)
def test_multiplier_and_integral_stay_in_range(kp, ki, kd, ceiling, start, errors):
    control = PID(proportional=kp, integral=ki, derivative=kd, ceiling=ceiling)
    state = control.init(start * ceiling)
    for error in errors:
        state = control.update(state, error)
        assert 0 <= state.multiplier <= ceiling
        assert 0 <= state.integral <= ceiling


@given(gains, st.floats(0.01, 2), st.floats(0.1, 10), st.integers(2, 30))
def test_long_saturation_is_forgotten_at_once(kp, ki, ceiling, steps):
    """After any time at the ceiling, one slack step leaves it, as after a single step there."""
    control = PID(proportional=kp, integral=ki, ceiling=ceiling)
    once = long = control.update(control.init(ceiling), 30.0)
    for _ in range(steps):
        long = control.update(long, 30.0)
    assert long == once
    assert control.update(long, -1.0).multiplier < ceiling


@given(gains, st.floats(0.01, 2), st.integers(2, 30))
def test_slack_does_not_wind_below_zero(kp, ki, steps):
    control = PID(proportional=kp, integral=ki)
    state = control.init(0.5)
    for _ in range(steps):
        state = control.update(state, -40.0)
    assert state.multiplier == 0
    assert control.update(state, 1.0).multiplier >= ki


@given(st.floats(0, 1), st.floats(0.3, 1), st.floats(0, 1), st.floats(-0.1, 3), st.floats(0.5, 2))
def test_converges_on_a_toy_dual(kp, ki, start, budget, slope):
    """E φ(λ) = 2e^{−slope λ} − 0.2 must meet the budget, or λ end at 0 where it is slack."""

    def expected(multiplier):
        return 2 * math.exp(-slope * multiplier) - 0.2

    control = PID(proportional=kp, integral=ki)
    state = control.init(start)
    for _ in range(250):
        state = control.update(state, expected(state.multiplier) - budget, scale=0.5)
    if budget >= expected(0.0):
        assert state.multiplier < 0.05
    else:
        assert expected(state.multiplier) == pytest.approx(budget, abs=0.02)


def test_proportional_and_derivative_terms_by_hand():
    control = PID(proportional=2.0, integral=0.5, derivative=3.0)
    state = control.update(control.init(1.0), 0.2, scale=0.5)
    assert state.integral == pytest.approx(1.0 + 0.5 * 0.5 * 0.2)
    assert state.multiplier == pytest.approx(1.05 + 0.5 * 2.0 * 0.2)  # no derivative at first
    after = control.update(state, 0.3, scale=0.5)
    assert after.integral == pytest.approx(1.05 + 0.5 * 0.5 * 0.3)
    assert after.multiplier == pytest.approx(1.125 + 0.5 * (2.0 * 0.3 + 3.0 * 0.1))
    falling = control.update(after, 0.1, scale=0.5)
    assert falling.multiplier == pytest.approx(1.15 + 0.5 * 2.0 * 0.1)  # a fall does not count


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_unmeasured_violation_stops(value):
    control = PID()
    with pytest.raises(InputError, match="violation"):
        control.update(control.init(0.0), value)


def test_wrong_settings_are_named():
    with pytest.raises(InputError, match=r"proportional=-1\.0"):
        PID(proportional=-1.0)
    with pytest.raises(InputError, match=r"ceiling=0\.0"):
        PID(ceiling=0.0)
    with pytest.raises(InputError, match=r"multiplier=3\.0"):
        PID(ceiling=2.0).init(3.0)
    with pytest.raises(InputError, match=r"scale=-1\.0"):
        PID().update(PID().init(0.0), 1.0, scale=-1.0)


def test_newton_scale_solves_a_linear_dual_in_one_step():
    """Two-point tilt at small λ: Δλ = β·Δ/Var moves E φ by Δ to first order."""
    costs = np.array([0.0, 1.0])
    kl_coef, step = 0.3, 1e-4
    scale = newton_scale(float(costs.var()), float(costs.var()), kl_coef)
    weights = np.exp(-scale * step * costs / kl_coef)
    weights /= weights.sum()
    assert costs.mean() - weights @ costs == pytest.approx(step, rel=1e-3)
    assert newton_scale(0.0, 0.0, kl_coef) == 0.0
    assert newton_scale(0.0, 2.0, kl_coef) == pytest.approx(0.15)


@given(st.integers(1, 20), st.lists(st.lists(st.floats(-9, 9), max_size=9), max_size=9))
def test_window_keeps_the_latest(capacity, batches):
    window = CostWindow(capacity)
    for batch in batches:
        window = window.push(np.array(batch, dtype=np.float64))
    everything = [cost for batch in batches for cost in batch]
    assert window.costs.tolist() == everything[-capacity:]


def test_window_is_a_value_and_refuses_nan():
    window = CostWindow(3).push(np.array([1.0, 2.0]))
    window.push(np.array([5.0]))
    assert window.costs.tolist() == [1.0, 2.0]
    with pytest.raises(ScoreError):
        window.push(np.array([np.nan]))
    with pytest.raises(InputError, match="capacity=0"):
        CostWindow(0)
    with pytest.raises(InputError, match="do not fit"):
        CostWindow(1, np.zeros(2))
