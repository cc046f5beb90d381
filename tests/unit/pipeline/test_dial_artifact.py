"""The dial on disk: what is written comes back, and what is damaged is refused by its name."""

import json

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
from tailguard.risk import CVaR, Entropic, Mean, RiskLimit

TAIL = CVaR(0.25)


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    cost = np.arange(3)[:, None, None] + 0.1 * rng.normal(size=(3, 80, 1))
    table = DialTable(cost, np.arange(3.0), np.arange(3.0), 10 * np.ones(3), 0.1)
    rules = [Rule(level, price, 4, DrawPrior(0.1, 1.0, 2.0, 3.0, 1.0, 9.0)) for level, price in
             ((0.5, 0.0), (1.0, 0.1), (np.inf, np.inf))]  # fmt: skip
    entries = tuple(
        DialEntry((float(k), -0.5), rule, 0.1 * k, 2.0 * k) for k, rule in enumerate(rules)
    )
    found = (DialCertificate(0, RiskLimit(TAIL, 1.5), 0.3, np.inf, 0.95, 60),)
    worth = AnswerWorth(-0.4, SplineRidge.fit(rng.normal(size=(50, 4)), rng.normal(size=(50, 2))))
    dial = Dial(entries, table, RiskLimit(TAIL, 0.7), 0.02, found, 2.0, np.inf, "judge", worth)
    limits = (RiskLimit(Mean(), 1.5), RiskLimit(Entropic(0.5, cost_bound=9.0), 2.0))
    file = DialFile(dial, ("loose", "strict"), DrawSetting(8, "no", max_draws=4), 1.0, limits)
    file.write(tmp_path)
    return file


def test_what_is_written_comes_back(written, tmp_path):
    read = DialFile.read(tmp_path)
    assert read.dial.entries == written.dial.entries
    assert read.dial.certificates == written.dial.certificates
    assert (read.dial.default, read.profiles) == (written.dial.default, written.profiles)
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
    assert len(set(dial_names([RiskLimit(TAIL, budget) for budget in budgets]))) == 3
    assert dial_names([RiskLimit(TAIL, 0.5)]) == ["dial ≤0.50"]
