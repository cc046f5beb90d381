"""Smooth regression in closed form: piecewise-linear splines of few features, and their products."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError

Rows = Float[np.ndarray, "rows features"]
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True, eq=False)
class SplineRidge:
    """Ridge regression on splines.

    With b_j(x) = (x_j, (x_j − k_1)₊, …, (x_j − k_K)₊) of the standardised feature j, the basis is
    1, every entry of every b_j, and every product of an entry of b_i with one of b_j, i < j; so it
    holds additive effects and those of two features together (tensor-product splines; Hastie,
    Tibshirani & Friedman 2009, §5). Beyond the rows that it was fitted on it is constant.

    Attributes:
        centre: of the features.
        scale: of the features.
        knots: K per feature, standardised.
        lowest: of the standardised features.
        highest: of the standardised features.
        weights: of the basis.
    """

    centre: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    knots: Float[np.ndarray, "features knots"]
    lowest: Float[np.ndarray, " features"]
    highest: Float[np.ndarray, " features"]
    weights: Float[np.ndarray, "basis outputs"]

    @classmethod
    def fit(
        cls,
        features: Rows,
        targets: Float[np.ndarray, "rows outputs"],
        *,
        num_knots: int = 4,
        ridge: float = 1e-4,
    ) -> SplineRidge:
        """Fit min_W mean‖y − W·basis(x)‖² + ridge·‖W‖².

        Args:
            features: finite.
            targets: finite.
            num_knots: K ≥ 1, at quantiles.
            ridge: > 0.

        Raises:
            InputError: no rows, other shapes, or numbers that are not finite.
        """
        if len(features) != len(targets):
            raise InputError(f"features {features.shape} and targets {targets.shape}: unlike rows")
        if len(features) == 0 or not (np.isfinite(features).all() and np.isfinite(targets).all()):
            raise InputError("features and targets: no rows, or a number that is not finite")
        centre, scale = features.mean(axis=0), features.std(axis=0)
        scale = np.where(scale > _LEAST_SPREAD, scale, 1.0)
        standard = (features - centre) / scale
        shares = np.linspace(0.0, 1.0, num_knots + 2)[1:-1]
        empty = cls(
            centre,
            scale,
            np.quantile(standard, shares, axis=0).T,
            standard.min(axis=0),
            standard.max(axis=0),
            np.zeros((0, targets.shape[1])),
        )
        basis = empty.basis(features)
        gram = basis.T @ basis / len(basis) + ridge * np.eye(basis.shape[1])
        weights = np.linalg.solve(gram, basis.T @ targets / len(basis))
        return cls(centre, scale, empty.knots, empty.lowest, empty.highest, weights)

    def basis(self, features: Rows) -> Float[np.ndarray, "rows basis"]:
        """The basis at each row."""
        inside = np.clip((features - self.centre) / self.scale, self.lowest, self.highest)
        above = np.maximum(inside[:, :, None] - self.knots, 0.0)
        splines = np.concatenate([inside[:, :, None], above], axis=2)  # [rows, features, K + 1]
        products = [
            (splines[:, i, :, None] * splines[:, j, None, :]).reshape(len(inside), -1)
            for i, j in combinations(range(splines.shape[1]), 2)
        ]
        ones = np.ones((len(inside), 1))
        return np.concatenate([ones, splines.reshape(len(inside), -1), *products], axis=1)

    def predict(self, features: Rows) -> Float[np.ndarray, "rows outputs"]:
        """The fitted values."""
        return self.basis(features) @ self.weights

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As arrays; ``SplineRidge(**arrays)`` reads them back."""
        names = ("centre", "scale", "knots", "lowest", "highest", "weights")
        return {name: np.ascontiguousarray(getattr(self, name)) for name in names}
