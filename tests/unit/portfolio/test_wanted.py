"""Entries that requests get are kept: look-ups on the part are those on the whole."""

import numpy as np

from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import RaterTails, common_knots, mass_on
from tailguard.portfolio.wanted import wanted
from tailguard.risk import CVaR, RiskLimit

PRICES = (0.0, 0.1)


def many(entries=300, prompts=60):
    rng = np.random.default_rng(0)
    cost = rng.gamma(2.0, size=(entries, prompts, 1)) * rng.uniform(0.3, 3.0, (entries, 1, 1))
    reward = cost.mean(axis=(1, 2)) + rng.normal(size=entries)
    by_rater = cost * np.array([1.5, 0.5])
    knots = common_knots(by_rater)
    tails = RaterTails(("a", "b"), knots, np.stack([mass_on(knots, c) for c in by_rater]), prompts)
    return DialTable(cost, reward, np.zeros(entries), rng.uniform(5, 50, entries), tails=tails)


def test_the_kept_serve_as_well_as_all():
    table = many()
    kept = wanted(table, PRICES)
    assert kept.sum() < 0.4 * len(kept)
    part = table.take(kept)
    for raters in (None, "a", "b", "worst", {"a": 1.0, "b": 1.0}, {"a": 0.8, "b": 0.2}):
        for tail_mass in (0.2, 0.4, 1.0):
            risk, error = table.rater_risks(CVaR(tail_mass), raters)
            high = (risk + 2 * error).max(axis=1)
            for share in (0.0, 0.1, 0.3, 0.6):
                limit = RiskLimit(CVaR(tail_mass), float(high.min() + share * np.ptp(high)) + 1e-9)
                for price in PRICES:
                    all_, some = (
                        t.look_up(limit, token_price=price, raters=raters) for t in (table, part)
                    )
                    known = tail_mass in (0.2, 1.0) and raters != {"a": 0.8, "b": 0.2}
                    assert some.feasible or not known
                    assert some.value >= all_.value - (0.5 if known else 1.0)
    # The strictest of each is there itself.
    for raters in (None, "a", "b", "worst"):
        risk, error = table.rater_risks(CVaR(1.0), raters)
        assert kept[(risk + 2 * error).max(axis=1).argmin()]
