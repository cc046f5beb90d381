"""The ScorerPair artifact: the scorers that the whole chain plans, trains and decodes on."""

from __future__ import annotations

from pathlib import Path

from tailguard.artifacts import Json, read_json
from tailguard.config import ScorerSection
from tailguard.scorers.files import load_scorer
from tailguard.scorers.pessimism import PessimisticCost, ScorerPair
from tailguard.scorers.score_map import MappedScorer, ScoreMap
from tailguard.scorers.scorer import Scorer

SOURCES_NAME = "scorers.json"


def published_scorers(directory: Path) -> list[str]:
    """Folders or hub names of the scorers that were not fitted but given in the recipe."""
    published: dict[str, str | None] = read_json(directory / SOURCES_NAME)["published"]
    return [name for name in published.values() if name]


def load_scorers(directory: Path, max_tokens: int) -> tuple[Scorer, Scorer]:
    """The reward and the cost scorer in a folder that ``fit-scorers`` wrote."""
    sources: dict[str, Json] = read_json(directory / SOURCES_NAME)
    published: dict[str, str] = sources["published"]
    maps: dict[str, Json] = sources["maps"]

    # A fitted scorer has a map to its calibrated units; a published one is used in its own.
    def load(kind: str) -> Scorer:
        scorer = load_scorer(published.get(kind) or directory / kind, max_tokens=max_tokens)
        return MappedScorer(scorer, ScoreMap.from_json(maps[kind])) if kind in maps else scorer

    return load("reward"), load("cost")


def load_scorer_pair(directory: Path, settings: ScorerSection) -> ScorerPair:
    """The scorers of a ScorerPair artifact, the cost read pessimistically."""
    reward, cost = load_scorers(directory, settings.max_tokens)
    return ScorerPair(reward, PessimisticCost(cost, settings.pessimism, settings.cost_bound))
