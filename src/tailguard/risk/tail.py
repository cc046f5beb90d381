"""The weighted tail of a discrete law, many rows at once: the arithmetic under CVaR."""

import numpy as np
from jaxtyping import Float, Int

from tailguard.risk.checks import Number

# Cumulated weights miss their true value by rounding; an atom's edge is recognised within this.
_ROUNDING = 1e-12


def cvar_rows(
    costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"], tail_mass: Number
) -> Float[np.ndarray, "*rows"]:
    """CVaR_α of each row: the mean of its worst α mass, splitting the atom at the edge.

    Args:
        costs: finite costs.
        weights: not negative, each row summing to 1. Unchecked.
        tail_mass: α in (0, 1].
    """
    ordered, mass, before = _descending(costs, weights)
    return _tail_mean(ordered, mass, before, tail_mass)


def cvar_curve(
    costs: Float[np.ndarray, "*rows n"],
    weights: Float[np.ndarray, "*rows n"],
    tail_masses: Float[np.ndarray, "k"],
) -> Float[np.ndarray, "k *rows"]:
    """CVaR at several tail masses for the price of one sort."""
    ordered, mass, before = _descending(costs, weights)
    return np.stack([_tail_mean(ordered, mass, before, float(alpha)) for alpha in tail_masses])


def var_rows(
    costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"], tail_mass: Number
) -> Float[np.ndarray, "*rows"]:
    """VaR_α of each row: the smallest cost that at most α mass exceeds."""
    ordered, mass, before = _descending(costs, weights)
    edge = _edge(mass, before, tail_mass)
    return np.asarray(np.take_along_axis(ordered, edge[..., None], axis=-1)[..., 0])


def _descending(
    costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
) -> tuple[
    Float[np.ndarray, "*rows n"], Float[np.ndarray, "*rows n"], Float[np.ndarray, "*rows n"]
]:
    """Costs from worst to best, their mass, and the mass that is strictly worse in that order."""
    # Stable, so that ties keep their order and results do not depend on the platform's sort.
    order = np.argsort(-costs, axis=-1, kind="stable")
    ordered = np.take_along_axis(costs, order, axis=-1)
    mass = np.take_along_axis(weights, order, axis=-1)
    return ordered, mass, np.cumsum(mass, axis=-1) - mass


def _tail_mean(
    ordered: Float[np.ndarray, "*rows n"],
    mass: Float[np.ndarray, "*rows n"],
    before: Float[np.ndarray, "*rows n"],
    tail_mass: Number,
) -> Float[np.ndarray, "*rows"]:
    taken = np.clip(tail_mass - before, 0.0, mass)
    # Dividing by what was taken, which is α up to rounding, keeps the result within the costs.
    return np.asarray(np.sum(taken * ordered, axis=-1) / np.sum(taken, axis=-1))


def _edge(
    mass: Float[np.ndarray, "*rows n"], before: Float[np.ndarray, "*rows n"], tail_mass: Number
) -> Int[np.ndarray, "*rows"]:
    """Index of the first atom at which the mass so far exceeds α; the last real atom if none."""
    within = before + mass <= tail_mass * (1.0 + _ROUNDING) + _ROUNDING
    last = mass.shape[-1] - 1 - np.argmax(mass[..., ::-1] > 0, axis=-1)
    return np.asarray(np.minimum(np.sum(within, axis=-1), last))
