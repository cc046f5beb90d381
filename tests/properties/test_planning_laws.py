"""Laws of planning, on banks that hypothesis makes awkward."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from tailguard.planning import RiskConstraint, SampleBank, Scope, solve
from tailguard.risk import CVaR

SHAPE = (3, 6)
rewards = arrays(np.float64, SHAPE, elements=st.floats(-3, 3, width=32))
costs = arrays(
    np.float64, SHAPE, elements=st.floats(-5, 5, width=32) | st.sampled_from([0.0, 1.0, 30.0])
)
tail_masses = st.sampled_from([0.02, 0.1, 0.35, 0.7, 1.0])
scopes: st.SearchStrategy[Scope] = st.sampled_from(["pooled", "per_prompt"])
shares = st.floats(0.0, 1.0)
KL_COEF = 0.4
few = settings(max_examples=20)


def budget_at(bank: SampleBank, tail_mass: float, scope: Scope, share: float) -> float:
    """From the smallest reachable risk to the risk without constraint."""
    least = solve(bank, RiskConstraint(CVaR(tail_mass), -1e6, scope), KL_COEF)
    free = solve(bank, RiskConstraint(CVaR(tail_mass), np.inf, scope), KL_COEF)
    low = least.smallest_reachable_risks[0]
    return low + share * (free.risks[0] - low)


@few
@given(rewards, costs, tail_masses, scopes, shares)
def test_what_is_returned_keeps_the_budget_under_its_bound(reward, cost, tail_mass, scope, share):
    bank = SampleBank(reward, cost)
    budget = budget_at(bank, tail_mass, scope, share)
    found = solve(bank, RiskConstraint(CVaR(tail_mass), budget, scope), KL_COEF)
    assert found.feasible
    assert found.risks[0] <= budget + 1e-6
    assert found.weights.sum(axis=1) == pytest.approx(np.ones(3))
    assert (found.weights >= 0).all()
    assert found.value <= found.dual_bound
    assert found.multipliers[0] >= 0
    assert -1e-12 <= found.kl <= np.log(6) + 1e-9
    assert 1 <= found.effective_sample_size <= 6 + 1e-9


@few
@given(rewards, costs, tail_masses, st.tuples(shares, shares))
def test_value_and_feasibility_grow_with_the_budget(reward, cost, tail_mass, pair):
    bank = SampleBank(reward, cost)
    low, high = (budget_at(bank, tail_mass, "pooled", share) for share in sorted(pair))
    strict = solve(bank, RiskConstraint(CVaR(tail_mass), low), KL_COEF)
    loose = solve(bank, RiskConstraint(CVaR(tail_mass), high), KL_COEF)
    assert strict.value <= loose.dual_bound + 1e-6
    assert strict.value <= loose.value + 1e-3 * max(1.0, loose.dual_bound - strict.value)
    least = strict.smallest_reachable_risks[0]
    below = solve(bank, RiskConstraint(CVaR(tail_mass), least - 0.01), KL_COEF)
    assert not below.feasible


@few
@given(rewards, costs, tail_masses, scopes, shares, st.floats(-4, 4), st.floats(0.1, 10))
def test_units_of_cost_do_not_matter(reward, cost, tail_mass, scope, share, shift, scale):
    bank = SampleBank(reward, cost)
    moved = SampleBank(reward, scale * cost + shift)
    budget = budget_at(bank, tail_mass, scope, share)
    one = solve(bank, RiskConstraint(CVaR(tail_mass), budget, scope), KL_COEF)
    # a hair more budget: rounding must not make the moved problem infeasible
    other = solve(
        moved, RiskConstraint(CVaR(tail_mass), scale * (budget + 1e-9) + shift, scope), KL_COEF
    )
    assert other.feasible
    assert other.value <= one.dual_bound + 1e-4
    assert one.value <= other.dual_bound + 1e-4


@few
@given(rewards, costs, tail_masses, shares)
def test_pooled_risk_is_the_harder_to_limit(reward, cost, tail_mass, share):
    """E_x ρ(C|x) ≤ ρ(C), because CVaR is concave in the distribution."""
    bank = SampleBank(reward, cost)
    budget = budget_at(bank, tail_mass, "pooled", share)
    pooled = solve(bank, RiskConstraint(CVaR(tail_mass), budget), KL_COEF)
    by_prompt = solve(bank, RiskConstraint(CVaR(tail_mass), budget, "per_prompt"), KL_COEF)
    assert by_prompt.feasible
    assert pooled.value <= by_prompt.dual_bound + 1e-6


@few
@given(rewards, costs, st.tuples(tail_masses, tail_masses), shares)
def test_thinner_tails_are_harder_to_limit(reward, cost, pair, share):
    thin, wide = sorted(pair)
    bank = SampleBank(reward, cost)
    budget = budget_at(bank, thin, "pooled", share)
    strict = solve(bank, RiskConstraint(CVaR(thin), budget), KL_COEF)
    loose = solve(bank, RiskConstraint(CVaR(wide), budget), KL_COEF)
    assert loose.feasible
    assert strict.value <= loose.dual_bound + 1e-6
