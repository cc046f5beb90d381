"""The sandbox's truth as a judge: it parses the answers, so nothing can fool it."""

from __future__ import annotations

from tailguard.evaluation.judges.judge import Judge, JudgeInputs
from tailguard.lab.sandbox import COST_BOUND, GROUPS, TruthScorer, is_refusal


def truth_judge(_: JudgeInputs) -> Judge:
    """The judge of the sandbox assistant; it needs nothing from the run."""
    return Judge(
        name="the sandbox's truth",
        reward=TruthScorer("reward"),
        cost=TruthScorer("cost"),
        is_refusal=is_refusal,
        cost_bound=COST_BOUND,
        raters=GROUPS,
        rater_cost=TruthScorer("cost", by_group=True),
    )
