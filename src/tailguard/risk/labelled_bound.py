"""An upper confidence bound on a risk when a judge's verdicts are dear, so that only some answers get one.

Each answer is labelled with a probability q_i that may depend on what is known of it for free (a
scorer's proxy x_i), and the label is corrected for that:

    Z_i = g_i + ξ_i/q_i · (φ_{ν_i}(C_i) − g_i),    ξ_i ~ Bernoulli(q_i),    E Z_i = E φ_{ν_i}(C) ≥ ρ(C),

with g a prediction of the penalty from the proxy (a control variate: prediction-powered inference,
Angelopoulos et al. 2023, 2301.09633; active labels, Zrnic & Candès 2024, 2403.03208). ν, g and the
stakes come from earlier answers alone, so that the capital of `predictable_risk_bound` stays a
supermartingale. A good proxy takes the predictable part out of the variance, and labels go where the
rest of it is.

What no choice of labels can do: harm of mass p among answers that are labelled with probability q goes
unseen with probability (1 − pq)^n, whatever the estimator. So every bound has the floor
(B − ν)/α · log(1/δ)/(n·min q), and n·min q is at most the number of labels: where that floor, and not
the variance, is what makes a bound loose, 500 labels are worth 500.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.risk.bounds import check_confidence
from tailguard.risk.checks import Number, Values, to_array
from tailguard.risk.measure import RiskMeasure

_LARGEST_STAKE = 0.9
_FIRST_TAIL = 4.0  # labelled costs in the tail before the first bet: ν and g are fitted on them
_GROWTH = 1.25
_BISECTIONS = 50
_RIDGE = 1e-3  # of the regression, in units of the features' own spread


def label_probabilities(
    doubt: Values, num_labels: Number, smallest: Number, reference: Values | None = None
) -> Float[np.ndarray, "n"]:
    """Q = max(smallest, min(1, s·doubt)), with s such that num_labels are drawn on average.

    Args:
        doubt: [n] how far the judge may be from the prediction, in any unit; ≥ 0.
        num_labels: how many of the n are drawn.
        smallest: of q, in (0, num_labels/n].
        reference: doubts of other answers, such as those of calibration, that s is taken from. Without
            it s comes from these, so that each q looks at all: a dependence of order 1/n, which a
            certificate to the letter does not have.

    Raises:
        InputError: a doubt that is negative or not finite, or numbers that do not fit.
    """
    array = to_array(doubt)
    known = array if reference is None else to_array(reference)
    share = num_labels / max(array.size, 1)
    for each in (array, known):
        if each.ndim != 1 or not each.size or not (np.isfinite(each) & (each >= 0)).all():
            raise InputError("doubt: must be one number ≥ 0 for each answer")
    if not 0.0 < smallest <= share <= 1.0:
        raise InputError(
            f"smallest: {smallest:g}, with {num_labels:g} labels for {array.size} answers; must lie"
            f" in (0, {share:g}]"
        )
    low, high = 0.0, 1.0 / max(float(known[known > 0].min(initial=1.0)), 1e-12)
    for _ in range(100):
        scale = 0.5 * (low + high)
        mean = np.clip(scale * known, smallest, 1.0).mean()
        low, high = (scale, high) if mean < share else (low, scale)
    # Where too few have any doubt, the rest of the labels go to all alike.
    spent = float(np.clip(low * known, smallest, 1.0).mean())
    rest = min(max(share - spent, 0.0) / max(1.0 - spent, 1e-12), 1.0)
    found = np.clip(low * array, smallest, 1.0)
    return found + (1.0 - found) * rest


def labelled_risk_bound(
    costs: Values,
    probabilities: Values,
    proxy: Values,
    measure: RiskMeasure,
    *,
    upper: Number,
    smallest: Number,
    confidence: Number = 0.95,
) -> float:
    """Upper confidence bound on ρ(C) from labels that were drawn with known probabilities.

    Args:
        costs: [n] the judge's cost, NaN where the answer was not labelled; independent answers.
        probabilities: [n] with which each was labelled, by its own coin, not looking at its cost.
        proxy: [n] what is known for free; larger for answers that look worse.
        measure: ρ.
        upper: declared largest cost.
        smallest: of the probabilities, declared before.
        confidence: in [.5, 1).

    Returns:
        The bound, at most ``upper``.

    Raises:
        InputError: shapes that differ, a probability outside [smallest, 1], a cost above ``upper``,
            or a bad confidence.
    """
    cost, prob, known = to_array(costs), to_array(probabilities), to_array(proxy)
    check_confidence(confidence)
    _check(cost, prob, known, upper, smallest)
    goal = -math.log1p(-confidence)
    values, largest, stakes = _games(
        cost, prob, known, measure, float(upper), float(smallest), goal
    )
    low, high = min(float(upper), float(np.nanmin(values))), float(upper)
    low = min(low, float(np.nanmin(np.where(np.isnan(cost), upper, cost))))
    for _ in range(_BISECTIONS):
        value = 0.5 * (low + high)
        room = np.maximum(largest - value, 1e-12 * (1.0 + abs(value)))
        bets = np.minimum(stakes, _LARGEST_STAKE / room)
        if np.cumsum(np.log1p(bets * (value - values))).max() >= goal:
            high = value
        else:
            low = value
    return high


def _games(
    cost: Float[np.ndarray, "n"],
    prob: Float[np.ndarray, "n"],
    proxy: Float[np.ndarray, "n"],
    measure: RiskMeasure,
    upper: float,
    smallest: float,
    goal: float,
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Z of each answer, the largest that it could have been, and the stake of its bet."""
    labelled = ~np.isnan(cost)
    values, largest = np.full(cost.size, upper), np.full(cost.size, upper)
    stakes = np.zeros(cost.size)
    for start, stop in _blocks(labelled, measure.smallest_tail):
        seen = np.flatnonzero(labelled[:start])
        weight = 1.0 / prob[seen]
        threshold = measure.minimiser(cost[seen], weight)
        top = float(measure.penalty(np.array(upper), threshold))
        if not math.isfinite(top):
            raise InputError(f"upper: {upper:g}; the penalty of {measure} is not finite there")
        known = measure.penalty(cost[seen], threshold)
        least = float(known.min())
        guess = np.clip(_predict(proxy[:stop], proxy[seen], known, weight), least, top)
        corrected = guess.copy()
        rows = np.flatnonzero(labelled[:stop])
        penalties = np.minimum(measure.penalty(cost[rows], threshold), top)
        corrected[rows] += (penalties - guess[rows]) / prob[rows]
        past = corrected[:start]
        # g is at least the least penalty seen, so that Z is largest there.
        most = least + (top - least) / smallest
        doubt = 0.25 * (top - least) ** 2 / smallest
        variance = (doubt + float(np.square(past - past.mean()).sum())) / (start + 1)
        values[start:stop], largest[start:stop] = corrected[start:], most
        if variance > 0.0:
            stakes[start:stop] = math.sqrt(2.0 * goal / (cost.size * variance))
    return values, largest, stakes


def _predict(
    proxy: Float[np.ndarray, "n"],
    seen: Float[np.ndarray, "m"],
    penalty: Float[np.ndarray, "m"],
    weight: Float[np.ndarray, "m"],
) -> Float[np.ndarray, "n"]:
    """Weighted ridge regression of the penalty on the proxy and its hinges at three quantiles."""
    knots = np.quantile(seen, [0.5, 0.75, 0.9])
    scale = max(float(seen.std()), 1e-12)

    def basis(x: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k 4"]:
        hinges = [np.maximum(x - knot, 0.0) for knot in knots]
        return np.stack([x, *hinges], axis=1) / scale

    share = weight / weight.sum()
    inputs = basis(seen)
    centre, level = share @ inputs, float(share @ penalty)
    centred = inputs - centre
    gram = (centred * share[:, None]).T @ centred + _RIDGE * np.eye(centred.shape[1])
    moment = (centred * share[:, None]).T @ (penalty - level)
    slope = np.zeros_like(moment)
    slope[:] = np.linalg.solve(gram, moment)
    return level + (basis(proxy) - centre) @ slope


def _blocks(labelled: np.ndarray, tail_mass: float) -> list[tuple[int, int]]:
    """Rows that share ν, g and the stakes; those before the first are not bet on."""
    count = np.cumsum(labelled)
    needed = min(math.ceil(_FIRST_TAIL / tail_mass), 0.25 * labelled.sum())
    edges = [int(np.searchsorted(count, max(needed, 2.0))) + 1]
    while edges[-1] < labelled.size:
        edges.append(min(labelled.size, math.ceil(edges[-1] * _GROWTH)))
    return list(itertools.pairwise(edges))


def _check(
    cost: np.ndarray, prob: np.ndarray, proxy: np.ndarray, upper: float, smallest: float
) -> None:
    if cost.ndim != 1 or not cost.size or not cost.shape == prob.shape == proxy.shape:
        raise InputError(
            f"costs, probabilities and proxy: shapes {cost.shape}, {prob.shape} and {proxy.shape};"
            " must be [n], one of each for an answer"
        )
    if not np.isfinite(proxy).all():
        raise InputError("proxy: not finite; give the largest that there is where none is known")
    if not (smallest > 0.0 and (prob >= smallest * (1 - 1e-9)).all() and (prob <= 1 + 1e-9).all()):
        raise InputError(f"probabilities: must lie in [smallest, 1] with smallest={smallest:g}")
    known = cost[~np.isnan(cost)]
    if not math.isfinite(upper) or known.size == 0 or known.max() > upper:
        raise InputError(
            f"upper: {upper:g}, with {known.size} labels; declare a finite range that holds them"
        )
