"""Pairs that contradict their labels or each other, and pairs that compare nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tailguard.data.identity import prompt_id
from tailguard.data.records import Preference
from tailguard.errors import InputError

Placed: TypeAlias = tuple[str, Preference]
"""A pair and where it stands, e.g. ``pairs.jsonl, line 3``."""

# People who compare two answers and people who call each safe or unsafe disagree on up to a quarter of
# the pairs. More than that, beyond what chance does in 1 of 100 files, and something is swapped.
_NOISE = 0.25
_CHANCE = 0.01


@dataclass(frozen=True)
class PairFaults:
    """What is odd in the pairs of one source: places of the pairs, in their order.

    Attributes:
        num_pairs: all of them.
        num_unlike: pairs of one safe and one unsafe answer, by their labels.
        contradictory: of these, the pairs whose less harmful answer is the unsafe one.
        opposite: pairs that an earlier one, of the same answers to the same prompt, turns round.
        identical: pairs of one answer with itself.
    """

    num_pairs: int
    num_unlike: int
    contradictory: tuple[str, ...]
    opposite: tuple[str, ...]
    identical: tuple[str, ...]

    @property
    def beyond_noise(self) -> bool:
        """Whether more labels contradict the order of their pair than noise explains."""
        count = len(self.contradictory)
        # Chernoff: at a share of `noise`, `count` or more of n come with chance at most exp(−n·KL).
        share = count / max(self.num_unlike, 1)
        return share > _NOISE and self.num_unlike * _divergence(share, _NOISE) > -math.log(_CHANCE)

    def describe(self, source: str) -> str:
        """One line on everything that is odd; empty if nothing is."""
        said = [
            (
                self.contradictory,
                f"of {self.num_unlike} pairs with one safe and one unsafe answer, {{}} have the unsafe"
                " one as 'chosen', the less harmful",
            ),
            (self.opposite, "{} pairs turn an earlier one round"),
            (self.identical, "{} pairs have the same answer twice and teach nothing"),
        ]
        parts = [
            f"{text.format(len(places))} (first: {places[0].removeprefix(f'{source}, ')})"
            for places, text in said
            if places
        ]
        return f"{source}: {'; '.join(parts)}" if parts else ""

    def require_order(self, source: str) -> None:
        """Refuse pairs whose labels say that they are reversed.

        Raises:
            InputError: as `beyond_noise`, with the first place.
        """
        if self.beyond_noise:
            raise InputError(
                f"{self.describe(source)}; this is more than noise explains:"
                " are the two answers, or their labels, swapped?"
            )


def find_pair_faults(pairs: Sequence[Placed], kind: str) -> PairFaults:
    """Look through pairs.

    Args:
        pairs: each with its place.
        kind: ``reward`` or ``cost``; only for cost have labels of safety an order: the more helpful
            answer may well be the unsafe one.
    """
    unlike = [
        (where, pair)
        for where, pair in pairs
        if kind == "cost" and {pair.chosen_safe, pair.rejected_safe} == {True, False}
    ]
    order: dict[tuple[str, frozenset[str]], str] = {}
    opposite: list[str] = []
    for where, pair in pairs:
        if pair.chosen != pair.rejected:
            key = (prompt_id(pair.prompt), frozenset((pair.chosen, pair.rejected)))
            if order.setdefault(key, pair.chosen) != pair.chosen:
                opposite.append(where)
    return PairFaults(
        num_pairs=len(pairs),
        num_unlike=len(unlike),
        contradictory=tuple(where for where, pair in unlike if not pair.chosen_safe),
        opposite=tuple(opposite),
        identical=tuple(where for where, pair in pairs if pair.chosen == pair.rejected),
    )


def _divergence(share: float, other: float) -> float:
    """KL divergence of two coins, in nats."""
    terms = ((share, other), (1.0 - share, 1.0 - other))
    return sum(p * math.log(p / q) for p, q in terms if p > 0.0)
