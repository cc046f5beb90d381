"""Cost by rater: groups of people see the same harm and mind its kinds more or less.

Groups seldom disagree about which of two answers is worse; they differ in *how much* worse, and in
which kinds of harm. A head of their own on the scorer's last state therefore learns next to nothing,
for that state knows how much harm there is and has forgotten of which kind. What is fitted instead is
a factor on the common cost that depends on what the text is about:

    c_g(y) = c(y) + o_g + (c(y) − c₀)₊ · (b_g + v_g·z(y)),

where z is the mean of the text's embeddings, standardised, c₀ a low quantile of the common cost,
and (o_g, b_g, v_g) the group's own. All of these are pulled to 0, the population (`fit_raters`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError, ScoreError


@dataclass(frozen=True, eq=False)
class RatedPairs:
    """Pairs by their common cost and what they are about; [n] each unless said otherwise.

    Attributes:
        higher: cost of the answers that were found worse, by member [n, members].
        lower: of the others [n, members].
        higher_topic: means of their embeddings [n, hidden].
        lower_topic: the same of the others [n, hidden].
        higher_sign: +1 unsafe, −1 safe, 0 unknown.
        lower_sign: the same for the others.
        raters: who compared them; None where unknown.
        prompt_index: equal numbers for equal prompts.

    Raises:
        InputError: arrays of different lengths.
    """

    higher: Float[np.ndarray, "n members"]
    lower: Float[np.ndarray, "n members"]
    higher_topic: Float[np.ndarray, "n hidden"]
    lower_topic: Float[np.ndarray, "n hidden"]
    higher_sign: np.ndarray
    lower_sign: np.ndarray
    raters: Sequence[str | None]
    prompt_index: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what does not belong together."""
        for name, column in vars(self).items():
            if len(column) != len(self.higher):
                raise InputError(f"{name}: {len(column)} entries for {len(self.higher)} pairs")

    def take(self, rows: np.ndarray) -> RatedPairs:
        """Some pairs, by index."""
        kept: dict[str, Any] = {k: v[rows] for k, v in vars(self).items() if k != "raters"}
        names = [self.raters[int(i)] for i in rows]
        return RatedPairs(**kept, raters=names)

    def of(self, rater: str) -> RatedPairs:
        """One rater's pairs."""
        return self.take(np.flatnonzero([name == rater for name in self.raters]))


@dataclass(frozen=True, eq=False)
class RaterHeads:
    """The factors of all raters.

    Attributes:
        raters: names, in order.
        num_pairs: that each was fitted on [raters].
        width: τ.
        centre: c₀.
        topic_mean: of the embeddings' mean [hidden].
        topic_scale: its standard deviation [hidden].
        offset: o [members, raters].
        factor: b [members, raters].
        topic: v [members, raters, hidden].

    Raises:
        InputError: shapes that do not belong together.
        ScoreError: a number that is not finite.
    """

    raters: tuple[str, ...]
    num_pairs: Float[np.ndarray, " raters"]
    width: float
    centre: float
    topic_mean: Float[np.ndarray, " hidden"]
    topic_scale: Float[np.ndarray, " hidden"]
    offset: Float[np.ndarray, "members raters"]
    factor: Float[np.ndarray, "members raters"]
    topic: Float[np.ndarray, "members raters hidden"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        members, raters, hidden = self.topic.shape
        shapes = {
            "num_pairs": (len(self.raters),),
            "topic_mean": (hidden,),
            "topic_scale": (hidden,),
            "offset": (members, raters),
            "factor": (members, raters),
        }
        if len(self.raters) != raters:
            raise InputError(f"raters: {len(self.raters)} names for {raters} of topic")
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"{name}: shape {getattr(self, name).shape}; must be {shape}")
        for name, array in self.to_arrays().items():
            if not np.isfinite(array).all():
                raise ScoreError(f"{name}: holds NaN or infinity; fit the raters again")

    def costs(
        self, common: Float[np.ndarray, "n members"], topic: Float[np.ndarray, "n hidden"]
    ) -> Float[np.ndarray, "n members raters"]:
        """Cost to each rater.

        Args:
            common: cost to the population, by member.
            topic: means of the texts' embeddings.
        """
        standard = (topic - self.topic_mean) / self.topic_scale
        factor = self.factor + np.einsum("nh,mrh->nmr", standard, self.topic)
        # Nobody likes what harms: a factor below −1 would turn the order of answers round.
        factor = np.maximum(factor, -1.0)
        beyond = np.maximum(common - self.centre, 0.0)
        return common[:, :, None] + self.offset + beyond[:, :, None] * factor

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All numbers by name; names of raters go elsewhere."""
        names = ("num_pairs", "topic_mean", "topic_scale", "offset", "factor", "topic")
        single = {"width": np.array([self.width]), "centre": np.array([self.centre])}
        return single | {name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, raters: Sequence[str], arrays: Mapping[str, np.ndarray]) -> RaterHeads:
        """What `to_arrays` gave.

        Raises:
            InputError: other arrays.
        """
        try:
            exact = {name: array.astype(np.float64) for name, array in arrays.items()}
            single = {name: float(exact.pop(name)[0]) for name in ("width", "centre")}
            parts: dict[str, Any] = exact | single
            return cls(tuple(raters), **parts)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the heads of raters: {error}") from None


def pair_log_likelihood(heads: RaterHeads, pairs: RatedPairs) -> Float[np.ndarray, " n"]:
    """Log σ(c_g(higher) − c_g(lower)) of one rater's pairs, by the members' mean cost, in nats.

    Raises:
        InputError: pairs of several raters, or of one that has no head.
    """
    names = set(pairs.raters)
    if not names:
        return np.zeros(0)
    if len(names) > 1 or not names <= set(heads.raters):
        raise InputError(f"raters: {sorted(map(str, names))}; give the pairs of one that is fitted")
    place = heads.raters.index(str(names.pop()))
    higher = heads.costs(pairs.higher, pairs.higher_topic)[:, :, place].mean(axis=1)
    lower = heads.costs(pairs.lower, pairs.lower_topic)[:, :, place].mean(axis=1)
    return -np.logaddexp(0.0, lower - higher)
