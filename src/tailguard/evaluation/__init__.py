"""Tail metrics with intervals, judges, report."""

from tailguard.evaluation.intervals import (
    Interval,
    cvar_intervals,
    mean_interval,
    paired_cvar_differences,
)
from tailguard.evaluation.metrics import METRICS, TAIL_MASSES, Metric, measure_answers
from tailguard.evaluation.rates import rate_interval, var_interval

__all__ = [
    "METRICS",
    "TAIL_MASSES",
    "Interval",
    "Metric",
    "cvar_intervals",
    "mean_interval",
    "measure_answers",
    "paired_cvar_differences",
    "rate_interval",
    "var_interval",
]
