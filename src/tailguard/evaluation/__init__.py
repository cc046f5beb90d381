"""Tail metrics with intervals, judges, report."""

from tailguard.evaluation.intervals import (
    Interval,
    cvar_intervals,
    mean_interval,
    paired_cvar_differences,
)
from tailguard.evaluation.metrics import TAIL_MASSES, TailMetrics, tail_metrics
from tailguard.evaluation.rates import rate_interval, var_interval

__all__ = [
    "TAIL_MASSES",
    "Interval",
    "TailMetrics",
    "cvar_intervals",
    "mean_interval",
    "paired_cvar_differences",
    "rate_interval",
    "tail_metrics",
    "var_interval",
]
