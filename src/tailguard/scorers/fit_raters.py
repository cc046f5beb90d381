"""Fitting what each rater minds, with partial pooling.

A rater's parameters are pulled to 0, the population, by a normal prior of one width τ for all raters,
which held-out pairs choose (Gelman & Hill 2007, ch. 12). A rater with few pairs borrows; one with fewer
than `FEWEST_PER_RATER` has none: its cost is the population's. Over the others the parameters have mean 0, weighted by their
pairs: what they have in common (a cost whose units are off) is no difference between people.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tailguard.errors import InputError, ScoreError
from tailguard.scorers.ensemble import bootstrap_weights, minimise
from tailguard.scorers.rater_heads import RatedPairs, RaterHeads, pair_log_likelihood

RESERVED_NAMES = frozenset({"all", "worst"})
FEWEST_PER_RATER = 20
"""Pairs of a rater that has parameters of its own; the cost to others is the population's."""
WIDTHS = (0.003, 0.01, 0.03, 0.1)
"""τ that are tried beside 0, for each standardised feature."""
_FOLDS = 3  # of the prompts: each is held out once
_MOST_FOR_WIDTH = 1500  # pairs of each rater by which the width is chosen: one number needs no more
_MARGIN = 2.0  # standard errors
_FREE_WIDTHS = (
    10.0  # τ of offset and plain factor, in those of a feature: one number each, not hundreds
)
_CENTRE_QUANTILE = 0.3
_NUM_ITERATIONS = 100


def fit_rater_heads(
    pairs: RatedPairs, *, seed: int = 0, sign_weight: float = 0.5, widths: Sequence[float] = WIDTHS
) -> RaterHeads:
    """Fit all raters, with a width that held-out pairs choose.

    For each member, on its own bootstrap of the prompts: −log σ of the differences between the
    rater's costs, plus the sign loss, plus the prior.

    Args:
        pairs: that the common cost was fitted on, or others; those of nobody, and of raters
            with fewer than `FEWEST_PER_RATER`, are left out.
        seed: of the split, the bootstrap and the draws of the prior.
        sign_weight: weight of the sign loss relative to Bradley–Terry.
        widths: that are tried beside 0.

    Raises:
        InputError: no rater has `FEWEST_PER_RATER` pairs.
        ScoreError: costs or embeddings that are not finite.
    """
    counts = Counter(name for name in pairs.raters if name)
    named = sorted(name for name, count in counts.items() if count >= FEWEST_PER_RATER)
    if not named:
        most = "".join(f"; '{n}' has most: {count}" for n, count in counts.most_common(1))
        raise InputError(
            f"raters: none has {FEWEST_PER_RATER} pairs{most}; give more, or name raters by another field"
        )
    if reserved := RESERVED_NAMES & {*named}:
        raise InputError(
            f"raters: '{min(reserved)}' is what a request for each or for all says; rename that group"
        )
    arrays = (pairs.higher, pairs.lower, pairs.higher_topic, pairs.lower_topic)
    if not all(np.isfinite(array).all() for array in arrays):
        raise ScoreError("pairs: costs or embeddings hold NaN or infinity; check the scorer")
    topics = np.concatenate([pairs.higher_topic, pairs.lower_topic])
    common = np.concatenate([pairs.higher, pairs.lower]).mean(axis=1)
    frame = _Frame(
        float(np.quantile(common, _CENTRE_QUANTILE)),
        topics.mean(axis=0),
        np.maximum(topics.std(axis=0), 1e-6),
    )
    width = _choose_width(pairs, named, frame, widths, sign_weight, seed)
    return _fit_all(pairs, named, frame, width, sign_weight, seed)


@dataclass(frozen=True, eq=False)
class _Frame:
    """What raters' parameters are multiplied with."""

    centre: float
    mean: np.ndarray
    scale: np.ndarray

    def design(self, common: np.ndarray, topic: np.ndarray) -> tuple[Tensor, Tensor]:
        """(c − c₀)₊ [members, n], and 1 beside z [n, 1 + hidden]."""
        beyond = torch.as_tensor(np.maximum(common - self.centre, 0.0).T.copy())
        standard = torch.as_tensor((topic - self.mean) / self.scale)
        return beyond, torch.cat([torch.ones(len(standard), 1, dtype=torch.float64), standard], 1)


def _choose_width(
    pairs: RatedPairs,
    named: Sequence[str],
    frame: _Frame,
    widths: Sequence[float],
    sign_weight: float,
    seed: int,
) -> float:
    """τ of the largest gain in held-out likelihood over the population, less two standard errors.

    Without the errors a few pairs choose a wide prior by luck; with them, few pairs choose the population.
    """
    random = np.random.default_rng(seed)
    each = [np.flatnonzero([name == rater for rater in pairs.raters]) for name in named]
    few = pairs.take(np.concatenate([random.permutation(r)[:_MOST_FOR_WIDTH] for r in each]))
    _, index = np.unique(few.prompt_index, return_inverse=True)
    fold = (random.permutation(int(index.max()) + 1) % _FOLDS)[index]
    parts = [few.take(np.flatnonzero(fold != k)) for k in range(_FOLDS)]
    held = [few.take(np.flatnonzero(fold == k)) for k in range(_FOLDS)]

    def likelihood(width: float) -> np.ndarray:
        found = [_fit_all(part, named, frame, width, sign_weight, seed) for part in parts]
        return np.concatenate(
            [
                pair_log_likelihood(heads, out.of(name))
                for heads, out in zip(found, held, strict=True)
                for name in named
            ]
        )

    population = likelihood(0.0)
    best, gained = 0.0, 0.0
    for width in widths:
        gain = likelihood(width) - population
        sure = float(gain.mean() - _MARGIN * gain.std() / math.sqrt(len(gain)))
        if sure > gained:
            best, gained = width, sure
    return best


def _fit_all(
    pairs: RatedPairs,
    named: Sequence[str],
    frame: _Frame,
    width: float,
    sign_weight: float,
    seed: int,
) -> RaterHeads:
    members, hidden = pairs.higher.shape[1], len(frame.mean)
    found = np.zeros((members, len(named), 2 + hidden))
    counts = np.zeros(len(named))
    for place, name in enumerate(named):
        own = pairs.of(name)
        counts[place] = len(own.higher)
        if width > 0.0 and len(own.higher) >= FEWEST_PER_RATER:
            # A stream for each rater, so that another group changes nothing for this one.
            generator = torch.Generator().manual_seed(_stream(seed, name))
            found[:, place] = _fit_one(own, frame, width, sign_weight, generator)
    # Of a fold, some may have too few; they stay the population.
    enough = np.where(counts >= FEWEST_PER_RATER, counts, 0.0)
    if enough.any():
        shared = np.einsum("mrp,r->mp", found, enough / enough.sum())
        found[:, enough > 0] -= shared[:, None]
    return RaterHeads(
        tuple(named),
        counts,
        width,
        frame.centre,
        frame.mean,
        frame.scale,
        found[:, :, 0],
        found[:, :, 1],
        found[:, :, 2:],
    )


def _stream(seed: int, name: str) -> int:
    entropy = [seed, *name.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _fit_one(
    pairs: RatedPairs, frame: _Frame, width: float, sign_weight: float, generator: torch.Generator
) -> np.ndarray:
    """Offset, factor and topic of one rater [members, 2 + hidden]."""
    members = pairs.higher.shape[1]
    _, index = np.unique(pairs.prompt_index, return_inverse=True)
    counts = bootstrap_weights(index, members, generator)
    sides = [
        (
            torch.as_tensor(cost.T.copy()),
            *frame.design(cost, topic),
            torch.as_tensor(np.asarray(sign, dtype=np.float64)),
        )
        for cost, topic, sign in (
            (pairs.higher, pairs.higher_topic, pairs.higher_sign),
            (pairs.lower, pairs.lower_topic, pairs.lower_sign),
        )
    ]
    widths = torch.full((2 + len(frame.mean),), width, dtype=torch.float64)
    widths[:2] *= _FREE_WIDTHS
    # Anchored at a draw of the prior: where nothing was seen, members disagree as much as groups may.
    # Centred, so that their mean is the population there, and not what eight draws happen to be.
    noise = torch.randn(members, len(widths), generator=generator, dtype=torch.float64)
    anchors = (noise - noise.mean(dim=0)) * widths * math.sqrt(members / max(members - 1, 1))

    def objective(found: Tensor) -> Tensor:
        costs = [
            common + found[:, :1] + beyond * (found[:, 1:] @ design.T)
            for common, beyond, design, _ in sides
        ]
        loss = (counts * functional.softplus(costs[1] - costs[0])).sum()
        for cost, (_, _, _, sign) in zip(costs, sides, strict=True):
            # Half, because a pair brings two signs and one comparison.
            weight = 0.5 * sign_weight * counts * sign.abs()
            loss = loss + (weight * functional.softplus(-sign * cost)).sum()
        return loss + (((found - anchors) / widths) ** 2).sum() / 2.0

    return minimise(anchors.clone(), objective, _NUM_ITERATIONS).numpy()
