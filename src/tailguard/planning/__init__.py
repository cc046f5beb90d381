"""Planning on a sample bank: the dual solved globally, before anything is trained."""

from tailguard.planning.bank import SampleBank
from tailguard.planning.constraint import RiskConstraint, RiskProfile, Scope
from tailguard.planning.planner import Planner
from tailguard.planning.solution import Solution
from tailguard.planning.solve import frontier, solve

__all__ = [
    "Planner",
    "RiskConstraint",
    "RiskProfile",
    "SampleBank",
    "Scope",
    "Solution",
    "frontier",
    "solve",
]
