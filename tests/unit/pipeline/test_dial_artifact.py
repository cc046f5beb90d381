"""The dial on disk: what is written comes back, and what is damaged is refused by its name."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tailguard.decoding.decoder import DrawSetting
from tailguard.decoding.dial import Dial, DialCertificate, DialEntry
from tailguard.decoding.rule import DrawPrior, Rule
from tailguard.decoding.spline_ridge import SplineRidge
from tailguard.decoding.worth import AnswerWorth
from tailguard.errors import InputError
from tailguard.pipeline.dial_artifact import (
    DIAL_NAME,
    TABLE_NAME,
    DialFile,
    described_frontier,
    described_profiles,
    dial_names,
)
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import RatersLimit, RaterTails, mass_on
from tailguard.risk import CVaR, Entropic, Mean, RiskLimit

TAIL = CVaR(0.25)


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    cost = np.arange(3)[:, None, None] + 0.1 * rng.normal(size=(3, 80, 1))
    knots = np.linspace(-1.0, 3.0, 9)
    mass = np.stack([mass_on(knots, c + np.array([0.0, 0.3])) for c in cost])
    tails = RaterTails(("carers", "traders"), knots, mass, 80)
    table = DialTable(cost, np.arange(3.0), np.arange(3.0), 10 * np.ones(3), 0.1, tails)
    rules = [Rule(level, price, 4, DrawPrior(0.1, 1.0, 2.0, 3.0, 1.0, 9.0)) for level, price in
             ((0.5, 0.0), (1.0, 0.1), (np.inf, np.inf))]  # fmt: skip
    entries = tuple(
        DialEntry((float(k), -0.5), rule, 0.1 * k, 2.0 * k, ("", "worst", "carers")[k])
        for k, rule in enumerate(rules)
    )
    bounds = {"carers": 0.4, "traders": np.inf}
    found = (
        DialCertificate(0, RiskLimit(TAIL, 1.5), 0.3, np.inf, 0.95, 60),
        DialCertificate(0, RiskLimit(TAIL, 1.5), 0.3, np.inf, 0.95, 60, "worst", bounds, bounds),
    )
    worth = AnswerWorth(-0.4, SplineRidge.fit(rng.normal(size=(50, 4)), rng.normal(size=(50, 2))))
    dial = Dial(entries, table, RiskLimit(TAIL, 0.7), 0.02, found, 2.0, np.inf, "judge", worth)
    floor = RatersLimit(RiskLimit(TAIL, 9.0), "worst")
    dial = replace(dial, floors=(floor,), scored_raters=("traders", "carers"))
    limits = (
        RatersLimit(RiskLimit(Mean(), 1.5)),
        RatersLimit(RiskLimit(Entropic(0.5, cost_bound=9.0), 2.0)),
        RatersLimit(RiskLimit(Mean(), 1.5), {"carers": 0.5, "traders": 0.5}),
    )
    file = DialFile(dial, ("loose", "strict"), DrawSetting(8, "no", max_draws=4), 1.0, limits)
    file.write(tmp_path)
    return file


def test_what_is_written_comes_back(written, tmp_path):
    read = DialFile.read(tmp_path)
    assert read.dial.entries == written.dial.entries
    assert read.dial.certificates == written.dial.certificates
    assert (read.dial.default, read.profiles) == (written.dial.default, written.profiles)
    assert (read.dial.floors, read.dial.scored_raters) == (
        written.dial.floors,
        ("traders", "carers"),
    )
    assert read.dial.raters == ("carers", "traders")
    there, back = written.dial.table.tails, read.dial.table.tails
    assert there is not None
    assert back is not None
    np.testing.assert_allclose(back.mass, there.mass, atol=1e-3)
    np.testing.assert_array_equal(back.knots, there.knots)
    assert (read.setting, read.members, read.pessimism) == (written.setting, written.members, 1.0)
    np.testing.assert_allclose(read.dial.table.cost, written.dial.table.cost, atol=1e-6)
    x = np.random.default_rng(1).normal(size=(9, 4))
    there, back = written.dial.worth, read.dial.worth
    assert back.judged is not None
    np.testing.assert_array_equal(back.judged.predict(x), there.judged.predict(x))
    assert back.threshold == there.threshold
    assert described_profiles(read)[0]["bounded"] is True
    assert described_profiles(read)[0]["weights"] == {"loose": 0.0, "strict": -0.5}
    assert [row["asked"] for row in described_profiles(read)][1] == "mean ≤ 1.5"
    assert described_profiles(read)[3]["asked"] == "mean ≤ 1.5 for carers 0.5, traders 0.5"


def test_the_frontier_is_what_the_dial_answers(written):
    rows = described_frontier(written, num=4)
    assert [row["token_price"] for row in rows] == sorted(row["token_price"] for row in rows)
    assert len(rows) == 4 * len({entry.rule.token_price for entry in written.dial.entries})
    for row in rows:
        limit = RiskLimit(written.dial.default.measure, row["budget"] + 1e-9)
        answer = written.dial.answer(limit, row["token_price"])
        assert row["risk"] == answer.risk
        assert row["reward"] == written.dial.table.reward[answer.number]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("entries"),
        lambda content: content["entries"].pop(),
        lambda content: content["entries"][0]["rule"].pop("prior"),
        lambda content: content["entries"][0]["rule"].update(level="nan"),
        lambda content: content.update(default=None),
        lambda content: content["setting"].update(fallback=" "),
        lambda content: content["setting"].update(unknown=1),
    ],
)
def test_what_is_damaged_is_refused(written, tmp_path, change):
    content = json.loads((tmp_path / DIAL_NAME).read_text())
    change(content)
    (tmp_path / DIAL_NAME).write_text(json.dumps(content))
    with pytest.raises(InputError):
        DialFile.read(tmp_path)


def test_a_table_that_is_cut_short_is_refused(written, tmp_path):
    path = tmp_path / TABLE_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=TABLE_NAME):
        DialFile.read(tmp_path)


def test_names_tell_limits_apart():
    budgets = [0.5, 0.501, 1.0]
    asked = [RatersLimit(RiskLimit(TAIL, budget)) for budget in budgets]
    assert len(set(dial_names(asked))) == 3
    assert dial_names(asked[:1]) == ["dial ≤0.50"]
    assert dial_names([*asked[:1], RatersLimit(asked[0].limit, "worst")])[1] == "dial worst ≤0.50"
