"""The sample bank: scored draws from the reference policy, on which every plan is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy.typing import ArrayLike

from tailguard.errors import InputError
from tailguard.risk.checks import to_array

# Weights below this are dropped before they divide anything: 1/w and w·c² stay finite above it.
_NEGLIGIBLE = 1e-250


@dataclass(frozen=True, eq=False, init=False)
class SampleBank:
    """Rewards and costs of N samples per prompt; prompts count alike, samples by ``log_weight``.

    Lists, NumPy arrays and torch tensors are converted to read-only float64 arrays.

    Attributes:
        reward: r(x, y), [prompts, samples].
        cost: c(x, y), larger is worse, [prompts, samples] or [prompts, samples, raters].
        rater_weight: share of each rater, [raters]; scaled to sum 1, uniform when left out.
        prompt_ids: one name per prompt.
        log_weight: log of target over sampling density, [prompts, samples]; self-normalised per
            prompt. −∞ leaves a sample out, which is how prompts with fewer samples are padded.

    Raises:
        InputError: an array is empty, misshapen, NaN or infinite, or a weight is negative.
    """

    reward: Float64[np.ndarray, "prompts samples"]
    cost: Float64[np.ndarray, "prompts samples *raters"]
    rater_weight: Float64[np.ndarray, "num_raters"] | None
    prompt_ids: tuple[Any, ...] | None
    log_weight: Float64[np.ndarray, "prompts samples"] | None

    def __init__(
        self,
        reward: Any,
        cost: Any,
        rater_weight: Any = None,
        prompt_ids: Sequence[Any] | np.ndarray | None = None,
        log_weight: Any = None,
    ) -> None:
        """Convert, check and freeze."""
        reward = _finite("reward", reward)
        cost = _finite("cost", cost)
        if reward.ndim != 2 or reward.size == 0:
            raise InputError(f"reward must be [prompts, samples] and not empty, got {reward.shape}")
        if cost.ndim not in (2, 3) or cost.shape[:2] != reward.shape or cost.size == 0:
            raise InputError(
                f"cost must be [prompts, samples] or [prompts, samples, raters] with reward's "
                f"{reward.shape} in front, got {cost.shape}"
            )
        if prompt_ids is not None and len(prompt_ids) != len(reward):
            raise InputError(f"prompt_ids has {len(prompt_ids)} names for {len(reward)} prompts")
        frozen = {
            "reward": reward,
            "cost": cost,
            "rater_weight": _rater_weight(rater_weight, cost),
            "prompt_ids": None if prompt_ids is None else tuple(prompt_ids),
            "log_weight": None if log_weight is None else _log_weight(log_weight, reward.shape),
        }
        # A frozen dataclass whose fields are converted first has no other way to set them.
        for name, value in frozen.items():
            object.__setattr__(self, name, value)

    @property
    def num_prompts(self) -> int:
        """Rows of the bank."""
        return self.reward.shape[0]

    @property
    def num_samples(self) -> int:
        """Samples per prompt, those left out included."""
        return self.reward.shape[1]

    @cached_property
    def log_prob(self) -> Float64[np.ndarray, "prompts samples"]:
        """Log of π_ref on the bank: ``log_weight`` normalised so that each row of exp sums to 1."""
        if self.log_weight is None:
            return np.full(self.reward.shape, -np.log(self.num_samples))
        # Shifted by the largest: importance weights of long responses span hundreds of nats.
        peak = self.log_weight.max(axis=1, keepdims=True)
        total = np.log(np.exp(self.log_weight - peak).sum(axis=1, keepdims=True))
        return self.log_weight - peak - total

    @cached_property
    def present(self) -> Bool[np.ndarray, "prompts samples"] | None:
        """[prompts, samples] bool: samples not left out by a log_weight of −∞; None when all are in."""
        if self.log_weight is None or bool(np.isfinite(self.log_weight).all()):
            return None
        return np.isfinite(self.log_weight)

    def average_raters(
        self, values: Float[np.ndarray, "prompts samples *raters"]
    ) -> Float[np.ndarray, "prompts samples"]:
        """Mean over the raters' axis by their weights; without raters, the values."""
        return values if self.rater_weight is None else values @ self.rater_weight

    def row_costs(self) -> Float[np.ndarray, "prompts draws"]:
        """Costs of a prompt in one row, raters beside each other."""
        return self.cost.reshape(self.num_prompts, -1)

    def row_weights(
        self, weights: Float[np.ndarray, "prompts samples"]
    ) -> Float[np.ndarray, "prompts draws"]:
        """The weights that belong to ``row_costs``: samples times raters, each row summing to 1.

        Weights near the smallest floating-point number become 0, so that dividing by them is safe.
        """
        weights = np.where(weights < _NEGLIGIBLE, 0.0, weights)
        if self.rater_weight is None:
            return weights
        return (weights[:, :, None] * self.rater_weight).reshape(self.num_prompts, -1)

    @cached_property
    def _views(self) -> dict[int, "SampleBank"]:
        return {}

    def seen_by(self, rater: int | None) -> "SampleBank":
        """The same samples by one rater's costs alone; by all of them where it is None.

        Raises:
            InputError: there is no such rater.
        """
        if rater is None:
            return self
        if type(rater) is not int or self.cost.ndim != 3 or not 0 <= rater < self.cost.shape[2]:
            raise InputError(f"rater {rater}: the bank's costs have shape {self.cost.shape}")
        if rater not in self._views:
            cost = self.cost[:, :, rater]
            view = SampleBank(self.reward, cost, None, self.prompt_ids, self.log_weight)
            self._views[rater] = view
        return self._views[rater]

    def take(self, prompts: ArrayLike) -> "SampleBank":
        """The bank of some of the prompts, by index or mask: halves for choosing and reporting."""
        index = np.arange(self.num_prompts)[np.asarray(prompts)]
        ids = None if self.prompt_ids is None else [self.prompt_ids[i] for i in index]
        log_weight = None if self.log_weight is None else self.log_weight[index]
        return SampleBank(self.reward[index], self.cost[index], self.rater_weight, ids, log_weight)


def _finite(name: str, values: Any) -> Float64[np.ndarray, "..."]:
    try:
        array = to_array(values).copy()
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not a rectangular array of numbers: {error}") from None
    # A NaN cost would count as harmless further on, where sums skip it: refused here, by place.
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(
            f"{name}{list(where)} is {array[where]}: score it again or drop the sample"
        )
    array.setflags(write=False)
    return array


def _rater_weight(given: Any, cost: np.ndarray) -> Float64[np.ndarray, "num_raters"] | None:
    if cost.ndim == 2:
        if given is not None:
            raise InputError("rater_weight needs a cost of shape [prompts, samples, raters]")
        return None
    raters = cost.shape[2]
    weight = np.ones(raters) if given is None else _finite("rater_weight", given)
    if weight.shape != (raters,):
        raise InputError(f"rater_weight must have shape ({raters},), got {weight.shape}")
    if (weight < 0).any() or weight.sum() <= 0:
        raise InputError(f"rater_weight must be ≥ 0 with a positive sum, got {weight.tolist()}")
    weight = weight / weight.sum()
    weight.setflags(write=False)
    return weight


def _log_weight(given: Any, shape: tuple[int, ...]) -> Float64[np.ndarray, "prompts samples"]:
    weight = to_array(given).copy()
    if weight.shape != shape:
        raise InputError(f"log_weight must have reward's shape {shape}, got {weight.shape}")
    if np.isnan(weight).any() or (weight == np.inf).any():
        raise InputError("log_weight must hold numbers or −∞, got NaN or +∞")
    empty = np.flatnonzero(~np.isfinite(weight).any(axis=1))
    if empty.size:
        raise InputError(f"log_weight leaves no sample in prompt {int(empty[0])}")
    weight.setflags(write=False)
    return weight
