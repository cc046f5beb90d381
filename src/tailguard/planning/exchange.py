"""Closing the per-prompt duality gap: which prompt should keep which of its thresholds?"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int

from tailguard.planning.tilt import Tilt, sample_penalty
from tailguard.risk import RiskMeasure

PromptThresholds = Float64[np.ndarray, "prompts *k"]
_RATIO = 1.2  # between neighbouring multipliers of the grid
_MAX_PASSES = 30
_REACH = 6.0  # how far from the dual's multiplier, either way


@dataclass
class Exchange:
    """Local search over one threshold a prompt, by single exchanges.

    Fixed thresholds ν(x) have the value min_λ D(λ), D(λ) = E_x F_x(λ, ν(x)) + λd, with F_x the
    prompt's log-partition. A prompt's alternatives are its best thresholds at the multipliers λ_j of
    a grid; F of every alternative at every λ_j is a table, and an exchange in one prompt changes D
    by a row of it. Grid and table do not know the budget, so both are kept.

    Attributes:
        tilt: the tilt by the reward alone.
        measure: ρ.
        best_thresholds: gives each prompt's best ν at a multiplier.
        unit: a multiplier of the right order, where the grid starts.
    """

    tilt: Tilt
    measure: RiskMeasure
    best_thresholds: Callable[[float], PromptThresholds]
    unit: float
    _thresholds: dict[int, PromptThresholds] = field(default_factory=dict[int, PromptThresholds])
    _entries: dict[tuple[int, int], Float64[np.ndarray, "prompts"]] = field(
        default_factory=dict[tuple[int, int], PromptThresholds]
    )

    def improve(
        self, starts: list[PromptThresholds], multiplier: float, budget: float
    ) -> list[PromptThresholds]:
        """Exchange until no single one helps, from each start and from the best ν at λ.

        Args:
            starts: choices of ν(x) with which the budget can be met.
            multiplier: λ near the dual's minimum.
            budget: d.
        """
        centre = round(math.log(multiplier / self.unit) / math.log(_RATIO))
        reach = math.ceil(math.log(_REACH) / math.log(_RATIO))
        grid = list(range(centre - reach, centre + reach + 1))
        multipliers = self.unit * _RATIO ** np.array(grid, dtype=np.float64)
        given = [
            np.stack([self._partition(threshold, float(lam)) for lam in multipliers], axis=1)
            for threshold in starts
        ]
        known = [np.stack([self._entry(k, j) for j in grid], axis=1) for k in grid]
        table = np.stack([*known, *given], axis=1)
        options = np.stack([*(self._thresholds[k] for k in grid), *starts], axis=1)
        rows = np.arange(len(options))
        first = [*range(len(grid), len(grid) + len(starts)), reach]
        chosen = [_exchange(table, multipliers * budget, option) for option in first]
        return [options[rows, choice] for choice in chosen]

    def _entry(self, option: int, at: int) -> Float64[np.ndarray, "prompts"]:
        if option not in self._thresholds:
            self._thresholds[option] = self.best_thresholds(self.unit * _RATIO**option)
        if (option, at) not in self._entries:
            self._entries[option, at] = self._partition(
                self._thresholds[option], self.unit * _RATIO**at
            )
        return self._entries[option, at]

    def _partition(
        self, threshold: PromptThresholds, multiplier: float
    ) -> Float64[np.ndarray, "prompts"]:
        """F_x(λ, ν(x)) of each prompt."""
        penalty = sample_penalty(self.tilt.bank, self.measure, threshold)
        return self.tilt.kl_coef * self.tilt.weights(multiplier * penalty)[1]


def _exchange(
    table: Float64[np.ndarray, "prompts options grid"],
    price: Float64[np.ndarray, "grid"],
    start: int,
) -> Int[np.ndarray, "prompts"]:
    """The option of each prompt after greedy exchanges, all prompts starting with the same one."""
    rows = np.arange(len(table))
    choice = np.full(len(table), start)
    for _ in range(_MAX_PASSES):
        gain = (table - table[rows, choice][:, None]) / len(table)
        dual = table[rows, choice].mean(axis=0) + price
        least = dual.min()
        enough = 1e-9 * (1.0 + abs(least))
        exchanged = (dual + gain).min(axis=2)
        option = exchanged.argmax(axis=1)
        reached = exchanged[rows, option]
        promising = np.flatnonzero(reached > least + enough)
        if promising.size == 0:
            break
        for prompt in promising[
            np.argsort(-reached[promising])
        ]:  # one's gain depends on the others'
            together = dual + gain[prompt, option[prompt]]
            if together.min() > least + enough:
                dual, least = together, together.min()
                choice[prompt] = option[prompt]
    return choice
