"""What is planned is what is trained."""

import json

import numpy as np
import pytest

from tailguard.config import Recipe, Target
from tailguard.pipeline.plan_artifact import PlannedTarget
from tailguard.pipeline.stages.plan import plan_target, smallest_reachable_risk
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
