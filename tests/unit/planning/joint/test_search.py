"""Spectral measures and lists of constraints against a convex solver with enumerated thresholds."""

from typing import Any

import numpy as np
import pytest

from tailguard.errors import InputError
from tailguard.planning import RiskConstraint, SampleBank, Scope, solve
from tailguard.planning.joint.dual import JointDual
from tailguard.planning.joint.feasible import least_excess
from tailguard.planning.tilt import Tilt
from tailguard.risk import CVaR, Entropic, Mean, RiskMeasure, Spectral

KL_COEF = 0.3


def between(bank, measure, share, scope: Scope = "pooled"):
    least = solve(bank, RiskConstraint(measure, -1e6, scope), KL_COEF).smallest_reachable_risks[0]
    free = solve(bank, RiskConstraint(measure, np.inf, scope), KL_COEF).risks[0]
    return RiskConstraint(measure, least + share * (free - least), scope)


def test_spectral_value_is_that_of_a_convex_program(draw, convex_program):
    reward, cost = draw("pareto", 2, 4, seed=0)
    measure = Spectral((0.2, 0.6), (0.5, 0.5))
    constraint = between(SampleBank(reward, cost), measure, 0.4)
    program = convex_program(reward, cost, KL_COEF)
    expected = program.best([measure.penalty], [constraint.budget], 2)
    found = solve(SampleBank(reward, cost), constraint, KL_COEF)
    assert found.value == pytest.approx(expected, abs=2e-4)
    assert found.dual_bound >= expected - 1e-5
    assert np.shape(found.thresholds[0]) == (2,)


def test_two_constraints_have_the_value_of_a_convex_program(draw, convex_program):
    reward, cost = draw("normal", 3, 3, seed=16)
    bank = SampleBank(reward, cost)
    asked = [between(bank, CVaR(0.2), 0.45), between(bank, Mean(), 0.35)]
    program = convex_program(reward, cost, KL_COEF)
    expected = program.best(
        [lambda c, nu: CVaR(0.2).penalty(c, nu[0]), lambda c, nu: c], [a.budget for a in asked], 1
    )
    found = solve(bank, asked, KL_COEF)
    assert found.value == pytest.approx(expected, abs=2e-4)
    assert found.dual_bound >= expected - 1e-5


@pytest.mark.parametrize(
    ("pairs", "tolerance"),
    [
        ([(CVaR(0.05), 0.3, "pooled"), (Mean(), 0.15, "pooled")], 0.01),
        ([(CVaR(0.05), 0.3, "pooled"), (CVaR(0.5), 0.25, "pooled")], 0.02),
        ([(Entropic(0.3, 60.0), 0.2, "pooled"), (Mean(), 0.2, "pooled")], 0.01),
        ([(CVaR(0.1), 0.3, "pooled"), (CVaR(0.5), 0.35, "per_prompt")], 0.1),
    ],
    ids=["tail-mean", "two-tails", "entropic-mean", "scopes"],
)
def test_all_hold_and_the_bound_is_near(draw, pairs, tolerance):
    bank = SampleBank(*draw("severe", 16, 24, seed=3))
    asked = [between(bank, *pair) for pair in pairs]
    alone = [solve(bank, constraint, KL_COEF) for constraint in asked]
    found = solve(bank, asked, KL_COEF)
    assert found.feasible
    for constraint, risk in zip(asked, found.risks, strict=True):
        assert risk <= constraint.budget + 1e-6
    assert found.value <= min(solution.dual_bound for solution in alone) + 1e-9
    assert found.value <= found.dual_bound <= found.value + tolerance
    assert isinstance(found.multiplier, tuple)
    assert isinstance(found.threshold, tuple)
    assert len(found.multiplier) == len(found.threshold) == len(pairs)


def test_a_constraint_that_another_implies_costs_nothing(draw):
    bank = SampleBank(*draw("severe", 8, 16, seed=4))
    tight = between(bank, CVaR(0.1), 0.2)
    loose = RiskConstraint(Mean(), tight.budget)  # the mean never exceeds the tail
    alone, both = solve(bank, tight, KL_COEF), solve(bank, [loose, tight], KL_COEF)
    assert both.value == pytest.approx(alone.value)
    assert both.multipliers == (0.0, pytest.approx(alone.multipliers[0]))


def test_a_list_of_one_gives_tuples(draw):
    bank = SampleBank(*draw("normal", 4, 8, seed=5))
    constraint = between(bank, CVaR(0.2), 0.5)
    listed, plain = solve(bank, [constraint], KL_COEF), solve(bank, constraint, KL_COEF)
    assert listed.value == plain.value
    assert listed.multiplier == (plain.multiplier,)
    assert listed.smallest_reachable_risk == (plain.smallest_reachable_risk,)


def test_an_empty_list_is_refused(draw):
    with pytest.raises(InputError, match="at least one"):
        solve(SampleBank(*draw("normal", 2, 4, seed=6)), [], KL_COEF)


def test_budgets_that_cannot_be_met_together_are_raised_alike():
    """Raters who want opposite things: each measure can be met, the two not at once."""
    reward = np.zeros((1, 2))
    cost = np.array([[[0.0, 4.0], [3.0, 3.0]]])  # sample 0: torn; sample 1: all agree on 3
    bank = SampleBank(reward, cost)
    tail, mean = CVaR(0.5), Mean()
    assert solve(bank, RiskConstraint(tail, 3.0), KL_COEF).feasible
    assert solve(bank, RiskConstraint(mean, 2.0), KL_COEF).feasible
    found = solve(bank, [RiskConstraint(tail, 3.0), RiskConstraint(mean, 2.0)], KL_COEF)
    assert not found.feasible
    # taking sample 0 with probability p: tail 3 + p, mean 3 − p
    assert found.smallest_reachable_risk == (pytest.approx(3.5), pytest.approx(2.5))
    met = [RiskConstraint(tail, 3.5001), RiskConstraint(mean, 2.5001)]
    assert solve(bank, met, KL_COEF).feasible


def test_joint_dual_is_that_of_a_convex_program(draw, convex_program):
    reward, cost = draw("normal", 4, 6, seed=7)
    measures: list[RiskMeasure] = [CVaR(0.3), Mean(), CVaR(0.8)]
    levels = [0.2, 0.0, -0.3]
    penalties = [m.penalty(cost, nu) for m, nu in zip(measures, levels, strict=True)]
    budgets = np.array([0.5 * (p.min(axis=1).mean() + p.mean()) for p in penalties])
    program = convex_program(reward, cost, KL_COEF)
    fixed = [lambda c, nu, p=penalty: p for penalty in penalties]
    expected = program.best(fixed, budgets.tolist(), 0)
    dual = JointDual(Tilt(SampleBank(reward, cost), KL_COEF), penalties, 1.0, 1e-9)
    point, bound = dual.solve(budgets, 1e-8, np.ones(3))
    assert point is not None
    assert point.value == pytest.approx(expected, abs=1e-5)
    assert bound >= expected - 1e-6
    assert (point.means <= budgets).all()


def test_least_excess_is_that_of_a_linear_program(draw):
    import cvxpy as cp

    reward, cost = draw("pareto", 3, 5, seed=8)
    rng = np.random.default_rng(8)
    penalties = [cost, rng.normal(size=cost.shape), -cost]
    budgets = np.array([-0.5, -0.4, 0.0])
    policy, worst = cp.Variable(cost.shape, nonneg=True), cp.Variable()
    limits: list[Any] = [
        cp.sum(cp.multiply(policy, a)) / 3 - d <= worst
        for a, d in zip(penalties, budgets, strict=True)
    ]
    simplex: list[Any] = [cp.sum(policy, axis=1) == 1]
    expected = cp.Problem(cp.Minimize(worst), [*limits, *simplex]).solve(solver=cp.CLARABEL)
    found = least_excess(SampleBank(reward, cost), penalties, budgets, 1e-9)
    assert found.amount == pytest.approx(expected, abs=1e-6)
    reached = max(
        (found.weights * a).sum() / 3 - d for a, d in zip(penalties, budgets, strict=True)
    )
    assert reached == pytest.approx(found.amount, abs=1e-7)
    assert found.weights.sum(axis=1) == pytest.approx(np.ones(3))
