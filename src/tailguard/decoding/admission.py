"""Whose bound an answer must keep to be served: the population's, one rater's, or each rater's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tailguard.portfolio.rater_tails import WORST

POPULATION = ""
"""The admission by the cost to the population."""


def admission_bound(
    admission: str,
    bound: Float[np.ndarray, "*n"],
    rater_bounds: Float[np.ndarray, "*n raters"] | None,
    raters: Sequence[str],
) -> Float[np.ndarray, "*n"]:
    """The upper bound on cost that is held against the acceptance level.

    Args:
        admission: `POPULATION`, `WORST` (the largest of the population's and every rater's), or a rater.
        bound: u(y) to the population; +inf where an answer has no score.
        rater_bounds: u(y) to each rater; None where the scorer did not tell, and then nothing is
            admitted by them.
        raters: their names.
    """
    if admission == POPULATION:
        return bound
    if rater_bounds is None or (admission != WORST and admission not in raters):
        return np.full(np.shape(bound), np.inf)
    if admission == WORST:
        return np.asarray(np.maximum(bound, rater_bounds.max(axis=-1)))
    # An answer that the population's bound rules out for having no score has none here either.
    return np.where(np.isfinite(bound), rater_bounds[..., list(raters).index(admission)], np.inf)
