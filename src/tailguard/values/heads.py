"""Process heads: reward and cost of the whole answer, expected after its first tokens.

Linear in what `tailguard.engines.prefix` shows (the prompt's last state beside the mean of the answer's so
far) and in the point of the weight space whose policy will go on; one set for each number of tokens. They
hold for that base and those members alone. E(C − ν)₊ is foreseen on a grid of ν, which is linear in the data and
interpolates in ν, so that one set of heads serves every measure that is an expected φ_ν of the cost.

Heads choose what is worth going on with. They never judge a finished answer: the full scorers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tailguard.errors import InputError, ScoreError

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, per row and standardised feature
_NUM_FOLDS = 4  # of the prompts, which choose the penalty and calibrate the quantile
_UPPER = 0.9
"""Level of the upper quantile of the final cost."""
_NUM_THRESHOLDS = 8
FEWEST_PROMPTS = 20
"""Prompts that heads can be fitted on."""


@dataclass(frozen=True, eq=False)
class HeadData:
    """Finished answers, and their states on the way.

    Attributes:
        states: at each checkpoint [n, checkpoints, 2·hidden]; NaN where an answer had ended before.
        points: of the weight space, whose policy drew each [n, members].
        reward: of the whole answer [n].
        cost: upper bound on its cost [n].
        prompt_index: equal numbers for equal prompts [n].
    """

    states: Float[np.ndarray, "n checkpoints width"]
    points: Float[np.ndarray, "n members"]
    reward: Float[np.ndarray, " n"]
    cost: Float[np.ndarray, " n"]
    prompt_index: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Foreseen:
    """What is expected of whole answers [n] each; NaN where nothing is known.

    Attributes:
        reward: mean.
        cost: mean of the upper bound on cost.
        cost_upper: a bound that the cost exceeds in one of ten answers.
        hinge: E(C − ν_j)₊ on the heads' grid [n, thresholds].
    """

    reward: Float[np.ndarray, " n"]
    cost: Float[np.ndarray, " n"]
    cost_upper: Float[np.ndarray, " n"]
    hinge: Float[np.ndarray, "n thresholds"]


@dataclass(frozen=True, eq=False)
class ProcessHeads:
    """Linear heads at each checkpoint.

    Attributes:
        checkpoints: numbers of tokens, increasing [checkpoints].
        thresholds: the grid of ν [thresholds].
        weights: of the features, whose last is constant [checkpoints, features + 1, 2 + thresholds].
        margins: added to the expected cost for its upper quantile [checkpoints].
    """

    checkpoints: Int[np.ndarray, " checkpoints"]
    thresholds: Float[np.ndarray, " thresholds"]
    weights: Float[np.ndarray, "checkpoints features outputs"]
    margins: Float[np.ndarray, " checkpoints"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        num = len(self.checkpoints)
        outputs = 2 + len(self.thresholds)
        if self.weights.shape[::2] != (num, outputs) or self.margins.shape != (num,):
            raise InputError(f"weights: shape {self.weights.shape}; must be [{num}, …, {outputs}]")

    @classmethod
    def fit(
        cls, data: HeadData, checkpoints: tuple[int, ...], generator: np.random.Generator
    ) -> ProcessHeads:
        """Ridge regression, its penalty chosen and its quantile calibrated on prompts held out in turn.

        The margin of the upper quantile is that order statistic of the errors on prompts that took no part
        which a new answer's error exceeds with probability about a tenth (cross-validated residuals, as in CV+,
        1905.02928, around one model).

        Args:
            data: of prompts that take no part in calibration or certificates.
            checkpoints: numbers of tokens of the states.
            generator: splits the prompts.

        Raises:
            InputError: fewer than `FEWEST_PROMPTS` prompts reach even the first checkpoint; later ones that
                too few reach are left out.
            ScoreError: scores that are not finite.
        """
        if not (np.isfinite(data.reward).all() and np.isfinite(data.cost).all()):
            raise ScoreError("answers: not all have finite scores; look at the scorers")
        shares = np.linspace(0.5, 0.99, _NUM_THRESHOLDS)
        thresholds = np.unique(np.quantile(data.cost, shares))
        hinges = np.maximum(data.cost[:, None] - thresholds, 0.0)
        targets = np.concatenate([data.reward[:, None], data.cost[:, None], hinges], axis=1)
        names = generator.permutation(np.unique(data.prompt_index))
        fold = np.empty(int(names.max()) + 1, dtype=int)
        fold[names] = np.arange(len(names)) % _NUM_FOLDS
        weights: list[np.ndarray] = []
        margins: list[float] = []
        for k, tokens in enumerate(checkpoints):
            there = np.isfinite(data.states[:, k]).all(axis=1)
            num_prompts = len(np.unique(data.prompt_index[there]))
            if num_prompts < FEWEST_PROMPTS and k > 0:
                break
            if num_prompts < FEWEST_PROMPTS:
                raise InputError(
                    f"answers: of {num_prompts} prompts more than {tokens} tokens long; heads need"
                    f" {FEWEST_PROMPTS}: give more prompts, or set dial.heads to false"
                )
            features = _features(data.states[there, k], data.points[there])
            found, errors = _best_ridge(features, targets[there], fold[data.prompt_index[there]])
            weights.append(found)
            margins.append(_upper_margin(errors[:, 1]))
        kept = np.array(checkpoints[: len(weights)])
        return cls(kept, thresholds, np.stack(weights), np.array(margins))

    def foresee(
        self,
        checkpoint: int,
        states: Float[np.ndarray, "n width"],
        points: Float[np.ndarray, "n members"],
    ) -> Foreseen:
        """What is expected of answers whose states are those after ``checkpoints[checkpoint]`` tokens.

        Raises:
            InputError: states or points of another width than was fitted on.
        """
        features = _features(states, points)
        weights = self.weights[checkpoint]
        if features.shape[1] != weights.shape[0]:
            raise InputError(
                f"states: {features.shape[1]} features; the heads were fitted on {weights.shape[0]}"
            )
        found = features @ weights
        # A mean of hinges is neither negative nor below the hinge of the mean (Jensen).
        least = np.maximum(found[:, 1:2] - self.thresholds, 0.0)
        cost = found[:, 1]
        return Foreseen(
            found[:, 0], cost, cost + self.margins[checkpoint], np.maximum(found[:, 2:], least)
        )

    def hinge_at(
        self, foreseen: Float[np.ndarray, "*n thresholds"], threshold: float
    ) -> Float[np.ndarray, "*n"]:
        """E(C − ν)₊ at one ν, linear between the grid's, with slope −1 below it and flat above."""
        grid = self.thresholds
        below = np.maximum(grid[0] - threshold, 0.0)
        place = np.clip(np.searchsorted(grid, threshold) - 1, 0, max(len(grid) - 2, 0))
        if len(grid) == 1:
            return foreseen[..., 0] + below
        share = np.clip((threshold - grid[place]) / (grid[place + 1] - grid[place]), 0.0, 1.0)
        return (1.0 - share) * foreseen[..., place] + share * foreseen[..., place + 1] + below

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ProcessHeads:
        """What `to_arrays` gave.

        Raises:
            InputError: other arrays.
        """
        try:
            return cls(**arrays)
        except TypeError as error:
            raise InputError(f"not process heads: {error}") from None


def _features(states: np.ndarray, points: np.ndarray) -> np.ndarray:
    ones = np.ones((len(states), 1))
    return np.concatenate([states, points, ones], axis=1, dtype=np.float64)


def _best_ridge(
    features: np.ndarray, targets: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the penalty with the smallest error on folds held out in turn, and these errors."""
    spread = targets.std(axis=0) + 1e-12
    best: tuple[float, float, np.ndarray] | None = None
    for penalty in _PENALTIES:
        errors = np.empty_like(targets)
        for k in np.unique(fold):
            held = fold == k
            errors[held] = targets[held] - features[held] @ _ridge(
                features[~held], targets[~held], penalty
            )
        loss = float(((errors / spread) ** 2).mean())
        if best is None or loss < best[0]:
            best = loss, penalty, errors
    assert best is not None  # there are penalties
    return _ridge(features, targets, best[1]), best[2]


def _ridge(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Weights of the features, the last of which is constant and not shrunk."""
    centre, scale = features.mean(axis=0), features.std(axis=0)
    centre[-1], scale[-1] = 0.0, 1.0
    # What never varies gets no weight, whatever it is later.
    known = scale > 1e-9
    scale = np.where(known, scale, 1.0)
    rows = np.where(known, (features - centre) / scale, 0.0)
    gram, moment = rows.T @ rows / len(rows), rows.T @ targets / len(rows)
    ridge = penalty * np.eye(len(gram))
    ridge[-1, -1] = 0.0
    found = np.linalg.solve(gram + ridge + 1e-9 * np.eye(len(gram)), moment)
    weights = np.where(known[:, None], found / scale[:, None], 0.0)
    weights[-1] -= (centre[:, None] * weights).sum(axis=0)
    return weights


def _upper_margin(errors: np.ndarray) -> float:
    """The ⌈.9(n + 1)⌉-th smallest error, or the largest where there are too few."""
    rank = min(int(np.ceil(_UPPER * (len(errors) + 1))), len(errors))
    return float(np.sort(errors)[rank - 1])
