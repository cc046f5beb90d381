"""The judge of a run: what `evaluation.judges` builds from the recipe and the prepared pairs."""

from __future__ import annotations

from tailguard.config import FileData
from tailguard.errors import InputError
from tailguard.evaluation.judge_needs import JUDGE_OF_DATA
from tailguard.evaluation.judges import JUDGES, Judge, JudgeInputs
from tailguard.evaluation.judges.linear import Kind
from tailguard.pipeline.stage import Work
from tailguard.pipeline.stages.fit_scorers import to_pairs
from tailguard.pipeline.stages.prepare import read_pairs
from tailguard.scorers.pairs import ResponsePairs


def build_judge(work: Work) -> Judge:
    """The judge of a run.

    Raises:
        InputError: no pairs are left to fit one on.
    """
    name = JUDGE_OF_DATA[work.recipe.data.source]
    judge = JUDGES[name](
        JudgeInputs(lambda kind: _judge_pairs(work, kind), work.steps, work.recipe.scorers.device)
    )
    if judge is None:
        raise InputError(
            "evaluate: no pairs are left for an independent judge; give data.reward_pairs and"
            " data.cost_pairs, of which data.judge_fraction is set apart"
        )
    return judge


def _judge_pairs(work: Work, kind: Kind) -> tuple[ResponsePairs, ResponsePairs] | None:
    """The pairs that ``prepare`` set apart for a judge: to fit on, and held out."""
    data = work.recipe.data
    if not isinstance(data, FileData):
        return None
    # Encoding is what a judge costs, so both roles are cut to num_judge_pairs.
    train, held_out = (
        read_pairs(work.parents["prepare"], kind, role)[: data.num_judge_pairs]
        for role in ("judge-train", "judge-validate")
    )
    return (to_pairs(kind, train), to_pairs(kind, held_out)) if train and held_out else None
