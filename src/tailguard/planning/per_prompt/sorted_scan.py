"""Per prompt, the best threshold for a given multiplier: every cost tried, in one sorted pass."""

import numpy as np
from jaxtyping import Float64

from tailguard.planning.tilt import Matrix, Tilt


class SortedScan:
    """max_ν β·log E_ref exp((r − λφ_ν(c))/β) of each prompt, for hinge penalties without raters.

    The best ν is one of the prompt's costs. With costs ascending, the mass at ν splits into the
    samples up to ν, which feel no hinge, and those above, whose tilt factors into one that does
    not depend on ν and e^{μν/β}, μ = λκ/α. Running log-sums from both ends so give all N thresholds
    for the price of two passes.
    """

    def __init__(self, tilt: Tilt, hinge: tuple[float, float]) -> None:
        """Sort the costs once.

        Args:
            tilt: the tilt by the reward alone.
            hinge: (κ, α) of φ_ν(c) = (1 − κ)c + κ(ν + max(c − ν, 0)/α).
        """
        order = np.argsort(tilt.bank.cost, axis=1, kind="stable")
        self._cost: Matrix = np.take_along_axis(tilt.bank.cost, order, axis=1)
        self._base: Matrix = np.take_along_axis(tilt.base, order, axis=1)
        self._kl_coef = tilt.kl_coef
        self._share, self._tail_mass = hinge

    def best(
        self, multiplier: float
    ) -> tuple[Float64[np.ndarray, "prompts"], Float64[np.ndarray, "prompts"]]:
        """The maximum of each prompt, and the ν that attains it."""
        rate = multiplier * self._share / self._kl_coef
        steep = rate / self._tail_mass
        below = self._base - (multiplier / self._kl_coef - rate) * self._cost
        above = below - steep * self._cost
        # In logarithms: at large λ the two halves differ by hundreds of nats.
        below = np.logaddexp.accumulate(below, axis=1)
        above = np.logaddexp.accumulate(above[:, ::-1], axis=1)[:, ::-1]
        total = below
        total[:, :-1] = np.logaddexp(
            below[:, :-1], above[:, 1:] + steep * self._cost[:, :-1], out=total[:, :-1]
        )
        # ν itself stands in the penalty, with κ: every sample pays μα·ν/β.
        total -= rate * self._cost
        at = total.argmax(axis=1)
        rows = np.arange(len(at))
        return self._kl_coef * total[rows, at], self._cost[rows, at]
