"""Is an answer like those that the scorer was fitted on? Distance in the scorer's own features.

An ensemble is sure of itself where all its members see the same thing, also where that is nothing like
what they were fitted on. How far an answer's features lie from those of the fitted answers says so: the
Mahalanobis distance (Lee et al. 2018, 1807.03888), with a covariance that is shrunk as Ledoit and Wolf
(2004) have it, for features are many and some hardly vary.

The features are means over tokens, of the embeddings and of the last layer's states: a scorer's state at
the last token keeps what the verdict needs and forgets what the text is about (AUROC .64 for requests of
unseen domains in the sandbox, where the embeddings' mean has .88). A mean over few tokens strays further, so that
lengths would pass for shift: the distance is held against what is usual at its length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from tailguard.errors import InputError, ScoreError

_LEAST_DEVIATION = 1e-6  # of a feature that never varied
FEWEST_FOR_SHIFT = 40
"""Answers that a law can be fitted on: half for it, half for what is usual at a length."""


@dataclass(frozen=True, eq=False)
class ShiftModel:
    """The laws of fitted answers' features, to second order, and how distances depend on length.

    Attributes:
        centre: means [laws, hidden].
        whitening: W of each law, W Wᵀ the inverse of its shrunk covariance [laws, hidden, hidden].
        length_fit: the usual log distance as a polynomial of the log number of tokens, constant first
            [laws, 3].
        deviation: of log distances around it [laws].
        length_range: numbers of tokens that it was fitted on, but for the outermost hundredths [2]; beyond
            them a polynomial would excuse or accuse whatever comes, so that the nearest length counts.

    Raises:
        InputError: shapes that do not match.
    """

    centre: Float[np.ndarray, "laws hidden"]
    whitening: Float[np.ndarray, "laws hidden hidden"]
    length_fit: Float[np.ndarray, "laws 3"]
    deviation: Float[np.ndarray, " laws"]
    length_range: Float[np.ndarray, 2]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        laws, hidden = self.centre.shape
        shapes = {
            "whitening": (laws, hidden, hidden),
            "length_fit": (laws, 3),
            "deviation": (laws,),
            "length_range": (2,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"{name}: shape {getattr(self, name).shape}; must be {shape}")

    @classmethod
    def fit(
        cls, features: Float[np.ndarray, "n laws hidden"], num_tokens: Float[np.ndarray, " n"]
    ) -> ShiftModel:
        """From the features of fitted answers in random order.

        Args:
            features: of each answer, one row per law.
            num_tokens: that they are means of.

        Raises:
            InputError: fewer than `FEWEST_FOR_SHIFT` answers.
            ScoreError: features that are not finite.
        """
        if features.ndim != 3 or len(features) < FEWEST_FOR_SHIFT:
            raise InputError(
                f"features: shape {features.shape}; give at least {FEWEST_FOR_SHIFT} answers"
            )
        if not np.isfinite(features).all():
            raise ScoreError("features: hold NaN or infinity; check the scorer's weights")
        # What is usual comes from the other half: a law is nearer to rows that it was fitted on.
        half = len(features) // 2
        laws = [_Law.fit(features[:half, k]) for k in range(features.shape[1])]
        length_range = np.quantile(num_tokens[half:], [0.01, 0.99]).astype(np.float64)
        powers = _powers(num_tokens[half:], length_range)
        fits: list[np.ndarray] = []
        deviations: list[float] = []
        for k, law in enumerate(laws):
            usual = law.log_distance(features[half:, k])
            found = np.linalg.lstsq(powers, usual, rcond=None)[0]
            fits.append(found)
            deviations.append(max(float((usual - powers @ found).std()), _LEAST_DEVIATION))
        return cls(
            np.stack([law.centre for law in laws]),
            np.stack([law.whitening for law in laws]),
            np.stack(fits),
            np.array(deviations),
            length_range,
        )

    def distance(
        self, features: Float[np.ndarray, "n laws hidden"], num_tokens: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """How unlike the fitted answers each is [n], by the law that finds it strangest.

        Zero is usual at its length, one a standard deviation (of log distances) beyond; +inf where the
        features are no finite numbers.
        """
        powers = _powers(num_tokens, self.length_range)
        finite = np.asarray(np.isfinite(features).all(axis=(1, 2)))
        # Told here and not by NaNs, on which some processors' products warn and others do not.
        features = np.where(finite[:, None, None], features, 0.0)
        beyond = [
            (_Law(centre, whitening).log_distance(features[:, k]) - powers @ fit) / deviation
            for k, (centre, whitening, fit, deviation) in enumerate(
                zip(self.centre, self.whitening, self.length_fit, self.deviation, strict=True)
            )
        ]
        found = np.asarray(np.max(beyond, axis=0))
        # Overflow at one token is as strange as it gets, and must not compare as harmless.
        return np.where(finite & np.isfinite(found), found, np.inf)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, in float32."""
        return {name: array.astype(np.float32) for name, array in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ShiftModel:
        """What `to_arrays` gave.

        Raises:
            InputError: other arrays.
        """
        try:
            return cls(**{name: array.astype(np.float64) for name, array in arrays.items()})
        except (TypeError, ValueError) as error:
            raise InputError(f"not the law of a scorer's features: {error}") from None


@dataclass(frozen=True, eq=False)
class _Law:
    centre: np.ndarray
    whitening: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> _Law:
        centre = features.mean(axis=0)
        # The shrinking pulls towards equal variances, so features are brought to one first.
        scale = np.maximum(features.std(axis=0), _LEAST_DEVIATION)
        values, vectors = np.linalg.eigh(shrunk_covariance((features - centre) / scale))
        deviations = np.sqrt(np.maximum(values, _LEAST_DEVIATION**2))
        return cls(centre, vectors / deviations / scale[:, None])

    def log_distance(self, features: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm((features - self.centre) @ self.whitening, axis=1)
        return np.log(np.maximum(distance, _LEAST_DEVIATION))


def _powers(num_tokens: np.ndarray, length_range: np.ndarray) -> np.ndarray:
    length = np.log(np.maximum(np.clip(num_tokens, *length_range), 1.0))
    return np.stack([np.ones_like(length), length, length**2], axis=1)


def shrunk_covariance(
    centred: Float[np.ndarray, "n hidden"],
) -> Float[np.ndarray, "hidden hidden"]:
    """Σ̂ = (1 − s)·S + s·(tr S/p)·I with the weight s that Ledoit and Wolf (2004) estimate.

    Args:
        centred: rows of zero mean.
    """
    num, width = centred.shape
    covariance = centred.T @ centred / num
    level = float(np.trace(covariance)) / width
    target = level * np.eye(width)
    distance = float(((covariance - target) ** 2).sum())
    # Σ_k ‖x_k x_kᵀ − S‖² = Σ_k ‖x_k‖⁴ − n‖S‖², without a matrix for each row.
    fourth = float(((centred**2).sum(axis=1) ** 2).sum())
    noise = (fourth - num * float((covariance**2).sum())) / num**2
    weight = min(max(noise / distance, 0.0), 1.0) if distance > 0.0 else 1.0
    return (1.0 - weight) * covariance + weight * target


def shift_limit(shift: Float[np.ndarray, "prompts draws"], rate: float) -> float:
    """The distance beyond which an answer counts as unlike, by conformal risk control.

    The smallest t with (Σᵢ share of prompt i's draws beyond t + 1)/(n + 1) ≤ rate. A new prompt like the n
    that are given then has at most that share of its draws beyond t, in expectation over both
    (Angelopoulos et al. 2024, 2208.02814).

    Args:
        shift: of draws of prompts that took no part in any fit; NaN where unknown, which counts as
            beyond any limit unless nothing is known at all.
        rate: share of draws in (0, 1) that may be flagged.

    Returns:
        The limit; +inf where nothing is known, there are fewer than 1/rate − 1 prompts, or more than
            the rate are infinitely far.

    Raises:
        InputError: a rate outside (0, 1).
    """
    if not 0.0 < rate < 1.0:
        raise InputError(f"rate: {rate}; must lie strictly between 0 and 1")
    num_prompts, num_draws = shift.shape
    allowed = math.floor(num_draws * ((num_prompts + 1) * rate - 1.0) + 1e-9)
    if allowed < 0 or np.isnan(shift).all():
        return math.inf
    known = np.sort(np.where(np.isnan(shift), np.inf, shift).ravel())[::-1]
    return float(known[min(allowed, known.size - 1)])


def is_unlike(shift: Float[np.ndarray, "*n"], limit: float) -> Bool[np.ndarray, "*n"]:
    """Which answers are beyond the limit; what is unknown is, wherever there is a limit."""
    if math.isinf(limit):
        return np.zeros(np.shape(shift), dtype=bool)
    return np.asarray(~(shift <= limit))
