"""The exact lab: causal LMs so small that every response is enumerated."""

from tailguard.lab.exact.enumeration import (
    ExactOutcome,
    NextTokenLogits,
    exact_log_probs,
    exact_outcome,
    log_prob_tensor,
)
from tailguard.lab.exact.language_model import exact_policy, exact_tokenizer
from tailguard.lab.exact.optimum import ExactOptimum, exact_optimum
from tailguard.lab.exact.world import ExactWorld, TruthScorer, make_exact_world, truth_function

__all__ = [
    "ExactOptimum",
    "ExactOutcome",
    "ExactWorld",
    "NextTokenLogits",
    "TruthScorer",
    "exact_log_probs",
    "exact_optimum",
    "exact_outcome",
    "exact_policy",
    "exact_tokenizer",
    "log_prob_tensor",
    "make_exact_world",
    "truth_function",
]
