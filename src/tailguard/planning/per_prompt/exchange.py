"""Closing the per-prompt duality gap: which prompt should keep which of its thresholds?"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int

from tailguard.planning.tilt import Tilt, sample_penalty
from tailguard.risk import RiskMeasure

PromptThresholds = Float64[np.ndarray, "prompts *k"]
Table = Float64[np.ndarray, "prompts grid"]
_RATIO = 1.2  # between neighbouring multipliers of the grid
_MAX_PASSES = 30  # passes over all prompts; it ends earlier when no exchange helps
_REACH = 6.0  # how far from the dual's multiplier, either way


@dataclass
class Exchange:
    """Local search over one threshold per prompt, by single exchanges.

    Fixed thresholds ν(x) have the value min_λ D(λ), D(λ) = E_x F_x(λ, ν(x)) + λd, with F_x the
    prompt's log-partition. A prompt's alternatives are its best thresholds at the multipliers λ_j of
    a grid; F of every alternative at every λ_j is a table, and an exchange in one prompt changes D
    by a row of it. Grid and table do not depend on the budget, so both are kept.

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
    _rows: dict[int, dict[int, np.ndarray]] = field(
        default_factory=dict[int, dict[int, np.ndarray]]
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
        given = [self._partitions(threshold, multipliers) for threshold in starts]
        known = [self._row(option, grid) for option in grid]
        table = np.stack([*known, *given], axis=1)
        options = np.stack([*(self._thresholds[k] for k in grid), *starts], axis=1)
        rows = np.arange(len(options))
        first = [*range(len(grid), len(grid) + len(starts)), reach]
        chosen = [_exchange(table, multipliers * budget, option) for option in first]
        return [options[rows, choice] for choice in chosen]

    def _row(self, option: int, grid: list[int]) -> Table:
        """F of a grid multiplier's thresholds at the multipliers of the grid; only new ones cost."""
        if option not in self._thresholds:
            self._thresholds[option] = self.best_thresholds(self.unit * _RATIO**option)
            self._rows[option] = {}
        row = self._rows[option]
        missing = [at for at in grid if at not in row]
        if missing:
            multipliers = self.unit * _RATIO ** np.array(missing, dtype=np.float64)
            columns = self._partitions(self._thresholds[option], multipliers)
            row |= {at: columns[:, i] for i, at in enumerate(missing)}
        return np.stack([row[at] for at in grid], axis=1)

    def _partitions(
        self, threshold: PromptThresholds, multipliers: Float64[np.ndarray, "grid"]
    ) -> Table:
        """F_x(λ, ν(x)) of each prompt at each λ."""
        penalty = sample_penalty(self.tilt.bank, self.measure, threshold)
        return self.tilt.partitions(penalty, multipliers)


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
