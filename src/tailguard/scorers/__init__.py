"""Reward and cost scorers: the protocol, loading, fitting, ensembles, calibration, pessimism."""

from tailguard.scorers.direction import (
    DirectionCheck,
    check_scorer,
    checked_scores,
    pairs_needed,
    smallest_accuracy,
)
from tailguard.scorers.ensemble import HeadFitting, PairFeatures, fit_ensemble, fit_heads
from tailguard.scorers.files import load_scorer, save_scorer
from tailguard.scorers.pair_metrics import area_under_roc, calibration_error, pair_metrics
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.scorer import Scorer, SequenceClassificationScorer, require_finite

__all__ = [
    "DirectionCheck",
    "HeadFitting",
    "PairFeatures",
    "ResponsePairs",
    "Scorer",
    "SequenceClassificationScorer",
    "area_under_roc",
    "calibration_error",
    "check_scorer",
    "checked_scores",
    "fit_ensemble",
    "fit_heads",
    "load_scorer",
    "pair_metrics",
    "pairs_needed",
    "require_finite",
    "save_scorer",
    "smallest_accuracy",
]
