"""What an answer is worth to serve: r̂ − λ′·E(C − ν′)₊, by the judge as far as scores can tell.

Scorers err in ways that their own scores show: short answers, low costs with a wide spread, high
rewards beside a middling cost. Where a judge has read the calibration draws, its reward and its
excess cost (C − ν′)₊ are regressed on an answer's scores (`SplineRidge`). Answers are then ranked by
what the judge is expected to say of them, and not by the scorers alone, whose largest errors are what a
selection finds. The regression ranks among admissible answers; it admits none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.decoding.pool import Pool
from tailguard.decoding.spline_ridge import SplineRidge
from tailguard.errors import InputError

_CHUNK = 65_536  # answers whose basis is held at once
_MOST_ROWS = 60_000  # that are fitted on: more change the third digit, and take memory
_TAIL_SHARE = 0.75  # quantile of all costs from which on they count as excess


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """Scores of answers, of any one shape.

    Attributes:
        reward: mean of the ensemble.
        cost: mean of the ensemble.
        spread: of the cost over members; NaN where unknown.
        bound: u(y) = mean + κ·spread; +inf where there is no score.
        num_tokens: of the answer.
    """

    reward: Float[np.ndarray, "*n"]
    cost: Float[np.ndarray, "*n"]
    spread: Float[np.ndarray, "*n"]
    bound: Float[np.ndarray, "*n"]
    num_tokens: Float[np.ndarray, "*n"]

    @classmethod
    def of_pool(cls, pool: Pool) -> AnswerScores:
        """Those of a pool's draws [prompts, draws]."""
        return cls(pool.reward, pool.cost, pool.spread, pool.cost_bound, pool.num_tokens)

    @property
    def scored(self) -> np.ndarray:
        """Which answers have finite scores."""
        return np.isfinite(self.reward) & np.isfinite(self.cost) & np.isfinite(self.bound)

    def features(self, rows: np.ndarray) -> Float[np.ndarray, "rows 4"]:
        """Of the answers in a mask: reward, cost, spread (0 where unknown) and tokens."""
        spread = np.nan_to_num(self.spread[rows], posinf=0.0, neginf=0.0)
        parts = [self.reward[rows], self.cost[rows], spread, self.num_tokens[rows]]
        return np.stack(parts, axis=1).astype(np.float64)


@dataclass(frozen=True, eq=False)
class AnswerWorth:
    """Expected reward and excess cost of an answer, from its scores.

    Attributes:
        threshold: ν′, above which cost counts as excess.
        judged: the judge's reward and excess from scores; None takes the scorers' word: the mean
            reward, and (u − ν′)₊.
    """

    threshold: float
    judged: SplineRidge | None = None

    @classmethod
    def fit(cls, pools: list[Pool]) -> AnswerWorth:
        """From draws at some points, with the judge's verdicts where all pools have them.

        Raises:
            InputError: no draw has a score.
        """
        with_judge = all(pool.judged_cost is not None for pool in pools)
        parts = [_rows(pool, with_judge=with_judge) for pool in pools]
        features, reward, cost = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not cost.size:
            raise InputError("draws: none has a finite score; look at the scorers")
        threshold = float(np.quantile(cost, _TAIL_SHARE))
        if not with_judge:
            return cls(threshold)
        targets = np.stack([reward, np.maximum(cost - threshold, 0.0)], axis=1)
        step = max(1, len(features) // _MOST_ROWS)
        return cls(threshold, SplineRidge.fit(features[::step], targets[::step]))

    def expected(self, scores: AnswerScores) -> tuple[np.ndarray, np.ndarray]:
        """Reward and excess cost of each answer, in the answers' shape; without scores −inf and +inf."""
        scored = scores.scored
        reward = np.full(scored.shape, -np.inf)
        excess = np.full(scored.shape, np.inf)
        if self.judged is None:
            reward[scored] = scores.reward[scored]
            excess[scored] = np.maximum(scores.bound[scored] - self.threshold, 0.0)
            return reward, excess
        features = scores.features(scored)
        if len(features):
            starts = range(0, len(features), _CHUNK)
            parts = [self.judged.predict(features[start : start + _CHUNK]) for start in starts]
            found = np.concatenate(parts)
            reward[scored], excess[scored] = found[:, 0], found[:, 1]
        return reward, excess

    def utility(self, scores: AnswerScores, penalty: float) -> np.ndarray:
        """r̂ − λ′·E(C − ν′)₊ of each answer; −inf where it has no score."""
        reward, excess = self.expected(scores)
        return reward - penalty * excess if penalty else reward


SCORERS_WORD = AnswerWorth(0.0)
"""Answers ranked by what the scorers say of them."""


def _rows(pool: Pool, *, with_judge: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, reward and cost of a pool's scored draws: the judge's, or the scorers' own."""
    scores = AnswerScores.of_pool(pool)
    scored = scores.scored
    reward = pool.judged_reward if with_judge else pool.reward
    cost = pool.judged_cost if with_judge else pool.cost_bound
    assert reward is not None  # a judge gives both
    assert cost is not None
    found = scores.features(scored), reward[scored], cost[scored]
    return tuple(np.asarray(each, dtype=np.float64) for each in found)  # pyright: ignore[reportReturnType]
