"""The ScorerPair artifact: the scorers that the whole chain plans, trains and decodes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tailguard.artifacts import Json, content_hash, read_json
from tailguard.config import ScorerSection, ScorerSource
from tailguard.pipeline.sources import model_hashes
from tailguard.scorers.endpoint import from_endpoint
from tailguard.scorers.files import load_rater_heads, load_scorer
from tailguard.scorers.function import from_function, function_file, import_function
from tailguard.scorers.pessimism import PessimisticCost, ScorerPair
from tailguard.scorers.rated import RatedCost
from tailguard.scorers.readings import WorseReading
from tailguard.scorers.score_map import MappedScorer, ScoreMap
from tailguard.scorers.scorer import Scorer

SOURCES_NAME = "scorers.json"
Kind = Literal["reward", "cost"]
KINDS: tuple[Kind, Kind] = ("reward", "cost")


def given_sources(settings: ScorerSection) -> dict[Kind, ScorerSource]:
    """The scorers that a recipe gives; the others are fitted."""
    found: dict[Kind, ScorerSource | None] = {
        "reward": settings.reward_model,
        "cost": settings.cost_model,
    }
    return {kind: source for kind, source in found.items() if source is not None}


def source_hashes(sources: Mapping[Kind, ScorerSource]) -> dict[str, str]:
    """What given scorers are made of: the bytes of a model, or of the file of a function."""
    found = model_hashes(source.local_model for source in sources.values())
    for source in sources.values():
        file = function_file(source.python, Path(source.folder)) if source.python else None
        if file is not None:
            found[source.python] = content_hash(file)
    return found


def open_source(
    source: ScorerSource, kind: Kind, max_tokens: int, *, device: str = "auto"
) -> Scorer:
    """A scorer that a recipe gives. Of a function, this runs the code.

    Raises:
        InputError: a model that is none, no such function, or an endpoint without its key.
    """
    if source.kind == "python":
        function = import_function(source.python, Path(source.folder))
        made = from_function(function, source.upper, input=source.input, members=source.members)
        return replace(made, name=f"python: {source.python}")
    if source.kind == "endpoint":
        fields = (
            "template",
            "input",
            "unsafe_word",
            "safe_word",
            "key_env",
            "concurrency",
            "upper",
        )
        options = {name: getattr(source, name) for name in fields}
        return from_endpoint(source.endpoint, model=source.model, timeout=source.timeout, **options)
    return load_scorer(
        source.model,
        label=source.label,
        input=source.input,
        combine="worst" if kind == "cost" else "mean",
        max_tokens=max_tokens,
        device=device,
    )


def load_scorers(
    directory: Path,
    max_tokens: int,
    sources: Mapping[Kind, ScorerSource],
    *,
    device: str = "auto",
) -> tuple[Scorer, Scorer]:
    """The reward and the cost scorer in a folder that ``fit-scorers`` wrote.

    Args:
        directory: the folder.
        max_tokens: longest text that a classifier reads at once.
        sources: of the scorers that were given and not fitted. They are the caller's, and not what
            the folder says: a folder does not decide to run code or to send texts anywhere.
        device: where to put classifiers.
    """
    maps: dict[str, Json] = read_json(directory / SOURCES_NAME)["maps"]

    def load(kind: Kind) -> Scorer:
        if kind in sources:
            return open_source(sources[kind], kind, max_tokens, device=device)
        # A fitted scorer has a map to its calibrated units; a given one is used in its own.
        combine = "worst" if kind == "cost" else "mean"
        scorer = load_scorer(
            directory / kind, combine=combine, max_tokens=max_tokens, device=device
        )
        if kind not in maps:
            return scorer
        score_map, heads = ScoreMap.from_json(maps[kind]), load_rater_heads(directory / kind)
        return (
            MappedScorer(scorer, score_map)
            if heads is None
            else RatedCost(scorer, score_map, heads)
        )

    cost = load("cost")
    # Whoever writes the prompt must not be able to buy the verdict on the answer.
    reads_prompts = "cost" not in sources or sources["cost"].input == "pair"
    return load("reward"), WorseReading(cost) if reads_prompts else cost


def load_scorer_pair(directory: Path, settings: ScorerSection) -> ScorerPair:
    """The scorers of a ScorerPair artifact, the cost read pessimistically."""
    reward, cost = load_scorers(
        directory, settings.max_tokens, given_sources(settings), device=settings.device
    )
    return ScorerPair(reward, PessimisticCost(cost, settings.pessimism, settings.cost_bound))
