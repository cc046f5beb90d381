"""The scores that the whole chain plans, trains and decodes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tailguard.artifacts import read_json
from tailguard.config import ScorerSection
from tailguard.data import Prompt
from tailguard.scorers.files import load_scorer
from tailguard.scorers.score_map import MappedScorer, ScoreMap
from tailguard.scorers.scorer import Scorer, require_finite

SOURCES_NAME = "scorers.json"


@dataclass(frozen=True)
class PessimisticCost:
    """A cost ensemble read by its upper bound: mean + pessimism · spread, clipped at the bound.

    Attributes:
        scorer: the ensemble.
        pessimism: how many standard deviations are added.
        bound: declared largest cost.
    """

    scorer: Scorer
    pessimism: float
    bound: float

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """One column, float64 [n, 1].

        Raises:
            ScoreError: a score that is not finite.
        """
        return self.combine(self.scorer.score(prompts, responses))[:, None]

    def combine(self, members: Float[np.ndarray, "n members"]) -> Float[np.ndarray, " n"]:
        """The ensemble's scores as one cost each."""
        require_finite(members, "cost")
        upper = members.mean(axis=1) + self.pessimism * spread(members)
        return np.asarray(np.minimum(upper, self.bound))


@dataclass(frozen=True)
class Scores:
    """What the scorers say of n answers; every field float64 [n].

    Attributes:
        reward: mean of the reward ensemble.
        reward_std: its spread.
        cost: the pessimistic, clipped cost that plans and budgets are about.
        cost_mean: mean of the cost ensemble.
        cost_std: its spread.
    """

    reward: Float[np.ndarray, " n"]
    reward_std: Float[np.ndarray, " n"]
    cost: Float[np.ndarray, " n"]
    cost_mean: Float[np.ndarray, " n"]
    cost_std: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class ScorerPair:
    """The reward and the cost scorer of a run."""

    reward: Scorer
    cost: PessimisticCost

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scores:
        """Score answers.

        Raises:
            ScoreError: a score that is not finite.
        """
        reward = require_finite(self.reward.score(prompts, responses), "reward")
        cost = self.cost.scorer.score(prompts, responses)
        return Scores(
            reward=reward.mean(axis=1),
            reward_std=spread(reward),
            cost=self.cost.combine(cost),
            cost_mean=cost.mean(axis=1),
            cost_std=spread(cost),
        )


def spread(members: Float[np.ndarray, "n members"]) -> Float[np.ndarray, " n"]:
    """Sample standard deviation over members; a single member knows no doubt and shows none."""
    if members.shape[1] == 1:
        return np.zeros(len(members), dtype=np.float64)
    centred: np.ndarray = members - members.mean(axis=1, keepdims=True)
    return np.sqrt(np.square(centred).sum(axis=1) / (members.shape[1] - 1))


def published_scorers(directory: Path) -> list[str]:
    """Folders or hub names of those scorers that ``fit-scorers`` was given ready made."""
    published: dict[str, str | None] = read_json(directory / SOURCES_NAME)["published"]
    return [name for name in published.values() if name]


def load_scorers(directory: Path, max_tokens: int) -> tuple[Scorer, Scorer]:
    """The reward and the cost scorer in a folder that ``fit-scorers`` wrote."""
    sources: dict[str, Any] = read_json(directory / SOURCES_NAME)
    published: dict[str, str] = sources["published"]
    maps: dict[str, Any] = sources["maps"]

    def load(kind: str) -> Scorer:
        scorer = load_scorer(published.get(kind) or directory / kind, max_tokens=max_tokens)
        return MappedScorer(scorer, ScoreMap.from_json(maps[kind])) if kind in maps else scorer

    return load("reward"), load("cost")


def load_scorer_pair(directory: Path, settings: ScorerSection) -> ScorerPair:
    """The scorers of a ScorerPair artifact, the cost read pessimistically."""
    reward, cost = load_scorers(directory, settings.max_tokens)
    return ScorerPair(reward, PessimisticCost(cost, settings.pessimism, settings.cost_bound))
