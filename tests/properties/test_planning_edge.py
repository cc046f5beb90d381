"""Budgets walked across the smallest reachable risk: no plan may fail open there, nor shut early."""

import math

import numpy as np
from hypothesis import Phase, given, settings, strategies as st

from tailguard.planning import Planner, RiskConstraint, SampleBank, Scope, Solution
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, MonotoneMeanVariance, Spectral

KL_COEF = 0.25
PROMPTS, SAMPLES = 12, 24
OUTLIER = 1e8
# Built inside the tests: the run-time type checker draws random numbers, which strategies must not.
NAMES = ["mean", "cvar", "mean-cvar", "entropic", "spectral", "mean-variance"]

# Examples are a few small numbers already; shrinking a failure would take minutes and say no more.
PHASES = (Phase.explicit, Phase.generate)

scopes: st.SearchStrategy[Scope] = st.sampled_from(["pooled", "per_prompt"])
names = st.sampled_from(NAMES)
steps = st.builds(
    lambda sign, power: sign * 10.0**power, st.sampled_from([-1.0, 1.0]), st.floats(-10.0, -3.0)
)


def build(name):
    """The measure of that name."""
    return {
        "mean": Mean(),
        "cvar": CVaR(0.1),
        "mean-cvar": MeanCVaR(0.2, 0.5),
        "entropic": Entropic(0.5, 2 * OUTLIER),
        "spectral": Spectral((0.1, 0.6), (0.5, 0.5)),
        "mean-variance": MonotoneMeanVariance(0.7),
    }[name]


def draw_bank(seed, outlier, raters):
    """A bank of 12 × 24 with a normal or a heavy tail, perhaps with one absurd cost."""
    rng = np.random.default_rng(seed)
    shape = (PROMPTS, SAMPLES, raters) if raters else (PROMPTS, SAMPLES)
    cost = rng.pareto(2.5, shape) - 0.7 if seed % 2 else rng.normal(size=shape)
    reward = rng.normal(size=(PROMPTS, SAMPLES)) + 0.2 * cost.reshape(PROMPTS, SAMPLES, -1).mean(2)
    if outlier:
        cost[(3, 5, 0)[: cost.ndim]] = OUTLIER
    return SampleBank(reward, cost)


def risk_of(measure, scope, bank, weights):
    """ρ(C) by its definition, from the weights alone."""
    raters = 1 if bank.rater_weight is None else len(bank.rater_weight)
    mass = np.repeat(weights[:, :, None], raters, axis=2).reshape(PROMPTS, -1) / raters
    costs = bank.cost.reshape(PROMPTS, -1)
    if scope == "per_prompt":
        return float(np.mean([measure.value_rows(c, m) for c, m in zip(costs, mass, strict=True)]))
    return float(measure.value_rows(costs.ravel(), mass.ravel() / PROMPTS))


def least_risk(measure, scope, bank):
    """The smallest reachable risk: that of the cheapest samples, or what a plan tells with raters."""
    if bank.rater_weight is not None:
        told = Planner(bank, KL_COEF).solve_one(RiskConstraint(measure, -1e3, scope))
        return told.smallest_reachable_risks[0]
    cheapest = bank.cost.min(axis=1)
    if scope == "per_prompt":
        return float(cheapest.mean())
    return float(measure.value_rows(cheapest, np.full(PROMPTS, 1 / PROMPTS)))


def allowance(budget):
    return 1e-6 * max(1.0, abs(budget))


def check_open(solution: Solution, bank):
    """Whatever is called feasible is finite and within its budgets."""
    figures = [solution.value, solution.reward, solution.kl, solution.dual_bound]
    assert all(map(math.isfinite, [*figures, *solution.multipliers, *solution.risks]))
    assert all(np.isfinite(np.asarray(nu)).all() for nu in solution.thresholds)
    np.testing.assert_allclose(solution.weights.sum(axis=1), 1.0, atol=1e-9)
    assert solution.value <= solution.dual_bound
    for asked in solution.constraints:
        risk = risk_of(asked.measure, asked.scope, bank, solution.weights)
        assert risk <= asked.budget + allowance(asked.budget)


@settings(max_examples=30, phases=PHASES)
@given(names, scopes, st.integers(0, 5), st.booleans(), st.sampled_from([0, 0, 2]), steps)
def test_one_budget_at_the_edge(name, scope, seed, outlier, raters, step):
    measure, bank = build(name), draw_bank(seed, outlier, raters)
    least = least_risk(measure, scope, bank)
    budget = least + step
    found = Planner(bank, KL_COEF).solve_one(RiskConstraint(measure, budget, scope))
    assert math.isclose(found.smallest_reachable_risks[0], least, abs_tol=1e-12)
    if found.feasible:
        check_open(found, bank)
        assert step >= -allowance(budget)
    else:
        assert step < allowance(budget)
        assert np.isnan(found.weights).all()


@settings(max_examples=12, phases=PHASES)
@given(
    st.lists(st.tuples(names, scopes, st.sampled_from([0.0, 1.0])), min_size=2, max_size=2),
    st.integers(0, 5),
    st.booleans(),
    steps,
)
def test_several_budgets_at_the_edge(pairs, seed, outlier, step):
    """The cheapest samples have the least risk by every measure, so all edges are met at once."""
    bank, asked = draw_bank(seed, outlier, 0), []
    for number, (name, scope, room) in enumerate(pairs):
        measure = build(name)
        budget = least_risk(measure, scope, bank) + step + (room if number else 0.0)
        asked.append(RiskConstraint(measure, budget, scope))
    found = Planner(bank, KL_COEF).solve_all(asked)
    if found.feasible:
        check_open(found, bank)
        assert step >= -max(allowance(c.budget) for c in asked)
    else:
        assert step < max(allowance(c.budget) for c in asked)


@settings(max_examples=3, phases=PHASES)
@given(names, names, st.integers(0, 5), st.booleans(), steps)
def test_budgets_that_raters_pull_apart(first, second, seed, outlier, step):
    """With raters the edges may exclude each other; what is called feasible holds all the same."""
    bank = draw_bank(seed, outlier, 2)
    asked = [
        RiskConstraint(build(first), least_risk(build(first), "pooled", bank) + step),
        RiskConstraint(
            build(second), least_risk(build(second), "per_prompt", bank) + step, "per_prompt"
        ),
    ]
    for _ in range(2):  # told what each needs alone, then what both need together
        found = Planner(bank, KL_COEF).solve_all(asked)
        if found.feasible:
            break
        asked = [
            RiskConstraint(c.measure, max(c.budget, least) + 2 * allowance(least), c.scope)
            for c, least in zip(asked, found.smallest_reachable_risks, strict=True)
        ]
    check_open(Planner(bank, KL_COEF).solve_all(asked), bank)
