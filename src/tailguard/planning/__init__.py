"""Planning on a sample bank: the dual solved globally, before anything is trained."""

from tailguard.planning.bank import SampleBank
from tailguard.planning.solution import Solution
from tailguard.planning.solve import Planner, frontier, solve
from tailguard.risk.limit import RaterLimit, RiskLimit, Scope

RiskConstraint = RiskLimit  # what a limit is called where it constrains a plan

__all__ = [
    "Planner",
    "RaterLimit",
    "RiskConstraint",
    "SampleBank",
    "Scope",
    "Solution",
    "frontier",
    "solve",
]
