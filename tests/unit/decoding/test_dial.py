"""The dial of a decoder: which entry a request gets, and what certificates show together."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.decoding.test_rule import random_pool

from tailguard.decoding.dial import Dial, DialCertificate, DialEntry
from tailguard.decoding.joint import MeasuredPoint, RuleGrid, joint_table, risk_costs
from tailguard.decoding.rule import DrawPrior, Rule, fit_prior, simulate
from tailguard.decoding.worth import SCORERS_WORD, AnswerScores, AnswerWorth
from tailguard.errors import InfeasibleError, InputError
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import RatersLimit
from tailguard.risk import CVaR, Mean, RiskLimit, risk_upper_bound

PRIOR = DrawPrior(0.0, 1.0, 1.0, 1.0, 1.0, 10.0)
TAIL = CVaR(0.5)


def dial(certificates=(), num=5):
    """Entries 0 … n − 1, each with more reward and more cost than the one before."""
    rng = np.random.default_rng(0)
    cost = np.arange(num)[:, None, None] + 0.01 * rng.normal(size=(num, 100, 1))
    table = DialTable(cost, np.arange(num) * 1.0, np.zeros(num), np.arange(num) * 10.0)
    entries = tuple(DialEntry((float(k),), Rule(0.0, 0.1, 4, PRIOR), 0.0) for k in range(num))
    return Dial(entries, table, RiskLimit(TAIL, 2.5), 0.0, tuple(certificates))


def certificate(entry, judge=math.inf, scorer=math.inf, measure=TAIL):
    return DialCertificate(entry, RiskLimit(measure, 1.0), scorer, judge, 0.95, 100)


def test_a_request_gets_the_best_entry_within_its_budget():
    for budget, entry in ((0.5, 0), (1.5, 1), (3.5, 3), (99.0, 4)):
        assert dial().answer(RiskLimit(TAIL, budget)).number == entry
        assert dial().answer(RiskLimit(Mean(), budget)).number == entry
    assert dial().answer().number == 2
    # A token at 0.2 makes each further entry worth less than it costs.
    assert dial().answer(RiskLimit(TAIL, 99.0), token_price=0.2).number == 0


def test_what_is_out_of_reach_says_the_smallest_risk():
    with pytest.raises(InfeasibleError, match="smallest risk that was measured") as caught:
        dial().answer(RiskLimit(TAIL, -1.0))
    assert caught.value.smallest_reachable_risk == pytest.approx(0.01, abs=0.02)
    with pytest.raises(InputError, match="token_price"):
        dial().answer(RiskLimit(TAIL, 1.0), token_price=-1.0)


def test_a_limit_that_was_certified_gets_the_entry_that_was_certified_for_it():
    asked = RiskLimit(TAIL, 3.5)
    assert dial().answer(asked).number == 3
    shown = DialCertificate(2, asked, 9.0, 3.4, 0.95, 100)
    measured = replace(dial([shown]), measured_by="judge")
    assert (measured.answer(asked).number, measured.answer(asked).certified) == (2, True)
    # Not where nothing was shown, where the scorer's word is not asked for, or at a price of one's own.
    assert measured.answer(RiskLimit(TAIL, 3.6)).number == 3
    assert measured.answer(asked, token_price=0.0).number == 3
    # It is reached even where the measured risk, with the margin, is not quite.
    near = DialCertificate(3, RiskLimit(TAIL, 3.0), 9.0, 2.9, 0.95, 100)
    barely = replace(dial([near]), measured_by="judge", margin=400.0)
    assert barely.answer(near.limit).number == 3
    failed = replace(shown, judge_bound=3.6, scorer_bound=0.1)
    assert replace(dial([failed]), measured_by="judge").answer(asked).number == 3
    assert dial([failed]).answer(asked).number == 2


def test_certified_serves_only_what_is_covered():
    measured = dial([certificate(0, judge=0.4), certificate(2, judge=2.6, scorer=1.0)])
    asked = RiskLimit(TAIL, 3.5)
    assert measured.answer(asked).number == 3
    assert not measured.answer(asked).certified
    found = measured.answer(asked, certified=True)
    assert (found.number, found.certified) == (2, True)
    assert measured.answer(RiskLimit(TAIL, 1.0), certified=True).number == 0
    # CVaR bounds the mean, and no smaller tail.
    assert measured.answer(RiskLimit(Mean(), 1.0), certified=True).number == 0
    with pytest.raises(InfeasibleError, match=r"bounded by 0\.4"):
        measured.answer(RiskLimit(TAIL, 0.3), certified=True)
    with pytest.raises(InfeasibleError, match="no entry of the dial is certified"):
        measured.answer(RiskLimit(CVaR(0.2), 3.5), certified=True)


def test_after_the_first_that_fails_nothing_is_covered():
    measured = dial([certificate(0, judge=5.0), certificate(1, judge=0.1, scorer=0.1)])
    assert measured.covered(RatersLimit(RiskLimit(TAIL, 1.0)), "judge") == []
    assert measured.covered(RatersLimit(RiskLimit(TAIL, 9.0)), "judge") == [0, 1]
    assert measured.covered(RatersLimit(RiskLimit(TAIL, 1.0)), "scorer") == []


def test_false_certificates_are_as_rare_as_they_say():
    """A path whose later entries break the budget: how often any of them is covered."""
    rng = np.random.default_rng(0)
    broken, repetitions, confidence = 0, 400, 0.9
    # Tails of .5 mass: uniform costs on [0, b] have CVaR_.5 = 3b/4.
    widths = [0.5, 0.8, 1.4, 1.5, 1.6]
    asked = RiskLimit(TAIL, 1.0)
    for _ in range(repetitions):
        found = []
        for entry, width in enumerate(widths):
            cost = rng.uniform(0, width, 60)
            bound = risk_upper_bound(
                cost, TAIL, width / 2, lower=0.0, upper=2.0, confidence=confidence
            )
            found.append(certificate(entry, judge=bound))
        covered = dial(found).covered(RatersLimit(asked), "judge")
        broken += any(0.75 * widths[entry] > 1.0 for entry in covered)
    assert broken / repetitions <= 1 - confidence + 3 * math.sqrt(0.09 / repetitions)


def measured_points():
    return [
        MeasuredPoint((1.0, 0.0), random_pool(0, prompts=60), 0.5),
        MeasuredPoint((0.0, 1.0), random_pool(1, prompts=60), 0.8),
    ]


def test_the_joint_table_holds_what_each_rule_serves():
    points = measured_points()
    worth = AnswerWorth.fit([measured.pool for measured in points])
    entries, table = joint_table(
        points,
        worth,
        RuleGrid(4, (0.0, 0.05, 1.0), (0.0, 2.0), 6),
        largest_cost=100.0,
    )
    assert 0 < len(entries) == table.num_entries < 48
    assert {entry.penalty for entry in entries} == {0.0, 2.0}
    pools = {measured.point: measured for measured in points}
    for number, entry in enumerate(entries):
        measured = pools[entry.point]
        utility = worth.utility(AnswerScores.of_pool(measured.pool), entry.penalty)
        outcome: Any = simulate(measured.pool, entry.rule, utility)
        np.testing.assert_allclose(table.cost[number, :, 0], outcome.judged_cost)
        assert table.reward[number] == pytest.approx(outcome.judged_reward.mean())
        assert table.tokens[number] == pytest.approx(outcome.num_tokens.mean())
        assert table.kl[number] == measured.kl
        assert entry.withheld == pytest.approx((outcome.served < 0).mean())
        admissible = measured.pool.cost_bound <= entry.rule.level
        pool = measured.pool
        assert entry.rule.prior == fit_prior(utility, admissible, pool.num_tokens)


def test_entries_that_withhold_too_much_are_not_offered():
    grid = RuleGrid(6, (1.0,), (0.0,), 2)
    options: Any = {"worth": SCORERS_WORD, "grid": grid, "largest_cost": 100.0}
    entries, _ = joint_table(measured_points(), largest_withheld=0.1, **options)
    assert all(entry.withheld <= 0.1 for entry in entries)
    everything, _ = joint_table(measured_points(), **options)
    assert any(entry.withheld > 0.1 for entry in everything)
    fewest = min(entry.withheld for entry in everything)
    none, _ = joint_table(measured_points(), largest_withheld=-1.0, **options)
    assert {entry.withheld for entry in none} == {fewest}


def test_what_has_no_score_counts_as_the_largest_cost():
    pool = random_pool(2, prompts=5)
    outcome = simulate(pool, Rule(-math.inf, 1.0, 2, PRIOR))
    object.__setattr__(outcome, "judged_cost", None)
    outcome.cost_bound[2] = np.inf
    assert risk_costs(outcome, 9.0)[2] == 9.0
    with pytest.raises(InputError, match="points"):
        joint_table([], SCORERS_WORD, RuleGrid(2, (1.0,), (0.0,), 2), largest_cost=1.0)
