"""Is an answer under way worth going on with, beside the best that is there already?

Process heads foresee its reward and cost; what that is in units of the answers' worth, and how far
it errs, is fitted on the calibration draws. An answer is left off where P(admissible) · E[gain over
the best] per token that it still takes is at most what a fresh answer promises per token (which is
above the price, or none would be drawn). So it is left off only beside an admissible one that could
be served: a prefix is never accepted by heads, and never given up on an absolute bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr

from tailguard.decoding.pool import Pool
from tailguard.errors import InputError
from tailguard.values import Foreseen, ProcessHeads

_LEAST_DEVIATION = 1e-9


@dataclass(frozen=True)
class Line:
    """A value as its forecast has it: slope · forecast + intercept, give or take a deviation."""

    slope: float
    intercept: float
    deviation: float

    @classmethod
    def fit(cls, forecast: np.ndarray, value: np.ndarray) -> Line:
        """Least squares; a forecast that never varies gets no weight."""
        variance = float(forecast.var())
        slope = 0.0
        if variance > _LEAST_DEVIATION:
            slope = float(((forecast - forecast.mean()) * (value - value.mean())).mean()) / variance
        intercept = float(value.mean()) - slope * float(forecast.mean())
        errors = value - slope * forecast - intercept
        return cls(slope, intercept, max(float(errors.std()), _LEAST_DEVIATION))

    def __call__(self, forecast: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """The expected value."""
        return self.slope * forecast + self.intercept


@dataclass(frozen=True)
class Stage:
    """What is known at one checkpoint, for one penalty.

    Attributes:
        tokens: of the answer so far.
        rest: tokens that answers which get there still take on average.
        utility: of the whole answer.
        bound: upper bound on its cost.
    """

    tokens: int
    rest: float
    utility: Line
    bound: Line

    def pays(
        self,
        utility: Float[np.ndarray, " n"],
        bound: Float[np.ndarray, " n"],
        *,
        best: Float[np.ndarray, " n"],
        level: float,
        rate: Float[np.ndarray, " n"] | None,
    ) -> Bool[np.ndarray, " n"]:
        """Whether each answer is worth going on with; always where nothing can be served yet.

        Args:
            utility: expected [n].
            bound: expected upper bound on cost [n].
            best: utility of the best answer that could be served; −inf where there is none.
            level: of acceptance.
            rate: gain per token that going on must exceed [n]; None where tokens are free.
        """
        nothing_yet = ~np.isfinite(best)
        if rate is None:
            return np.ones_like(nothing_yet)
        deviation = self.utility.deviation
        z = (utility - np.where(nothing_yet, 0.0, best)) / deviation
        gain = deviation * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi))
        admissible = ndtr((level - bound) / self.bound.deviation)
        return nothing_yet | (admissible * gain > rate * self.rest)


@dataclass(frozen=True, eq=False)
class Prospects:
    """What was foreseen of a pool's draws under one penalty; NaN where a draw had ended before.

    Attributes:
        stages: one for each checkpoint.
        utility: expected [prompts, draws, checkpoints].
        bound: expected upper bound on cost [prompts, draws, checkpoints].
    """

    stages: tuple[Stage, ...]
    utility: Float[np.ndarray, "prompts draws checkpoints"]
    bound: Float[np.ndarray, "prompts draws checkpoints"]

    def left_off(
        self,
        rows: np.ndarray,
        draw: int,
        best: np.ndarray,
        *,
        level: float,
        rate: np.ndarray | None,
    ) -> np.ndarray:
        """The first checkpoint at which each row's draw is left off [rows]; −1 where it is not."""
        found = np.full(len(rows), -1)
        for k, stage in enumerate(self.stages):
            utility, bound = self.utility[rows, draw, k], self.bound[rows, draw, k]
            pays = stage.pays(utility, bound, best=best, level=level, rate=rate)
            found = np.where((found < 0) & ~pays & ~np.isnan(utility), k, found)
        return found


@dataclass(frozen=True, eq=False)
class Outlook:
    """Process heads, read in units of the answers' worth.

    Attributes:
        heads: of base and members.
        threshold: ν′, above which cost counts as excess.
        stages: penalty → what is known at each checkpoint.
    """

    heads: ProcessHeads
    threshold: float
    stages: Mapping[float, tuple[Stage, ...]]

    @classmethod
    def fit(
        cls,
        heads: ProcessHeads,
        threshold: float,
        pools: Sequence[Pool],
        utilities: Mapping[float, Sequence[np.ndarray]],
    ) -> Outlook | None:
        """Lines from the draws of all points together; None where no draw reaches a checkpoint.

        Args:
            heads: fitted on other prompts.
            threshold: ν′ of the utilities.
            pools: draws at some points, with what was foreseen of them.
            utilities: penalty → utility of each pool's draws [prompts, draws].

        Raises:
            InputError: pools without what was foreseen.
        """
        if any(pool.foreseen is None for pool in pools):
            raise InputError("draws: hold nothing that was foreseen; run portfolio again")
        plain = cls(heads, threshold, {})
        stages: dict[float, tuple[Stage, ...]] = {}
        for penalty, found in utilities.items():
            made: list[Stage] = []
            for k, tokens in enumerate(heads.checkpoints.tolist()):
                rows: list[np.ndarray] = []
                for pool, utility in zip(pools, found, strict=True):
                    forecast, bound = plain.raw(pool, penalty)
                    there = np.isfinite(forecast[..., k]) & np.isfinite(utility)
                    there &= np.isfinite(pool.cost_bound)
                    columns = (forecast[..., k], utility, bound[..., k], pool.cost_bound)
                    rest = pool.num_tokens - tokens
                    rows.append(np.stack([c[there] for c in (*columns, rest)]))
                columns = np.concatenate(rows, axis=1)
                if columns.shape[1] < 2:
                    return None
                lines = Line.fit(columns[0], columns[1]), Line.fit(columns[2], columns[3])
                made.append(Stage(tokens, float(columns[4].mean()), *lines))
            stages[penalty] = tuple(made)
        return cls(heads, threshold, stages)

    def raw(self, pool: Pool, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """The heads' own utility and bound of a pool's draws [prompts, draws, checkpoints]."""
        assert pool.foreseen is not None  # `fit` has seen to it
        foreseen = pool.foreseen
        excess = self.heads.hinge_at(foreseen[..., 2:], self.threshold)
        return foreseen[..., 0] - penalty * excess, foreseen[..., 1]

    def of_pool(self, pool: Pool, penalty: float) -> Prospects:
        """What was foreseen of a pool's draws, in units of utility under a penalty."""
        stages = self.stages[penalty]
        utility, bound = self.raw(pool, penalty)
        lines = [
            (stage.utility(utility[..., k]), stage.bound(bound[..., k]))
            for k, stage in enumerate(stages)
        ]
        return Prospects(stages, *(np.stack(part, axis=-1) for part in zip(*lines, strict=True)))

    def at(
        self, checkpoint: int, states: np.ndarray, points: np.ndarray, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expected utility and bound [n] of answers under way."""
        found = self.heads.foresee(checkpoint, states, points)
        excess = self.heads.hinge_at(found.hinge, self.threshold)
        stage = self.stages[penalty][checkpoint]
        return stage.utility(found.reward - penalty * excess), stage.bound(found.cost)

    def to_json(self) -> list[dict[str, Any]]:
        """The stages, as JSON."""
        return [
            {"penalty": penalty, "stages": [asdict(stage) for stage in stages]}
            for penalty, stages in self.stages.items()
        ]

    @classmethod
    def from_json(
        cls, heads: ProcessHeads, threshold: float, content: Sequence[Mapping[str, Any]]
    ) -> Outlook:
        """What `to_json` gave, with its heads."""
        return cls(
            heads,
            threshold,
            {
                float(found["penalty"]): tuple(
                    Stage(
                        int(stage["tokens"]),
                        float(stage["rest"]),
                        Line(**stage["utility"]),
                        Line(**stage["bound"]),
                    )
                    for stage in found["stages"]
                )
                for found in content
            },
        )


def stack_foreseen(found: Foreseen) -> Float[np.ndarray, "n outputs"]:
    """As a `Pool` holds it: reward, bound on cost, and the hinges."""
    return np.concatenate([found.reward[:, None], found.cost[:, None], found.hinge], axis=1)
