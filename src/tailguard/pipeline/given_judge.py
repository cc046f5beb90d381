"""A judge that is given to ``certify``: any scorer that a recipe can name, or the sandbox's truth.

It must have taken no part: a certificate by a scorer that chose the answers says nothing of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from tailguard.artifacts import content_hash
from tailguard.config import ScorerSource
from tailguard.config.yaml_text import YamlError, parse_yaml, read_yaml
from tailguard.data import Prompt
from tailguard.decoding.certificates import judge_bound
from tailguard.decoding.scoring import score_closed
from tailguard.errors import InputError
from tailguard.pipeline.decoder_artifact import DecoderFile
from tailguard.pipeline.scorer_artifact import KINDS, open_source, source_hashes
from tailguard.pipeline.sources import SANDBOX_MODEL
from tailguard.risk import RiskMeasure
from tailguard.scorers.scorer import Scorer

TRUTH = "truth"


@dataclass(frozen=True)
class GivenJudge:
    """Who judges, and the largest cost that it was declared to give.

    Attributes:
        source: of the scorer; None for the sandbox's truth.
        largest_cost: B; what is above it counts as it, and is counted.
        budget: d in the judge's units; None where they are those of the limit.
    """

    source: ScorerSource | None
    largest_cost: float
    budget: float | None = None

    @property
    def name(self) -> str:
        """What records and messages call it."""
        if self.source is None:
            return "the sandbox's truth"
        if self.source.kind == "python":
            return f"python: {self.source.python}"
        where = f" at {self.source.endpoint}" if self.source.kind == "endpoint" else ""
        return f"model: {self.source.model}{where}"

    @classmethod
    def read(cls, text: str, largest_cost: float | None, budget: float | None = None) -> GivenJudge:
        """From what a command line says.

        Args:
            text: ``truth``; ``module:function``; a classifier's folder or hub name; the keys of a
                recipe's ``scorers.cost_model`` in YAML, such as ``{python: m:f, members: 3}``; or a
                YAML file with them.
            largest_cost: B; None takes the source's ``upper``, or the truth's own.
            budget: d in the judge's units, where those differ.

        Raises:
            InputError: no such source, or no range is declared.
        """
        if text == TRUTH:
            from tailguard.lab.sandbox import COST_BOUND

            source, declared = None, COST_BOUND
        else:
            source = _source(text)
            declared = source.upper
            # The range clips, and says how often; a scorer that clips itself would hide it.
            source = source.model_copy(update={"upper": None})
        largest = declared if largest_cost is None else largest_cost
        if largest is None or not math.isfinite(largest):
            raise InputError(
                "--judge-range: declare the largest cost that the judge can give; no certificate is"
                " possible without one, and verdicts above it count as it"
            )
        return cls(source, float(largest), budget)

    def require_outsider(self, directory: Path, content: DecoderFile) -> None:
        """Refuse one of the decoder's own scorers, and the truth of another world.

        Raises:
            InputError: it took part, or cannot read what is served.
        """
        if self.source is None:
            if content.model != SANDBOX_MODEL:
                raise InputError(
                    f"--judge truth: parses the sandbox's language alone; this decoder's model is"
                    f" {content.model}"
                )
            return
        own = set(content.scorer_hashes.values())
        folders = [directory / "scorers" / kind for kind in KINDS]
        own |= {content_hash(folder) for folder in folders if folder.is_dir()}
        same = set(source_hashes({"cost": self.source}).values()) & own
        same_name = any(_identity(self.source) == _identity(s) for s in content.given.values())
        if same or same_name:
            raise InputError(
                f"--judge: {self.name} is a scorer that chose the answers, which is no judge of them;"
                " give another"
            )

    def open(self, max_tokens: int, device: str) -> Scorer:
        """The scorer. Of a function, this runs the code.

        Raises:
            InputError: as `open_source`.
        """
        if self.source is None:
            from tailguard.lab.sandbox import TruthScorer

            return TruthScorer("cost")
        return open_source(self.source, "cost", max_tokens, device=device)

    def shown(
        self, cost: np.ndarray, measure: RiskMeasure, budget: float, confidence: float
    ) -> dict[str, object]:
        """What verdicts show, as ``certify`` prints and records it."""
        bound = judge_bound(cost, measure, self.largest_cost, confidence)
        asked = budget if self.budget is None else self.budget
        silent = int(np.isinf(cost).sum())
        return {
            "certified": bound.value <= asked and silent < cost.size,
            "judge": self.name,
            "judge_range": self.largest_cost,
            "judge_budget": asked,
            "judge_upper_bound": bound.value,
            "num_unjudged": silent,
            "num_clipped": bound.num_clipped - silent,
        }


def read_verdicts(
    judge: Scorer, prompts: Sequence[Prompt], texts: Sequence[str]
) -> Float[np.ndarray, " answers"]:
    """The judge's cost of each answer; +inf where it gave no finite number."""
    scored = score_closed(judge, prompts, texts)
    return np.array([math.inf if s.summary is None else s.summary.mean for s in scored])


def _identity(source: ScorerSource) -> tuple[str, str, str]:
    return source.python, source.endpoint, source.model


def _source(text: str) -> ScorerSource:
    if text.endswith((".yaml", ".yml")):
        fields: object = read_yaml(Path(text))[0]
    else:
        try:
            fields = parse_yaml(text)[0]
        except YamlError as problem:
            raise InputError(f"--judge: {problem}") from None
    if isinstance(fields, str):
        named = re.fullmatch(r"[\w.]+:\w+", fields)
        fields = {"python" if named else "model": fields}
    if not isinstance(fields, dict):
        raise InputError(
            "--judge: give truth, module:function, a model, or the keys of a cost_model in YAML"
        )
    try:
        return ScorerSource.model_validate(cast("dict[str, object]", fields))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        raise InputError(f"--judge: {f'{key}: ' if key else ''}{problem}") from None
