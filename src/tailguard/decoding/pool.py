"""Scored draws of many prompts at one point of the weight space: what the decoder would see."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.scorers.shift import is_unlike

PerDraw = Float[np.ndarray, "prompts draws"]
PerPrompt = Float[np.ndarray, " prompts"]
_FURTHER = {"foreseen": 2} | dict.fromkeys(
    ("rater_bound", "judged_by_rater", "fallback_rater_bound", "fallback_judged_by_rater"), 1
)  # axes after those of the rewards


@dataclass(frozen=True, eq=False)
class Pool:
    """Draws of each prompt in the order in which a decoder would draw them, and its fallback.

    Draws of a prompt are independent and alike, so a decoder's rule applied to them in their order has
    exactly the law that it has when it draws (`simulate`): no new answers are needed to try a rule.

    Attributes:
        reward: mean of the reward ensemble.
        cost: mean of the cost ensemble, the worse of its readings.
        cost_bound: u(y) = mean + κ·spread of the cost; +inf where there is no score.
        spread: of the cost over members; NaN where unknown.
        num_tokens: of each draw.
        fallback_reward: of the text that is served on abstention, as for draws.
        fallback_cost: the same.
        fallback_cost_bound: the same.
        doubt: `error_doubt` of each draw's verdict in bits; None where it was not kept.
        shift: how unlike the answers that the cost scorer was fitted on each draw is; None likewise.
        rater_bound: u(y) to each rater [prompts, draws, raters]; None where the scorer knows none.
        foreseen: by process heads at each checkpoint, as `stack_foreseen`; NaN where a draw had ended
            before [prompts, draws, checkpoints, outputs].
        judged_reward: by a judge that took no part, of each draw; None where there is none.
        judged_cost: the same.
        judged_by_rater: the judge's cost to each rater [prompts, draws, raters]; None likewise.
        fallback_judged_reward: the same of the fallback.
        fallback_judged_cost: the same.
        fallback_rater_bound: the same [prompts, raters].
        fallback_judged_by_rater: the same [prompts, raters].

    Raises:
        InputError: arrays of other shapes than the rewards'.
    """

    reward: PerDraw
    cost: PerDraw
    cost_bound: PerDraw
    spread: PerDraw
    num_tokens: PerDraw
    fallback_reward: PerPrompt
    fallback_cost: PerPrompt
    fallback_cost_bound: PerPrompt
    doubt: PerDraw | None = None
    shift: PerDraw | None = None
    rater_bound: Float[np.ndarray, "prompts draws raters"] | None = None
    foreseen: Float[np.ndarray, "prompts draws checkpoints outputs"] | None = None
    judged_reward: PerDraw | None = None
    judged_cost: PerDraw | None = None
    judged_by_rater: Float[np.ndarray, "prompts draws scored_raters"] | None = None
    fallback_judged_reward: PerPrompt | None = None
    fallback_judged_cost: PerPrompt | None = None
    fallback_rater_bound: Float[np.ndarray, "prompts raters"] | None = None
    fallback_judged_by_rater: Float[np.ndarray, "prompts scored_raters"] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if self.reward.ndim != 2 or self.reward.size == 0:
            raise InputError(f"reward: shape {self.reward.shape}; must be [prompts, draws]")
        for name, array in self.arrays().items():
            shape = self.reward.shape[:1] if name.startswith("fallback_") else self.reward.shape
            if array.shape[: len(shape)] != shape or array.ndim != len(shape) + _FURTHER.get(
                name, 0
            ):
                raise InputError(f"{name}: shape {array.shape}; must be {shape}")

    @property
    def num_prompts(self) -> int:
        """Prompts."""
        return self.reward.shape[0]

    @property
    def num_draws(self) -> int:
        """Draws of each prompt."""
        return self.reward.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    def within(self, largest_shift: float) -> Pool:
        """The same, with no bound on the cost of draws farther than that from what was fitted on."""
        if self.shift is None:
            return self
        unlike = is_unlike(self.shift, largest_shift)
        return replace(self, cost_bound=np.where(unlike, np.inf, self.cost_bound))

    def take(self, prompts: np.ndarray) -> Pool:
        """The same of some prompts, by index or mask."""
        return replace(self, **{name: array[prompts] for name, array in self.arrays().items()})
