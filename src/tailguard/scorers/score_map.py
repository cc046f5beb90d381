"""Scores in calibrated units: each member's offset taken away, then one increasing map for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.scorers.readings import Reading, read_answers
from tailguard.scorers.scorer import Scorer


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """An increasing, piecewise linear map, going on straight beyond its outermost knots.

    Attributes:
        offsets: taken from each member's score first [members].
        knots: increasing, at least two [k].
        values: of the map there, increasing [k].

    Raises:
        InputError: knots or values that do not increase, are not finite, or of different lengths.
    """

    offsets: Float[np.ndarray, " members"]
    knots: Float[np.ndarray, " k"]
    values: Float[np.ndarray, " k"]

    def __post_init__(self) -> None:
        """Refuse what would turn the order of two answers round."""
        for name in ("offsets", "knots", "values"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"{name}: holds a number that is not finite")
        if len(self.knots) < 2 or (np.diff(self.knots) <= 0).any():
            raise InputError("knots: give at least two, increasing")
        if len(self.values) != len(self.knots) or (np.diff(self.values) <= 0).any():
            raise InputError("values: give one for each knot, increasing with them")

    def __call__(self, scores: Float[np.ndarray, "n members"]) -> Float[np.ndarray, "n members"]:
        """Scores in the new units."""
        # Members differ by an arbitrary constant each, which would pass for spread.
        raw = scores - self.offsets
        slopes = np.diff(self.values) / np.diff(self.knots)
        inside = np.interp(raw, self.knots, self.values)
        # np.interp is flat outside the knots, which would cap exactly the worst costs.
        below = slopes[0] * np.minimum(raw - self.knots[0], 0.0)
        above = slopes[-1] * np.maximum(raw - self.knots[-1], 0.0)
        return inside + below + above

    def shifted(self, zero: float) -> ScoreMap:
        """The map less a constant."""
        return ScoreMap(self.offsets, self.knots, self.values - zero)

    def to_json(self) -> dict[str, list[float]]:
        """As JSON holds it."""
        return {name: getattr(self, name).tolist() for name in ("offsets", "knots", "values")}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ScoreMap:
        """What `to_json` gave."""
        return cls(**{name: np.asarray(value, dtype=np.float64) for name, value in fields.items()})


@dataclass(frozen=True)
class MappedScorer:
    """A scorer read through a map.

    Attributes:
        scorer: what scores.
        score_map: its units.
    """

    scorer: Scorer
    score_map: ScoreMap

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores in the map's units, float64 [n, members]."""
        return self.score_map(self.scorer.score(prompts, responses))

    def read(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Reading:
        """The same, and the scorer's own shift."""
        found = read_answers(self.scorer, prompts, responses)
        return Reading(self.score_map(found.scores), found.shift)
