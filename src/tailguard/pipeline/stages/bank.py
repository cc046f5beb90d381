"""``bank``: sampled answers with their scores → SampleBank."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tailguard.artifacts import read_json, write_json
from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.data.table import read_table, write_table
from tailguard.errors import InputError
from tailguard.pipeline.scorer_artifact import KINDS, load_scorer_pair
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.sample import ANSWERS_NAME, answer_figures
from tailguard.planning import SampleBank
from tailguard.risk import CVaR, RiskMeasure
from tailguard.scorers.check import cannot_rank, spreads
from tailguard.scorers.pessimism import ScorerPair

BANK_NAME = "bank.parquet"
RATER_COST = "rater_cost"
RATERS_NAME = "raters.json"
_ANSWERS_PER_STEP = 2048  # of progress; scores do not depend on it


@dataclass(frozen=True)
class BankTable:
    """A bank as it is on disk: one entry per answer, the answers of a prompt side by side.

    Attributes:
        prompt_index: number of the prompt that each answer belongs to.
        prompt_ids: its `prompt_id`.
        prompts: the prompt itself.
        responses: text of the answer.
        token_ids: its tokens.
        finished: whether it ended by itself and not at the length limit.
        log_prob: log-probability under the policy and temperature that drew it.
        reward: mean over the reward ensemble.
        cost: pessimistic cost.
    """

    prompt_index: np.ndarray
    prompt_ids: list[str]
    prompts: list[Prompt]
    responses: list[str]
    token_ids: list[list[int]]
    finished: np.ndarray
    log_prob: np.ndarray
    reward: np.ndarray
    cost: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts, and answers per prompt: every prompt has the same number."""
        num_prompts = int(self.prompt_index.max()) + 1
        return num_prompts, len(self.prompt_index) // num_prompts

    def sample_bank(self) -> SampleBank:
        """Rewards and costs [prompts, samples], which is all that planning reads."""
        return _sample_bank(self.shape[0], self.prompt_ids, self.reward, self.cost)


def _config(recipe: Recipe) -> dict[str, object]:
    # What `fit-scorers` does not read, because it only matters where scores are used.
    used = {"pessimism", "cost_bound", "max_tokens"}
    return {"scorers": recipe.scorers.model_dump(include=used)}


def _build(work: Work) -> dict[str, object]:
    return write_bank(
        work.directory / BANK_NAME,
        read_table(work.parents["sample"] / ANSWERS_NAME),
        load_scorer_pair(work.parents["fit-scorers"], work.recipe.scorers),
        work.steps("bank: scoring"),
    )


STAGE = Stage(
    "bank", "SampleBank", 4, ("sample", "fit-scorers"), _config, lambda recipe: {}, _build
)


def write_bank(
    path: Path,
    answers: Mapping[str, Sequence[Any]],
    scorers: ScorerPair,
    on_progress: Callable[[int, int], None],
) -> dict[str, object]:
    """Score what `draw_answers` gave, and write answers and scores side by side.

    Returns:
        Figures of the bank.
    """
    prompts: list[Prompt] = [json.loads(prompt) for prompt in answers["prompt"]]
    scores = score_in_parts(scorers, prompts, answers["response"], on_progress)
    by_rater = scores.pop("by_rater", None)
    write_json(path.parent / RATERS_NAME, list(scorers.raters) if by_rater is not None else [])
    if by_rater is not None:
        # Rows of lists: what plans and penalties read, in the units of the population's cost.
        scores[RATER_COST] = scorers.cost.combine_raters(by_rater)
    columns = {name: list(s) if s.ndim > 1 else s for name, s in scores.items()}
    write_table(path, {**answers, **columns})
    scores = {name: s for name, s in scores.items() if s.ndim == 1}
    index = np.asarray(answers["prompt_index"])
    found = {kind: spreads(scores[kind], index) for kind in KINDS}
    warned = [cannot_rank(*found[kind], kind) for kind in KINDS]
    return {
        **answer_figures(answers),
        "reward": float(scores["reward"].mean()),
        "cost": float(scores["cost"].mean()),
        "cvar_0.1": sample_risk(CVaR(0.1), scores["cost"]),
        "spreads_within_and_between_prompts": found,
        "notes": [line for line in warned if line is not None],
    }


def sample_risk(measure: RiskMeasure, costs: np.ndarray) -> float:
    """Risk of equally weighted costs of any shape, without a warning where the tail is thin.

    For figures that are shown together with the number of samples.
    """
    flat = costs.ravel()
    return float(measure.value_rows(flat, np.full(flat.size, 1.0 / flat.size)))


def score_in_parts(
    scorers: ScorerPair,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """Scores of many answers by field of `Scores`, those that there are, with progress."""
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(responses), _ANSWERS_PER_STEP):
        rows = slice(start, start + _ANSWERS_PER_STEP)
        found = vars(scorers.score(prompts[rows], responses[rows]))
        parts.append({name: values for name, values in found.items() if values is not None})
        on_progress(min(start + _ANSWERS_PER_STEP, len(responses)), len(responses))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read_sample_bank(path: Path, raters: Float[np.ndarray, " raters"] | None = None) -> SampleBank:
    """The rewards and costs of a bank [prompts, samples], without its texts.

    Args:
        path: of the table.
        raters: weights of the raters, in the scorer's order: costs are then [prompts, samples, raters].

    Raises:
        InputError: the table is missing or not parquet, or holds no costs to raters.
    """
    columns = read_table(path)
    num_prompts = max(columns["prompt_index"]) + 1
    if raters is not None:
        if RATER_COST not in columns:
            raise InputError(f"{path}: holds no costs to raters; score the bank again")
        cost = np.array(columns[RATER_COST], dtype=np.float64)
        bank = _sample_bank(
            num_prompts, columns["prompt_id"], np.array(columns["reward"]), cost[:, 0]
        )
        shape = (*bank.reward.shape, cost.shape[1])
        return SampleBank(bank.reward, cost.reshape(shape), raters, bank.prompt_ids)
    reward, cost = (np.asarray(columns[name], dtype=np.float64) for name in ("reward", "cost"))
    return _sample_bank(num_prompts, columns["prompt_id"], reward, cost)


def read_bank_raters(directory: Path) -> tuple[str, ...]:
    """Whom the bank's costs tell apart, in the order of their columns."""
    names: list[str] = read_json(directory / RATERS_NAME)
    return tuple(names)


def read_bank(path: Path) -> BankTable:
    """All that `write_bank` wrote.

    Raises:
        InputError: the table is missing or not parquet.
    """
    columns = read_table(path)
    return BankTable(
        prompt_index=np.asarray(columns["prompt_index"]),
        prompt_ids=columns["prompt_id"],
        prompts=[json.loads(prompt) for prompt in columns["prompt"]],
        responses=columns["response"],
        token_ids=columns["token_ids"],
        finished=np.asarray(columns["finished"], dtype=bool),
        log_prob=np.asarray(columns["log_prob"], dtype=np.float64),
        reward=np.asarray(columns["reward"], dtype=np.float64),
        cost=np.asarray(columns["cost"], dtype=np.float64),
    )


def _sample_bank(
    num_prompts: int, prompt_ids: list[str], reward: np.ndarray, cost: np.ndarray
) -> SampleBank:
    rows = (num_prompts, -1)
    first_of_each = prompt_ids[:: len(prompt_ids) // num_prompts]
    return SampleBank(reward.reshape(rows), cost.reshape(rows), prompt_ids=first_of_each)
