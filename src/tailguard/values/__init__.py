"""Process heads: what a prefix says about the final reward and cost, and how they are fitted."""

from tailguard.values.fit import ValueFitting, fit_process_heads
from tailguard.values.prefix_score import PrefixScore, pessimistic_scorer
from tailguard.values.process_heads import HeadPrediction, ProcessHeads
from tailguard.values.targets import PrefixOutcomes

__all__ = [
    "HeadPrediction",
    "PrefixOutcomes",
    "PrefixScore",
    "ProcessHeads",
    "ValueFitting",
    "fit_process_heads",
    "pessimistic_scorer",
]
