"""Ensembles and process heads: what is not known about reward and cost."""

from tailguard.uncertainty.ensemble import HeadFitting, PairFeatures, fit_ensemble, fit_heads
from tailguard.uncertainty.pair_metrics import area_under_roc, calibration_error, pair_metrics
from tailguard.uncertainty.value_targets import PrefixOutcomes
from tailguard.uncertainty.values import ValueFitting, fit_process_heads, threshold_grid

__all__ = [
    "HeadFitting",
    "PairFeatures",
    "PrefixOutcomes",
    "ValueFitting",
    "area_under_roc",
    "calibration_error",
    "fit_ensemble",
    "fit_heads",
    "fit_process_heads",
    "pair_metrics",
    "threshold_grid",
]
