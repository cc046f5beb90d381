"""What is planned is what is trained."""

import json

import numpy as np
import pytest

from tailguard.artifacts import write_json
from tailguard.config import Recipe, Target
from tailguard.data.table import write_table
from tailguard.errors import InfeasibleError, InputError
from tailguard.pipeline.plan_artifact import PlannedTarget
from tailguard.pipeline.stages.bank import BANK_NAME, RATERS_NAME
from tailguard.pipeline.stages.plan import plan_for_raters, plan_target, smallest_reachable_risk
from tailguard.pipeline.stages.train import constraints_of
from tailguard.planning import SampleBank
from tailguard.risk import CVaR, Entropic, MeanCVaR, Spectral


@pytest.mark.parametrize(
    ("fields", "measure"),
    [
        ({"measure": "mean-cvar", "tail_mass": 0.2, "weight": 0.9}, MeanCVaR(0.2, 0.9)),
        ({"measure": "entropic", "theta": 3.0}, Entropic(3.0, 10.0)),
        ({"tail_mass": 0.25}, CVaR(0.25)),
        ({"measure": "cvar:tail_mass=0.3", "tail_mass": 0.1}, CVaR(0.3)),
        (
            {"measure": "spectral:tail_masses=0.2/1,weights=0.4/0.6"},
            Spectral((0.2, 1.0), (0.4, 0.6)),
        ),
    ],
)
def test_a_target_keeps_the_parameters_of_its_measure(fields, measure):
    rng = np.random.default_rng(0)
    bank = SampleBank(rng.normal(size=(64, 64)), rng.exponential(size=(64, 64)))
    target = Target(name="a", reduction=0.1, **fields)
    planned, solution = plan_target(bank, target, Recipe())
    assert planned.limit is not None
    assert planned.limit.measure == measure
    assert PlannedTarget.from_json(json.loads(json.dumps(planned.to_json()))) == planned
    assert solution.constraints[0].measure == measure
    assert planned.figures.risk == pytest.approx(
        measure.value(bank.cost.ravel(), weights=solution.weights.ravel()), abs=1e-6
    )


def test_a_budget_is_measured_in_the_scope_that_it_limits():
    rng = np.random.default_rng(1)
    scale = np.linspace(0.2, 3.0, 32)[:, None]  # prompts of unlike risk: pooled is far above
    bank = SampleBank(rng.normal(size=(32, 64)), scale * rng.exponential(size=(32, 64)))
    measure = CVaR(0.25)
    here = np.mean([measure.value(costs) for costs in bank.cost])
    least = np.mean([costs.min() for costs in bank.cost])
    assert smallest_reachable_risk(bank, measure, 1.0, "per_prompt") == pytest.approx(least)

    def budget(**asked):
        target = Target(name="a", tail_mass=0.25, scope="per_prompt", **asked)
        limit = plan_target(bank, target, Recipe())[0].limit
        assert limit is not None
        return limit.budget

    assert budget(budget="reference") == pytest.approx(here)
    assert budget(reduction=0.5) == pytest.approx((here + least) / 2)


RATERS = ("carers", "neighbours", "traders")


@pytest.fixture
def rated(tmp_path):
    """The folder of a bank whose answers cost carers twice as much, and traders half."""
    rng = np.random.default_rng(2)
    reward, common = rng.normal(size=(2, 32 * 16))
    common += reward
    cost = common[:, None] * np.array([2.0, 1.0, 0.5])
    columns = {"prompt_index": np.repeat(np.arange(32), 16), "prompt_id": ["p"] * 512}
    scores = {"reward": reward, "cost": common, "rater_cost": list(cost)}
    write_table(tmp_path / BANK_NAME, columns | scores)
    write_json(tmp_path / RATERS_NAME, list(RATERS))
    return tmp_path, cost


def test_a_target_for_raters_keeps_its_limit_for_whom_it_says(rated):
    folder, cost = rated
    measure = CVaR(0.25)

    def planned(raters):
        target = Target(name="a", tail_mass=0.25, budget=1.0, raters=raters)
        made, solution = plan_for_raters(folder, target, Recipe())
        assert PlannedTarget.from_json(json.loads(json.dumps(made.to_json()))) == made
        mass = solution.weights.ravel() / 32
        tails = [float(measure.value_rows(cost[:, k], mass)) for k in range(3)]
        shares = np.array([made.shares.get(name, 0.0) for name in RATERS])
        law = np.outer(mass, shares if made.shares else np.full(3, 1 / 3)).ravel()
        return made, tails, float(measure.value_rows(cost.ravel(), law))

    each, tails, _ = planned("worst")
    assert max(tails) <= 1.0 + 1e-5
    assert each.raters == "worst"
    assert [part.rater for part in each.each] == list(RATERS)
    assert [part.risk for part in each.each] == pytest.approx(tails, abs=1e-6)
    assert each.figures.risk == pytest.approx(max(tails), abs=1e-6)
    # Who bears the most has the multiplier; a mixture leaves them above the budget.
    assert each.each[0].multiplier > 0.0 == each.each[2].multiplier
    everyone, tails, together = planned("all")
    assert together == pytest.approx(1.0, abs=1e-5)
    assert tails[0] > 1.0 > tails[2]
    assert everyone.raters == dict.fromkeys(RATERS, pytest.approx(1 / 3))
    one, tails, together = planned({"traders": 2.0})
    assert together == pytest.approx(tails[2]) == pytest.approx(one.figures.risk)
    assert one.shares == {"carers": 0.0, "neighbours": 0.0, "traders": 1.0}

    constraints = constraints_of(each, RATERS)
    assert [c.cost_index for c in constraints] == [0, 1, 2]
    assert [c.multiplier for c in constraints] == [part.multiplier for part in each.each]
    (shared,) = constraints_of(everyone, ("traders", "carers", "neighbours"))
    assert shared.shares == pytest.approx((1 / 3,) * 3)
    assert shared.threshold == everyone.figures.threshold


def test_what_cannot_be_planned_for_raters_is_told(rated):
    folder, cost = rated
    cheapest = cost[:, 0].reshape(32, 16).min(axis=1)
    least = float(CVaR(0.25).value_rows(cheapest, np.full(32, 1 / 32)))

    def plan(raters, budget=-99.0):
        target = Target(name="a", tail_mass=0.25, budget=budget, raters=raters)
        return plan_for_raters(folder, target, Recipe())

    with pytest.raises(InfeasibleError, match=rf"carers {least:.4g}, neighbours"):
        plan("worst")
    with pytest.raises(InfeasibleError, match="the smallest risk that this bank can reach is"):
        plan("all")
    with pytest.raises(InputError, match="no 'nobody'; there are carers, neighbours, traders"):
        plan("nobody", 1.0)
    (folder / RATERS_NAME).write_text("[]")
    with pytest.raises(InputError, match="knows no groups"):
        plan("worst", 1.0)
