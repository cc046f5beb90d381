"""Who judges a run: the sandbox's truth, or scorers fitted apart on other pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailguard.config import FileData, Recipe
from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.pipeline.stage import Work
from tailguard.pipeline.stages.prepare import read_pairs
from tailguard.scorers.scorer import Scorer, require_finite


@dataclass(frozen=True)
class Judge:
    """Scores that took no part in training or guidance.

    Attributes:
        name: shown in the report.
        reward: helpfulness.
        cost: harm.
        is_refusal: whether a text declines.
        cost_bound: declared largest cost; None where the judge declares none.
        figures: held-out accuracy and the like.
    """

    name: str
    reward: Scorer
    cost: Scorer
    is_refusal: Callable[[str], bool]
    cost_bound: float | None
    figures: dict[str, Any]

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reward and cost of each answer, float64 [n] each.

        Raises:
            ScoreError: a score that is not finite.
        """
        reward = require_finite(self.reward.score(prompts, responses), "judge's reward")
        cost = require_finite(self.cost.score(prompts, responses), "judge's cost")
        return reward.mean(axis=1), cost.mean(axis=1)


def build_judge(work: Work) -> Judge | None:
    """The judge of a run, or None where there are no pairs to fit one on."""
    if not isinstance(work.recipe.data, FileData):
        from tailguard.lab.sandbox import COST_BOUND, TruthScorer, is_refusal

        return Judge(
            name="the sandbox's truth",
            reward=TruthScorer("reward"),
            cost=TruthScorer("cost"),
            is_refusal=is_refusal,
            cost_bound=COST_BOUND,
            figures={},
        )
    return _fitted_judge(work)


def judge_name(recipe: Recipe) -> str:
    """What the report calls the judge."""
    return "scorers on MiniLM" if isinstance(recipe.data, FileData) else "the sandbox's truth"


def _fitted_judge(work: Work) -> Judge | None:
    from tailguard.evaluation.judges.embedding import SentenceEncoder
    from tailguard.evaluation.judges.linear import fit_judge
    from tailguard.evaluation.judges.refusal import is_refusal
    from tailguard.pipeline.stages.fit_scorers import to_pairs

    prepared: Path = work.parents["prepare"]
    limit = _judge_pairs(work)
    rows = {
        (kind, role): read_pairs(prepared, kind, role)[:limit]
        for kind in ("reward", "cost")
        for role in ("judge-train", "judge-validate")
    }
    if not all(rows.values()):
        return None
    encoder = SentenceEncoder()  # of both, so that each text is read once
    fitted: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for kind in ("reward", "cost"):
        train, held = (
            to_pairs("reward" if kind == "reward" else "cost", rows[kind, role])
            for role in ("judge-train", "judge-validate")
        )
        fitted[kind], figures[kind] = fit_judge(
            train, held, kind=kind, encoder=encoder, on_progress=work.steps(f"judge of {kind}")
        )
    return Judge(
        name=judge_name(work.recipe),
        reward=fitted["reward"],
        cost=fitted["cost"],
        is_refusal=is_refusal,
        cost_bound=None,
        figures=figures,
    )


def _judge_pairs(work: Work) -> int:
    data = work.recipe.data
    return data.num_judge_pairs if isinstance(data, FileData) else 0


def require_judge(judge: Judge | None) -> Judge:
    """The judge, or an error that says how to get one."""
    if judge is None:
        raise InputError(
            "evaluate: no pairs are left for an independent judge; give data.reward_pairs and"
            " data.cost_pairs, of which data.judge_fraction is set apart"
        )
    return judge
