"""The judge's bound from few labels: drawn uniformly, or where they matter; part of `certificates.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from certificate_pools import Served

from tailguard.risk import (
    CVaR,
    label_probabilities,
    labelled_risk_bound,
    predictable_risk_bound,
)

NUM_ANSWERS, NUM_LABELS = 2000, 500
RANGES = (10.0, 1.0)
SMALLEST = (0.2, 0.1)
Way = Callable[[np.ndarray, np.random.Generator], float]


def labels(
    name: str, here: Served, past: Served, repetitions: int, confidence: float
) -> list[dict[str, object]]:
    """Coverage and looseness of each way to spend labels, at two ranges of the judge.

    With a range of 1 the judge's verdicts are clipped there, so that variance decides; at 10 the floor
    does.
    """
    rows: list[dict[str, object]] = []
    for largest in RANGES:
        cost = np.minimum(here.judge, largest)
        true, mean = CVaR(0.1).value(cost), float(cost.mean())
        for way, bound in ways(here, past, cost, largest, confidence).items():
            rng = np.random.default_rng(41)
            found = np.array(
                [
                    bound(rng.integers(0, cost.size, NUM_ANSWERS), rng)
                    for _ in range(repetitions)
                ]
            )  # fmt: skip
            rows.append(
                {
                    "entry": name,
                    "range": largest,
                    "way": way,
                    "true": true,
                    "bound": float(found.mean()),
                    "coverage": float((found >= true - 1e-9).mean()),
                    "looseness": float((found.mean() - true) / (true - mean)),
                }
            )
    print(f"labels, {name}: done", flush=True)
    return rows


def ways(
    here: Served, past: Served, cost: np.ndarray, largest: float, confidence: float
) -> dict[str, Way]:
    """Each way to spend labels on a sample of answers."""
    tail = CVaR(0.1)
    reference = doubts(past, past.scorer, largest)
    ours = doubts(past, here.scorer, largest)

    def uniform(num: int) -> Way:
        return lambda rows, _: predictable_risk_bound(
            cost[rows[:num]], tail, upper=largest, confidence=confidence
        )

    def drawn(smallest: float | None) -> Way:
        def bound(rows: np.ndarray, rng: np.random.Generator) -> float:
            if smallest is None:
                prob = np.full(rows.size, NUM_LABELS / rows.size)
            else:
                prob = label_probabilities(ours[rows], NUM_LABELS, smallest, reference)
            given = np.where(rng.random(rows.size) < prob, cost[rows], np.nan)
            return labelled_risk_bound(
                given,
                prob,
                here.scorer[rows],
                tail,
                upper=largest,
                smallest=float(NUM_LABELS / rows.size) if smallest is None else smallest,
                confidence=confidence,
            )

        return bound

    return {
        "2,000, all answers": uniform(2000),
        "500, uniform": uniform(500),
        "500 of 2,000, uniform, the scorer as control variate": drawn(None),
        **{
            f"500 of 2,000, by doubt, each at least {s:.0%}, control variate": drawn(s)
            for s in SMALLEST
        },
    }


def doubts(past: Served, scorer: np.ndarray, largest: float) -> np.ndarray:
    """Root mean square of (C − ν)₊ by the judge in calibration, at like scores of the scorer."""
    cost = np.minimum(past.judge, largest)
    excess = np.maximum(cost - float(CVaR(0.1).minimiser(cost)), 0.0)
    edges = np.unique(np.quantile(past.scorer, np.linspace(0.05, 0.95, 19)))
    bins = np.searchsorted(edges, past.scorer)
    count = np.maximum(np.bincount(bins, minlength=edges.size + 1), 1)
    mean = np.bincount(bins, excess**2, minlength=edges.size + 1) / count
    return np.sqrt(mean)[np.searchsorted(edges, scorer)]
