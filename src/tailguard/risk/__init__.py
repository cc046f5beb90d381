"""Risk measures, estimators and bounds: pure functions."""

from tailguard.risk.bounds import (
    betting_upper_bound,
    check_confidence,
    cvar_upper_bound,
    prompts_needed,
    risk_upper_bound,
    var_upper_bound,
)
from tailguard.risk.checks import SmallTailWarning, check_tail_mass
from tailguard.risk.cvar import CVaR
from tailguard.risk.entropic import Entropic
from tailguard.risk.labelled_bound import label_probabilities, labelled_risk_bound
from tailguard.risk.limit import RiskLimit, Scope
from tailguard.risk.mean import Mean
from tailguard.risk.mean_cvar import MeanCVaR
from tailguard.risk.mean_variance import MonotoneMeanVariance
from tailguard.risk.measure import RiskMeasure
from tailguard.risk.predictable_bound import predictable_risk_bound
from tailguard.risk.spectral import Spectral
from tailguard.risk.tail import cvar_curve, cvar_rows, var_rows
from tailguard.risk.threshold import Threshold, as_threshold

__all__ = [
    "CVaR",
    "Entropic",
    "Mean",
    "MeanCVaR",
    "MonotoneMeanVariance",
    "RiskLimit",
    "RiskMeasure",
    "Scope",
    "SmallTailWarning",
    "Spectral",
    "Threshold",
    "as_threshold",
    "betting_upper_bound",
    "check_confidence",
    "check_tail_mass",
    "cvar_curve",
    "cvar_rows",
    "cvar_upper_bound",
    "label_probabilities",
    "labelled_risk_bound",
    "predictable_risk_bound",
    "prompts_needed",
    "risk_upper_bound",
    "var_rows",
    "var_upper_bound",
]
