"""What is planned is what is trained."""

import numpy as np
import pytest

from tailguard.config import Recipe, Target
from tailguard.pipeline.plan import plan_target
from tailguard.planning import SampleBank
from tailguard.risk import CVaR, Entropic, MeanCVaR


@pytest.mark.parametrize(
    ("fields", "measure"),
    [
        ({"measure": "mean-cvar", "tail_mass": 0.2, "weight": 0.9}, MeanCVaR(0.2, 0.9)),
        ({"measure": "entropic", "theta": 3.0}, Entropic(3.0, 10.0)),
        ({"tail_mass": 0.25}, CVaR(0.25)),
    ],
)
def test_a_target_keeps_the_parameters_of_its_measure(fields, measure):
    rng = np.random.default_rng(0)
    bank = SampleBank(rng.normal(size=(64, 64)), rng.exponential(size=(64, 64)))
    target = Target(name="a", reduction=0.1, **fields)
    planned, solution = plan_target(bank, target, Recipe())
    assert planned.risk_measure(10.0) == measure
    assert solution.constraints[0].measure == measure
    assert planned.risk == pytest.approx(
        measure.value(bank.cost.ravel(), weights=solution.weights.ravel()), abs=1e-6
    )
