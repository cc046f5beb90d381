"""Penalties, the multiplier's step and its figures, against hand-made numbers."""

import json
import math

import numpy as np
import pytest

from tailguard.errors import InputError
from tailguard.risk import CVaR, Mean, RiskLimit, Spectral
from tailguard.training.dual import (
    Dual,
    PlannedConstraint,
    state_from_json,
    state_to_json,
)
from tailguard.training.pid import PID

COSTS = np.array([[0.0, 5.0], [1.0, -1.0], [3.0, 2.0], [-2.0, 0.0]])


def two_costs():
    return Dual(
        (
            PlannedConstraint(RiskLimit(CVaR(0.25), 0.5), threshold=1.0, multiplier=0.3),
            PlannedConstraint(RiskLimit(Mean(), -1.0), multiplier=2.0, cost_index=1),
            PlannedConstraint(RiskLimit(CVaR(0.5), 0.0), threshold=-1.0, multiplier=0.1),
        ),
        num_costs=2,
        kl_coef=0.2,
        window_size=6,
        pid=PID(proportional=0.0, integral=1.0),
    )


def test_shaping_is_the_sum_over_constraints_of_each_cost():
    dual = two_costs()
    first = COSTS[:, 0]
    tail = 0.3 * (1.0 + np.maximum(first - 1.0, 0) / 0.25)
    half = 0.1 * (-1.0 + np.maximum(first + 1.0, 0) / 0.5)
    expected = np.stack([-tail - half, -2.0 * COSTS[:, 1]], axis=1)
    assert dual.shape(dual.init(), COSTS) == pytest.approx(expected)


def test_update_uses_the_window_and_steps_once():
    dual = two_costs()
    state = dual.update(dual.update(dual.init(), COSTS), COSTS + 1.0)
    recent = np.concatenate([COSTS[2:, 0], COSTS[:, 0] + 1.0])
    assert state.windows[0].costs == pytest.approx(recent)
    penalty = 1.0 + np.maximum(recent - 1.0, 0) / 0.25
    before = 1.0 + np.maximum(COSTS[:, 0] - 1.0, 0) / 0.25
    expected = 0.3
    for costs, values in ((COSTS[:, 0], before), (recent, penalty)):
        expected += 0.2 / max(values.var(), costs.var()) * (values.mean() - 0.5)
    assert state.controls[0].multiplier == pytest.approx(expected)
    assert state.controls[0].violation == pytest.approx(penalty.mean() - 0.5)


def test_figures_name_what_they_count():
    dual = Dual((PlannedConstraint(RiskLimit(CVaR(0.25), 0.5), threshold=1.0),), 1, 0.1, 8)
    assert set(dual.figures(dual.init())) == {"multiplier", "threshold"}
    figures = dual.figures(dual.update(dual.init(), COSTS[:, :1]))
    assert figures["tail_size"] == 1.0  # 4 costs, a quarter of them
    assert figures["risk"] == 3.0
    assert figures["window_cost"] == 0.5
    several = two_costs()
    names = several.figures(several.update(several.init(), COSTS))
    assert {"multiplier_2", "tail_size_0", "window_cvar_1"} <= set(names)


def test_state_goes_through_json():
    dual = two_costs()
    for state in (dual.init(), dual.update(dual.init(), COSTS)):
        again = state_from_json(json.loads(json.dumps(state_to_json(state))), dual.init())
        assert str(again) == str(state)  # NaN and arrays compare as text
        assert math.isnan(again.controls[0].violation) == (state.windows[0].costs.size == 0)
    other = Dual((), 2, 0.1, 6)
    with pytest.raises(InputError, match="same constraints"):
        state_from_json(state_to_json(dual.init()), other.init())


def test_spectral_thresholds_shape_the_reward():
    measure = Spectral((0.5, 1.0), (0.5, 0.5))
    planned = PlannedConstraint(RiskLimit(measure, 1.0), threshold=(0.0, 1.0), multiplier=2.0)
    costs = np.array([[-1.0], [2.0]])
    dual = Dual((planned,), 1, 0.1, 4)
    by_hand = [0.5 * 0.0 + 0.5 * 1.0, 0.5 * 2.0 / 0.5 + 0.5 * (1.0 + 1.0)]
    assert dual.shape(dual.init(), costs)[:, 0] == pytest.approx(-2.0 * np.array(by_hand))


def test_wrong_plans_are_named():
    with pytest.raises(InputError, match="budget=inf"):
        PlannedConstraint(RiskLimit(CVaR(0.1), math.inf))
    with pytest.raises(InputError, match="threshold=nan"):
        PlannedConstraint(RiskLimit(CVaR(0.1), 0.0), threshold=math.nan)
    with pytest.raises(InputError, match="per_prompt"):
        PlannedConstraint(RiskLimit(CVaR(0.1), 0.0, scope="per_prompt"))
    with pytest.raises(InputError, match="limits cost 1"):
        Dual((PlannedConstraint(RiskLimit(Mean(), 0.0), cost_index=1),), 1, 0.1, 4)


def test_a_limit_on_raters_together_weighs_their_penalties():
    shares = (0.25, 0.75)
    plan = PlannedConstraint(RiskLimit(CVaR(0.25), 0.5), 1.0, 0.3, shares=shares)
    dual = Dual((plan,), num_costs=2, kl_coef=0.2, window_size=6, pid=PID(0.0, 1.0))
    penalty = 1.0 + np.maximum(COSTS - 1.0, 0) / 0.25
    assert dual.shape(dual.init(), COSTS) == pytest.approx(-0.3 * penalty * np.array(shares))
    state = dual.update(dual.init(), COSTS)
    assert state.controls[0].violation == pytest.approx(float((penalty @ shares).mean()) - 0.5)
    # The law of a rater drawn by the shares, and one of the answers.
    mass = np.tile(shares, 4) / 4
    risk = float(CVaR(0.25).value_rows(COSTS.ravel(), mass))
    assert dual.figures(state)["risk"] == pytest.approx(risk)
    one = PlannedConstraint(RiskLimit(CVaR(0.25), 0.5), 1.0, 0.3, shares=(0.0, 1.0))
    same = PlannedConstraint(RiskLimit(CVaR(0.25), 0.5), 1.0, 0.3, cost_index=1)
    assert one.penalties(COSTS) == pytest.approx(same.penalties(COSTS))
    assert one.risk(COSTS) == pytest.approx(same.risk(COSTS))


@pytest.mark.parametrize("shares", [(0.5, 0.6), (-0.5, 1.5), (0.2, 0.3, 0.5)])
def test_shares_that_are_none_are_refused(shares):
    def plan():
        constraint = PlannedConstraint(RiskLimit(Mean(), 0.5), shares=shares)
        return Dual((constraint,), num_costs=2, kl_coef=0.2, window_size=6)

    with pytest.raises(InputError, match="shares"):
        plan()
