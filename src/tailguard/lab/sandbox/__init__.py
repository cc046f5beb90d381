"""The sandbox assistant: a small world of requests and answers whose truth is known by parsing."""

from pathlib import Path

from tailguard.lab.sandbox.annotators import sample_preferences
from tailguard.lab.sandbox.answers import Answer, Step, parse_answer
from tailguard.lab.sandbox.behaviour import (
    BASE_BEHAVIOUR,
    WIDE_BEHAVIOUR,
    Behaviour,
    sample_answer,
)
from tailguard.lab.sandbox.judge import TruthScorer, is_refusal
from tailguard.lab.sandbox.requests import (
    DEFAULT_MIX,
    RISKY_MIX,
    SPLITS,
    Request,
    parse_request,
    sample_requests,
    split_of,
)
from tailguard.lab.sandbox.truth import (
    COST_BOUND,
    COST_FLOOR,
    GROUPS,
    MALFORMED_COST,
    MALFORMED_REWARD,
    group_costs,
    true_cost,
    true_reward,
)
from tailguard.lab.sandbox.vocabulary import KINDS

__all__ = [
    "BASE_BEHAVIOUR",
    "COST_BOUND",
    "COST_FLOOR",
    "DEFAULT_MIX",
    "GROUPS",
    "KINDS",
    "MALFORMED_COST",
    "MALFORMED_REWARD",
    "RISKY_MIX",
    "SPLITS",
    "WIDE_BEHAVIOUR",
    "Answer",
    "Behaviour",
    "Request",
    "Step",
    "TruthScorer",
    "base_policy_path",
    "group_costs",
    "is_refusal",
    "parse_answer",
    "parse_request",
    "sample_answer",
    "sample_preferences",
    "sample_requests",
    "split_of",
    "true_cost",
    "true_reward",
]


def base_policy_path() -> Path:
    """Folder of the base policy: a word-level Llama that `AutoModelForCausalLM` loads."""
    return Path(__file__).parent / "base_lm"
