"""Pairs of answers to one prompt, in the order in which a scorer should put them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tailguard.data import Preference, Prompt, prompt_id
from tailguard.errors import InputError


@dataclass(frozen=True)
class ResponsePairs:
    """Answers where ``higher`` should score above ``lower``.

    For a reward the higher answer is the preferred one; for a cost it is the riskier one. The
    constructors :meth:`for_reward` and :meth:`for_cost` keep that straight.

    Attributes:
        prompts: one per pair [n].
        higher: the answers that should score higher [n].
        lower: the answers that should score lower [n].
        higher_sign: +1 unsafe, −1 safe, 0 unknown, for ``higher`` [n]; ``None`` where unlabelled.
        lower_sign: the same for ``lower``.
        raters: who compared the answers, None where unknown [n]; ``None`` where nobody is named.

    Raises:
        InputError: no pairs, or sequences of different lengths.
    """

    prompts: Sequence[Prompt]
    higher: Sequence[str]
    lower: Sequence[str]
    higher_sign: Sequence[int] | None = None
    lower_sign: Sequence[int] | None = None
    raters: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        """Check the lengths and the signs."""
        if len(self.prompts) == 0:
            raise InputError("pairs: empty; give at least one prompt with two answers")
        for name in ("higher", "lower", "higher_sign", "lower_sign", "raters"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.prompts):
                raise InputError(
                    f"pairs.{name}: {len(column)} entries for {len(self.prompts)} prompts;"
                    " give one per prompt"
                )
        for name in ("higher_sign", "lower_sign"):
            column = getattr(self, name)
            if column is not None and not set(column) <= {-1, 0, 1}:
                raise InputError(f"pairs.{name}: {sorted(set(column))}; use +1, −1 or 0")

    @classmethod
    def for_reward(cls, preferences: Sequence[Preference]) -> ResponsePairs:
        """Pairs for a reward: the chosen answer scores higher."""
        return cls(
            prompts=[pair.prompt for pair in preferences],
            higher=[pair.chosen for pair in preferences],
            lower=[pair.rejected for pair in preferences],
        )

    @classmethod
    def for_cost(
        cls,
        preferences: Sequence[Preference],
        raters: Literal["annotator", "category"] | None = None,
    ) -> ResponsePairs:
        """Pairs for a cost: the rejected (riskier) answer scores higher; safe is negative cost.

        Args:
            preferences: the pairs.
            raters: the field that names who compared them.
        """
        return cls(
            prompts=[pair.prompt for pair in preferences],
            higher=[pair.rejected for pair in preferences],
            lower=[pair.chosen for pair in preferences],
            higher_sign=[_sign(pair.rejected_safe) for pair in preferences],
            lower_sign=[_sign(pair.chosen_safe) for pair in preferences],
            raters=None if raters is None else [getattr(pair, raters) for pair in preferences],
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | np.ndarray) -> ResponsePairs:
        """The pairs at ``rows``, in that order."""
        index = [int(row) for row in rows]

        def pick(column: Sequence[int] | None) -> list[int] | None:
            return None if column is None else [column[i] for i in index]

        return ResponsePairs(
            prompts=[self.prompts[i] for i in index],
            higher=[self.higher[i] for i in index],
            lower=[self.lower[i] for i in index],
            higher_sign=pick(self.higher_sign),
            lower_sign=pick(self.lower_sign),
            raters=None if self.raters is None else [self.raters[i] for i in index],
        )

    def prompt_index(self) -> np.ndarray:
        """One number per pair [n], equal exactly where the prompts are equal."""
        seen: dict[str, int] = {}
        # By content, because equal prompts may be different objects (chats are lists of dicts).
        numbers = [seen.setdefault(prompt_id(prompt), len(seen)) for prompt in self.prompts]
        return np.array(numbers, dtype=np.int64)

    def split_by_prompt(
        self, share: float, generator: np.random.Generator
    ) -> tuple[ResponsePairs, ResponsePairs]:
        """Two parts without a common prompt; the second holds about ``share`` of the prompts.

        Raises:
            InputError: ``share`` outside (0, 1), or fewer than two prompts.
        """
        if not 0.0 < share < 1.0:
            raise InputError(f"share: {share}; must lie strictly between 0 and 1")
        index = self.prompt_index()
        num_prompts = int(index.max()) + 1
        if num_prompts < 2:
            raise InputError("pairs: a split by prompt needs at least two different prompts")
        # Neither part may be empty, however small the share.
        num_held_out = min(max(1, round(share * num_prompts)), num_prompts - 1)
        held_out = np.isin(index, generator.permutation(num_prompts)[:num_held_out])
        return self.take(np.flatnonzero(~held_out)), self.take(np.flatnonzero(held_out))


def _sign(safe: bool | None) -> int:
    return 0 if safe is None else (-1 if safe else 1)
