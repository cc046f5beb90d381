"""Scorers and risk-constrained policies, on top of TRL."""

from tailguard.training.adapters import TrainedAdapter, open_adapter, save_adapter
from tailguard.training.cost_window import CostWindow
from tailguard.training.coverage import Coverage, coverage
from tailguard.training.distillation import DistillationSettings, distil
from tailguard.training.dual import Dual, DualState, PlannedConstraint
from tailguard.training.on_policy import RewardAndCost, RLOOSettings, train_rloo
from tailguard.training.pid import PID, PIDState, newton_scale
from tailguard.training.rloo import RiskConstrainedRLOOTrainer

__all__ = [
    "PID",
    "CostWindow",
    "Coverage",
    "DistillationSettings",
    "Dual",
    "DualState",
    "PIDState",
    "PlannedConstraint",
    "RLOOSettings",
    "RewardAndCost",
    "RiskConstrainedRLOOTrainer",
    "TrainedAdapter",
    "coverage",
    "distil",
    "newton_scale",
    "open_adapter",
    "save_adapter",
    "train_rloo",
]
