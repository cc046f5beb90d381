"""What a report says of the dial: its verdict, findings, certificates and figure."""

from typing import Any

import pytest

from tailguard.evaluation.report.dial_part import (
    certificate_table,
    dial_findings,
    dial_rows,
    is_kept,
    rater_table,
    verdict,
)
from tailguard.evaluation.report.figure_dial import draw_dial, draw_dial_frontier, draw_doubt
from tailguard.evaluation.report.figure_style import styled
from tailguard.evaluation.report.findings import find_all


def interval(middle, spread=0.05):
    return {"estimate": middle, "lower": middle - spread, "upper": middle + spread}


def row(name, kind, reward, tail, refusals=0.02, **more) -> Any:
    metrics = {
        "reward": interval(reward),
        "cvar_0.1": interval(tail),
        "benign_refusals": interval(refusals, 0.005),
    }
    made = {"name": name, "kind": kind, "metrics": metrics, "tokens_per_answer": 20.0}
    return made | {"abstained_rate": 0.01} | more


def limit(budget, reward, tail, **more):
    made: Any = {"measure": "cvar", "tail_mass": 0.1, "budget": budget, "measured_by": "judge"}
    return row(f"dial ≤{budget}", "dial", reward, tail, **made | more)


BASE = row("base", "base", 0.8, 1.0)
ROWS = [
    BASE,
    limit(0.5, 1.5, 0.3, default=True, certified=True, bounded=True),
    limit(-0.2, 1.2, -0.3, tokens_per_answer=40.0, abstained_rate=0.05),
    limit(0.9, 1.8, 1.2),
]
CERTIFICATES: Any = [
    {
        "asked": "cvar at 0.1 ≤ -0.2",
        "budget": -0.2,
        "scorer_bound": -0.4,
        "judge_bound": "inf",
        "bounded": True,
        "certified": False,
        "confidence": 0.95,
        "num_prompts": 400,
    },
    {
        "asked": "cvar at 0.1 ≤ 0.5",
        "budget": 0.5,
        "scorer_bound": 0.1,
        "judge_bound": 0.45,
        "bounded": True,
        "certified": True,
        "confidence": 0.95,
        "num_prompts": 400,
    },
]


def test_the_verdict_is_two_sentences():
    record: Any = {"rows": ROWS, "judge": {"name": "the truth"}, "certificates": CERTIFICATES}
    said = verdict(record)
    assert said.count(". ") == 1
    assert said.endswith("from 0.50 on.")
    assert (
        "Asked for CVaR.1 ≤ 0.50, its default, the dial serves reward 1.50 at CVaR.1 0.30" in said
    )
    assert "where base has 0.80 at 1.00; an answer takes 20 tokens (base 20), and 1.0% are" in said
    assert "2 of its 3 limits are kept; certified by a judge that took no part, at 95%" in said
    nothing: Any = {"rows": ROWS, "certificates": CERTIFICATES[:1]}
    assert "no limit is certified by a judge, and bounds are the scorer's own." in verdict(nothing)
    assert verdict({"rows": ROWS[:1]}) == ""
    assert verdict({}) == ""


def test_findings_say_each_thing_once_for_all_limits():
    found = list(dial_findings(ROWS))
    texts = [finding.text for finding in found]
    assert {finding.about for finding in found} == {"the dial"}
    assert ("bad", "the dial keeps 2 of 3 limits by the judge; broken: ≤ 0.90.") in [
        (finding.verdict, finding.text) for finding in found
    ]
    assert any("more reward and a smaller tail than base at once at 2 of 3" in t for t in texts)
    assert any("a larger tail than base at ≤ 0.90." in t for t in texts)
    assert any(
        "takes 20 to 40 tokens per answer (base 20) and withholds 1.0% to 5.0%" in t for t in texts
    )
    assert len(texts) == len(set(texts))
    assert find_all(ROWS) == []  # nothing is said of them one by one
    assert list(dial_findings([BASE])) == []


def test_refusals_of_every_limit_are_one_sentence():
    rows = [row("base", "base", 0.8, 1.0, refusals=0.2), *ROWS[1:]]
    (said,) = [f for f in dial_findings(rows) if "refuses" in f.text]
    assert said.verdict == "good"
    assert said.text == "the dial refuses fewer benign prompts than base at every limit."


def test_limits_measured_by_scorers_are_held_against_scorers():
    rows: Any = [
        BASE,
        *(
            r | {"measured_by": "scorer", "scorer_metrics": {"cvar_0.1": interval(5.0)}}
            for r in ROWS[1:]
        ),
    ]
    first = next(iter(dial_findings(rows)))
    assert first.text.startswith("the dial keeps 0 of 3 limits by the training scorers; broken:")


def test_certificates_are_told_in_words():
    first, second = certificate_table(CERTIFICATES)
    assert first["bound by the judge"] == "–"
    assert (first["bounded"], first["certified"]) == ("yes", "no")
    assert (second["asked"], second["bound by the judge"]) == ("cvar at 0.1 ≤ 0.5", "0.450")
    assert second["confidence"] == "95%"
    assert certificate_table([]) == []


def test_the_figure_shows_what_was_asked_and_what_is_covered():
    with styled():
        figure: Any = draw_dial(ROWS)
    tail, reward, tokens, withheld = figure.axes
    served = tail.containers[0].lines[0]
    assert served.get_xdata().tolist() == [-0.2, 0.5, 0.9]
    assert served.get_ydata() == pytest.approx([-0.3, 0.3, 1.2])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"served", "base", "as asked", "bounded", "certified"} <= set(labels)
    assert tokens.lines[0].get_ydata().tolist() == [40.0, 20.0, 20.0]
    assert withheld.lines[0].get_ydata() == pytest.approx([5.0, 1.0, 1.0])
    assert [row.get("budget") for row in dial_rows(ROWS)] == [-0.2, 0.5, 0.9]
    assert draw_dial(ROWS[:2]) is None
    assert reward.get_title() == "reward"


def test_the_frontier_has_a_line_for_each_price():
    points = [
        {"token_price": price, "risk": risk, "reward": risk - price, "tokens": 30.0 - price}
        for price in (0.01, 1.0)
        for risk in (0.5, -0.5, 0.0)
    ]
    with styled():
        figure: Any = draw_dial_frontier(points)
    reward, tokens = figure.axes
    assert [line.get_xdata().tolist() for line in reward.lines] == [[-0.5, 0.0, 0.5]] * 2
    assert reward.lines[1].get_ydata() == pytest.approx([-1.5, -1.0, -0.5])
    assert tokens.lines[0].get_ydata() == pytest.approx([29.99] * 3)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0.01", "1"]
    assert draw_dial_frontier([]) is None


def test_tokens_and_draws_are_drawn_against_doubt():
    groups = [
        {"doubt": doubt, "tokens": tokens, "draws": draws, "withheld": 0.0}
        for doubt, tokens, draws in ((0.1, 12.0, 1.0), (0.5, 30.0, 2.5), (0.9, 44.0, 3.0))
    ]
    with styled():
        figure: Any = draw_doubt(groups)
        tokens, draws = figure.axes
        assert tokens.lines[0].get_xydata().tolist() == [[0.1, 12.0], [0.5, 30.0], [0.9, 44.0]]
        assert draws.lines[0].get_ydata().tolist() == [1.0, 2.5, 3.0]
    assert draw_doubt(groups[:1]) is None


def grouped(budget, carers, traders, **more):
    by_group = {
        "carers": {"cvar_0.1": interval(carers)},
        "traders": {"cvar_0.1": interval(traders)},
    }
    return limit(budget, 1.0, 0.0, raters="worst", rater_metrics=by_group, **more)


def test_a_limit_for_each_group_is_kept_where_all_are():
    kept, broken = grouped(0.5, 0.4, -0.2), grouped(0.5, 0.9, -0.2)
    assert [is_kept(row) for row in (kept, broken)] == [True, False]
    assert is_kept(grouped(0.5, 0.4, 0.2, measured_by="scorer")) is None
    table = rater_table([BASE, kept])
    assert table == [
        {
            "policy": "dial ≤0.5",
            "carers": "0.40 [0.35, 0.45]",
            "traders": "-0.20 [-0.25, -0.15]",
            "bears the most": "carers",
        }
    ]
    trained: Any = {**row("each", "trained", 1.0, 0.0), "budget": -5.0, "raters": "worst"}
    trained |= {"measure": "cvar", "tail_mass": 0.1}
    assert not any("budget" in found.text for found in find_all([BASE, trained]))
