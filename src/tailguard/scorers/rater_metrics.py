"""How much raters differ from the population, on pairs that took no part in the fit."""

from __future__ import annotations

import math

import numpy as np

from tailguard.scorers.rater_heads import RatedPairs, RaterHeads, pair_log_likelihood


def rater_metrics(heads: RaterHeads, held_out: RatedPairs) -> dict[str, dict[str, float]]:
    """For each rater, its own cost beside the population's on its held-out pairs.

    Comparisons are of likelihood before accuracy: raters who order two answers alike and mind the worse one
    more or less differ in the first alone.

    Returns:
        By rater: ``num_pairs`` fitted on, ``num_held_out``, ``accuracy`` and ``population_accuracy``
        (ties half), ``gain`` of mean log-likelihood in nats per pair with its standard error
        ``gain_error``, and ``factor``, how much more harm counts for it, on average over the held-out
        answers beyond c₀; NaN where there is nothing to tell it from.
    """
    return {name: _of(heads, held_out.of(name), place) for place, name in enumerate(heads.raters)}


def _of(heads: RaterHeads, pairs: RatedPairs, place: int) -> dict[str, float]:
    figures = {
        "num_pairs": float(heads.num_pairs[place]),
        "num_held_out": float(len(pairs.higher)),
    }
    names = ("accuracy", "population_accuracy", "gain", "gain_error", "factor")
    if len(pairs.higher) < 2:
        return figures | dict.fromkeys(names, math.nan)
    common = np.concatenate([pairs.higher, pairs.lower])
    topic = np.concatenate([pairs.higher_topic, pairs.lower_topic])
    own = heads.costs(common, topic)[:, :, place].mean(axis=1)
    num = len(pairs.higher)
    population = (pairs.higher - pairs.lower).mean(axis=1)
    gain = pair_log_likelihood(heads, pairs) + np.logaddexp(0.0, -population)
    beyond = np.maximum(common - heads.centre, 0.0).mean(axis=1)
    excess = own - common.mean(axis=1) - heads.offset[:, place].mean()
    values = (
        _accuracy(own[:num] - own[num:]),
        _accuracy(population),
        float(gain.mean()),
        float(gain.std(ddof=1) / math.sqrt(num)),
        1.0 + float(excess.sum() / beyond.sum()) if beyond.sum() > 0.0 else math.nan,
    )
    return figures | dict(zip(names, values, strict=True))


def _accuracy(margins: np.ndarray) -> float:
    return float(np.where(margins == 0.0, 0.5, margins > 0.0).mean())
