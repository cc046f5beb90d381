"""Policies, reward and cost scorers, process heads."""

from tailguard.models.pairs import ResponsePairs
from tailguard.models.policy import (
    EncodedPrompts,
    Policy,
    encode_prompts,
    load_policy,
    render_chat,
    render_prompt,
)
from tailguard.models.process_heads import HeadPrediction, ProcessHeads, interpolate_hinge
from tailguard.models.quiet import quiet_transformers
from tailguard.models.scorer import Scorer, SequenceClassificationScorer, require_finite
from tailguard.models.scorer_check import DirectionCheck, check_scorer, checked_scores
from tailguard.models.scorer_files import load_scorer, save_scorer

__all__ = [
    "DirectionCheck",
    "EncodedPrompts",
    "HeadPrediction",
    "Policy",
    "ProcessHeads",
    "ResponsePairs",
    "Scorer",
    "SequenceClassificationScorer",
    "check_scorer",
    "checked_scores",
    "encode_prompts",
    "interpolate_hinge",
    "load_policy",
    "load_scorer",
    "quiet_transformers",
    "render_chat",
    "render_prompt",
    "require_finite",
    "save_scorer",
]
