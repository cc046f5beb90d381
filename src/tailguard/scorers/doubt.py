"""Will this verdict be wrong? The entropy of the ensemble's mean probability.

The spread of an ensemble is the wrong statistic for that: it grows with the score, so that it is largest
where a verdict is clearest. Whether an answer is *like* what was fitted on is another question, which
`tailguard.scorers.shift` answers.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy import special


def error_doubt(members: Float[np.ndarray, "n members"]) -> Float[np.ndarray, " n"]:
    """H(p̄)/ln 2, the entropy in bits of p̄ = mean over members of σ(score): 0 is sure, 1 a coin.

    Args:
        members: log-odds, one column per member: of an answer being unsafe, or margins between two
            answers for being told apart rightly.

    Returns:
        [n], in [0, 1]; NaN where a score is.
    """
    probability: np.ndarray = np.asarray(special.expit(members)).mean(axis=1)
    yes, no = (np.asarray(special.entr(p)) for p in (probability, 1.0 - probability))
    return (yes + no) / math.log(2.0)
