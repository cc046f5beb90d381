"""Reward and cost scorers: the protocol, loading, fitting, ensembles, calibration, pessimism."""

from tailguard.scorers.check import ScorerCheck, check_scorer
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.direction import (
    DirectionCheck,
    check_direction,
    checked_scores,
    pairs_needed,
    smallest_accuracy,
)
from tailguard.scorers.endpoint import EndpointScorer, from_endpoint
from tailguard.scorers.ensemble import HeadFitting, PairFeatures, fit_ensemble, fit_heads
from tailguard.scorers.files import load_scorer, load_scorer as from_pretrained, save_scorer
from tailguard.scorers.function import FunctionScorer, from_function
from tailguard.scorers.pair_metrics import area_under_roc, calibration_error, pair_metrics
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.readings import WorseReading, worst_reading
from tailguard.scorers.scorer import Scorer, require_finite

__all__ = [
    "DirectionCheck",
    "EndpointScorer",
    "FunctionScorer",
    "HeadFitting",
    "PairFeatures",
    "ResponsePairs",
    "Scorer",
    "ScorerCheck",
    "SequenceClassificationScorer",
    "WorseReading",
    "area_under_roc",
    "calibration_error",
    "check_direction",
    "check_scorer",
    "checked_scores",
    "fit_ensemble",
    "fit_heads",
    "from_endpoint",
    "from_function",
    "from_pretrained",
    "load_scorer",
    "pair_metrics",
    "pairs_needed",
    "require_finite",
    "save_scorer",
    "smallest_accuracy",
    "worst_reading",
]
