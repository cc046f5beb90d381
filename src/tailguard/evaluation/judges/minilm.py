"""Linear scorers on MiniLM embeddings as a judge, fitted on pairs that no scorer has seen."""

from __future__ import annotations

from tailguard.evaluation.judges.embedding import SentenceEncoder
from tailguard.evaluation.judges.judge import Judge, JudgeInputs
from tailguard.evaluation.judges.linear import fit_judge
from tailguard.evaluation.judges.refusal import is_refusal


def minilm_judge(inputs: JudgeInputs) -> Judge | None:
    """Fit the judge; None where the run has no pairs of either kind for it."""
    reward_pairs, cost_pairs = inputs.pairs("reward"), inputs.pairs("cost")
    if reward_pairs is None or cost_pairs is None:
        return None
    # One encoder for both: it remembers embeddings, and most prompts stand in both sets.
    encoder = SentenceEncoder(device=inputs.device)
    reward, reward_figures = fit_judge(
        *reward_pairs, kind="reward", encoder=encoder, on_progress=inputs.steps("judge of reward")
    )
    cost, cost_figures = fit_judge(
        *cost_pairs, kind="cost", encoder=encoder, on_progress=inputs.steps("judge of cost")
    )
    return Judge(
        name="scorers on MiniLM",
        reward=reward,
        cost=cost,
        is_refusal=is_refusal,
        figures={"reward": reward_figures, "cost": cost_figures},
    )
