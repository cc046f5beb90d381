"""Requests for some people's tail: which entry they get, what is admitted, and what was shown."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.decoding.test_drawing import SCORERS, Counting, drawn
from tests.unit.decoding.test_rule import random_pool

from tailguard.decoding.admission import POPULATION, admission_bound
from tailguard.decoding.dial import Dial, DialCertificate, DialEntry
from tailguard.decoding.drawing import Scorers
from tailguard.decoding.joint import KnownRaters, MeasuredPoint, RuleGrid, joint_table
from tailguard.decoding.rule import DrawPrior, Rule, simulate
from tailguard.decoding.worth import SCORERS_WORD, AnswerScores
from tailguard.errors import InfeasibleError, InputError
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import RatersLimit, RaterTails, mass_on
from tailguard.risk import CVaR, RiskLimit
from tailguard.scorers.readings import Reading

PRIOR = DrawPrior(0.0, 1.0, 1.0, 1.0, 1.0, 10.0)
TAIL = CVaR(0.5)
RATERS = ("carers", "traders")


def dial(certificates=(), floors=()):
    """Entries 0 … 4 of rising reward; carers mind each twice as much, and traders hardly at all."""
    rng = np.random.default_rng(0)
    cost = np.arange(5)[:, None, None] + 0.01 * rng.normal(size=(5, 100, 1))
    by_rater = np.concatenate([2.0 * cost, 0.1 * cost], axis=2)
    knots = np.unique(by_rater)
    tails = RaterTails(RATERS, knots, np.stack([mass_on(knots, c) for c in by_rater]), 100)
    table = DialTable(cost, np.arange(5.0), np.zeros(5), np.zeros(5), tails=tails)
    entries = tuple(DialEntry((float(k),), Rule(0.0, 0.1, 4, PRIOR), 0.0) for k in range(5))
    limit = RiskLimit(TAIL, 2.5)
    return Dial(entries, table, limit, 0.0, tuple(certificates), measured_by="judge", floors=floors)


def test_a_limit_for_some_gets_more_reward_than_one_for_each():
    asked = RiskLimit(TAIL, 2.5)
    numbers = {who: dial().answer(asked, raters=who).number for who in ("worst", *RATERS)}
    assert numbers == {"worst": 1, "carers": 1, "traders": 4}
    worst = dial().answer(asked, raters="worst")
    assert (worst.rater, worst.raters) == ("carers", "worst")
    assert worst.risk == pytest.approx(2.0, abs=0.05)
    # The tail of half of a mixture of 2k and k/10: what carers bear, up to their weight.
    for weight, number in ((0.5, 1), (0.25, 2), (0.05, 4), (0.0, 4)):
        found = dial().answer(asked, raters={"carers": weight, "traders": 1 - weight})
        assert (found.number, found.rater) == (number, None)


def test_the_default_for_some_people_is_not_loosened():
    assert dial().answer(raters="worst").number == 1
    with pytest.raises(InfeasibleError, match=r"for carers is out of the dial's reach"):
        dial().answer(RiskLimit(TAIL, -1.0), raters="carers")
    with pytest.raises(InfeasibleError, match="to carers, who would bear the most"):
        dial().answer(RiskLimit(TAIL, -0.1), raters="worst")
    with pytest.raises(InputError, match="no 'nobody'; there are carers, traders"):
        dial().answer(RiskLimit(TAIL, 9.0), raters={"nobody": 1.0})
    plain = replace(dial(), table=replace(dial().table, tails=None))
    with pytest.raises(InputError, match="knows no groups"):
        plain.answer(RiskLimit(TAIL, 9.0), raters="worst")


def test_no_request_loosens_what_is_set_for_all():
    asked = RiskLimit(TAIL, 9.0)
    floor = RatersLimit(RiskLimit(TAIL, 4.5), "worst")
    shown = DialCertificate(3, asked, 0.0, 0.0, 0.95, 100, "worst", {}, dict.fromkeys(RATERS, 1.0))
    for certificates in ((), (shown,)):
        found = dial(certificates, (floor,))
        for who in (None, "worst", *RATERS, {"traders": 1.0}):
            assert found.answer(asked, raters=who).number == 2
    with pytest.raises(InfeasibleError, match="no entry of the dial is certified"):
        dial((shown,), (floor,)).answer(asked, raters="traders", certified=True)
    assert dial((shown,)).answer(asked, raters="traders", certified=True).number == 3
    with pytest.raises(InfeasibleError, match=r"set for all: .* ≤ -1 for each group"):
        dial(floors=(RatersLimit(RiskLimit(TAIL, -1.0), "worst"),)).answer(asked)


def shown(entry, carers, traders, raters: str | None = "worst"):
    bounds = {"carers": carers, "traders": traders}
    return DialCertificate(
        entry, RiskLimit(TAIL, 1.0), math.inf, 0.0, 0.95, 100, raters, bounds, bounds
    )


def test_what_is_shown_for_each_is_the_largest_bound():
    found = dial([shown(0, 0.5, 0.1), shown(1, 2.2, 0.2), shown(2, 4.4, 0.3)])
    limit = RiskLimit(TAIL, 2.5)
    for who, covered in (("worst", [0, 1]), ("carers", [0, 1]), ("traders", [0, 1, 2])):
        assert found.covered(RatersLimit(limit, who), "judge") == covered
        assert found.covered(RatersLimit(limit, {who: 2.0}), "judge") == covered or who == "worst"
    # A mixture's risk may lie above that to each, and the population's was not tested here.
    assert found.covered(RatersLimit(limit, {"carers": 1.0, "traders": 1.0}), "judge") == []
    assert found.covered(RatersLimit(limit), "judge") == []
    assert dial([shown(0, 0.5, 0.1, None)]).covered(RatersLimit(limit, "worst"), "judge") == []


def test_whose_bound_admits():
    bound = np.array([0.0, 1.0, np.inf])
    own = np.array([[2.0, -1.0], [0.5, 0.6], [0.0, 0.0]])
    np.testing.assert_array_equal(admission_bound(POPULATION, bound, own, RATERS), bound)
    np.testing.assert_array_equal(admission_bound("worst", bound, own, RATERS), [2.0, 1.0, np.inf])
    np.testing.assert_array_equal(
        admission_bound("traders", bound, own, RATERS), [-1.0, 0.6, np.inf]
    )
    for missing in (("worst", None), ("traders", None), ("nobody", own)):
        assert np.isinf(admission_bound(missing[0], bound, missing[1], RATERS)).all()


def rated_points():
    points = []
    for seed in range(2):
        pool = random_pool(seed, prompts=60)
        rng = np.random.default_rng(10 + seed)
        own = pool.cost_bound[:, :, None] + rng.normal(size=(60, 8, 2))
        judged = own + 0.3 * rng.normal(size=own.shape)
        rated = replace(
            pool,
            rater_bound=own,
            judged_by_rater=judged,
            fallback_rater_bound=np.full((60, 2), -2.0),
            fallback_judged_by_rater=np.full((60, 2), -2.5),
        )
        points.append(MeasuredPoint((1.0 - seed, float(seed)), rated, 0.5))
    return points


def test_the_table_holds_what_is_served_to_each_rater():
    known = KnownRaters(RATERS, RATERS)
    assert known.admissions() == ("", "worst", "carers", "traders")
    grid = RuleGrid(4, (0.0, 1.0), (0.0,), 6, known.admissions())
    points = rated_points()
    entries, table = joint_table(points, SCORERS_WORD, grid, largest_cost=100.0, raters=known)
    assert {entry.admission for entry in entries} == set(known.admissions())
    assert table.tails is not None
    pools = {measured.point: measured.pool for measured in points}
    means = table.tails.mass @ table.tails.knots
    for number, entry in enumerate(entries):
        pool = pools[entry.point]
        utility = SCORERS_WORD.utility(AnswerScores.of_pool(pool), 0.0)
        bound = admission_bound(entry.admission, pool.cost_bound, pool.rater_bound, RATERS)
        found: Any = simulate(pool, entry.rule, utility, bound=bound)
        np.testing.assert_allclose(means[number], found.judged_by_rater.mean(axis=0))
        kept = found.served >= 0
        assert (bound[np.flatnonzero(kept), found.served[kept]] <= entry.rule.level).all()
        if entry.admission == "worst":
            assert (found.rater_bound[kept] <= entry.rule.level).all()
    plain = [
        replace(p, pool=replace(p.pool, judged_by_rater=None, rater_bound=None)) for p in points
    ]
    with pytest.raises(InputError, match="hold no costs to them"):
        joint_table(plain, SCORERS_WORD, grid, largest_cost=100.0, raters=known)


def test_many_groups_are_admitted_by_the_worst_alone():
    many = tuple(map(str, range(14)))
    assert KnownRaters(many, many).admissions() == ("", "worst")
    assert KnownRaters(many, ()).admissions() == KnownRaters().admissions() == ("",)
    # Where the judge knows nobody, the scorers measure the tails to raters.
    own = KnownRaters((), RATERS)
    assert (own.measured, own.measured_by, own.admissions()[1]) == (RATERS, "scorer", "worst")
    assert KnownRaters(RATERS, many).measured_by == "judge"


def test_without_a_judge_that_knows_them_the_scorers_measure_raters():
    known = KnownRaters((), RATERS)
    points = [replace(p, pool=replace(p.pool, judged_by_rater=None)) for p in rated_points()]
    grid = RuleGrid(3, (1.0,), (0.0,), 4, known.admissions())
    entries, table = joint_table(points, SCORERS_WORD, grid, largest_cost=100.0, raters=known)
    assert table.tails is not None
    for number, entry in enumerate(entries):
        pool = points[int(entry.point[1])].pool
        bound = admission_bound(entry.admission, pool.cost_bound, pool.rater_bound, RATERS)
        found: Any = simulate(pool, entry.rule, pool.reward, bound=bound)
        means = table.tails.mass[number] @ table.tails.knots
        np.testing.assert_allclose(means, found.rater_bound.mean(axis=0))


def test_nothing_is_shown_for_each_where_one_was_not_bounded():
    half = replace(shown(0, 0.5, 0.1), judge_rater_bounds={"carers": 0.5})
    asked = RiskLimit(TAIL, 2.5)
    assert dial([half]).covered(RatersLimit(asked, "worst"), "judge") == []
    assert dial([half]).covered(RatersLimit(asked, "carers"), "judge") == [0]
    assert dial([half]).covered(RatersLimit(asked, "traders"), "judge") == []


class Rated(Counting):
    """To carers an answer costs one more than to the population, to traders one less."""

    raters = RATERS

    def read(self, prompts, responses):
        scores = self.score(prompts, responses)
        by_rater = np.stack([scores + 1.0, scores - 1.0], axis=2)
        return Reading(scores, np.full(len(scores), math.nan), by_rater)


def test_what_is_served_keeps_the_level_for_those_it_is_asked_for(soup):
    scorers = Scorers(SCORERS.reward, Rated(0.53), 1.0)
    for admission, level, shift in (
        ("carers", 1.0, 1.0),
        ("worst", 1.0, 1.0),
        ("traders", -1.0, -1.0),
    ):
        entry = DialEntry((0.4, 0.6), Rule(level, 0.02, 6, PRIOR), 0.0, 0.0, admission)
        plain = DialEntry((0.4, 0.6), Rule(level - shift, 0.02, 6, PRIOR), 0.0)
        found = drawn(soup, scorers, entry, raters=RATERS)
        assert [a.text for a in found] == [a.text for a in drawn(soup, scorers, plain)]
        for answer in found:
            assert answer.rater_bounds["carers"] == pytest.approx(answer.cost_upper_bound + 1.0)
            assert (
                answer.abstained
                or answer.rater_bounds["traders" if admission == "traders" else "carers"] <= level
            )


@pytest.mark.parametrize("admission", ["worst", "carers"])
def test_a_scorer_that_no_longer_knows_the_groups_serves_nothing(soup, admission):
    entry = DialEntry((0.4, 0.6), Rule(math.inf, 0.02, 3, PRIOR), 0.0, 0.0, admission)
    assert all(answer.abstained for answer in drawn(soup, SCORERS, entry, raters=RATERS))
    silent = Scorers(SCORERS.reward, Rated(0.53, lambda s, t: s * np.nan), 1.0)
    assert all(answer.abstained for answer in drawn(soup, silent, entry, raters=RATERS))
