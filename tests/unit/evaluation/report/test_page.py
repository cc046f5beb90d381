"""The report: everything written, everything escaped, figures that show the data."""

import base64
import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tailguard.evaluation.report.figure_costs import draw_costs, draw_tails
from tailguard.evaluation.report.figure_style import looks_of, styled
from tailguard.evaluation.report.figure_training import draw_training
from tailguard.evaluation.report.figures import draw_figures, draw_frontier, draw_policies
from tailguard.evaluation.report.page import write_report

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\" {{ 7 * 7 }}"


def interval(estimate, spread=0.1):
    return {"estimate": estimate, "lower": estimate - spread, "upper": estimate + spread}


def row(name, kind, reward, tail, **more) -> Any:
    metrics = {
        "reward": interval(reward),
        "cost": interval(tail / 4),
        "cvar_0.1": interval(tail),
        "unsafe_rate": interval(0.2, 0.05),
    }
    return {
        "name": name,
        "kind": kind,
        "metrics": metrics,
        "scorer_metrics": metrics,
        "tokens_per_answer": 25.0,
        "abstained_rate": 0.0,
    } | more


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on the record."""
    return write_report(full_record(), tmp_path_factory.mktemp("report") / "made")


@pytest.fixture(scope="module")
def page(made):
    return Page(made.read_text(encoding="utf-8"))


@pytest.fixture
def record():
    return full_record()


def axes_of(figure):
    assert figure is not None
    return figure.axes


def full_record() -> Any:
    generator = np.random.default_rng(0)
    rows = [
        row("base", "base", 0.5, 1.0, target="reference policy"),
        row("careful", "trained", 0.6, 0.2, tail_mass=0.1, budget=0.25, target="cvar at 0.1 ≤ .25"),
        row("dial ≤0.1", "dial", 0.5, -0.1, tail_mass=0.1, budget=0.1),
    ]
    return {
        "title": f"Run {HOSTILE}",
        "judge": {"name": f"the truth {HOSTILE}"},
        "num_prompts": 400,
        "settings": {"seed": 0, "plan": {"kl_coef": 0.25, "note": HOSTILE}},
        "rows": [
            each | {"rater_metrics": {"carers": each["metrics"], HOSTILE: each["metrics"]}}
            for each in rows
        ],
        "disagreements": [
            {"prompt": HOSTILE, "text": f"said {HOSTILE}", "costs": {"carers": 2.5, HOSTILE: -0.5}}
        ],
        "costs": {r["name"]: generator.standard_normal(400) for r in rows},
        "frontier": [
            {
                "tail_mass": 0.1,
                "budget": b,
                "reward": 1 + b,
                "risk": b,
                "kl": 0.5,
                "effective_sample_size": 5.0 + 40 * b,
            }
            for b in (0.8, 0.2, 0.5)
        ],
        "curves": {
            "careful": [
                {"step": 10 * i, "multiplier": 0.1 * i, "violation": 1.0 - i} for i in range(4)
            ]
        },
        "examples": [
            {
                "prompt": HOSTILE,
                "answers": [
                    {
                        "policy": HOSTILE,
                        "text": HOSTILE,
                        "reward": 1.0,
                        "cost": 0.5,
                        "abstained": True,
                        "reason": HOSTILE,
                    }
                ],
            }
        ],
        "certificates": [
            {"asked": HOSTILE, "scorer_bound": "inf", "bounded": True, "num_prompts": 40}
        ],
        "regret": {"mean": 0.02},
    }


class Page(HTMLParser):
    """Tags, their attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_files(made, page):
    names = {file.name for file in made.parent.iterdir()}
    figures = {"policies.png", "frontier.png", "tails.png", "costs.png", "training.png"}
    assert names == {"report.html", "report.json"} | figures
    embedded = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert {base64.b64decode(address.split(",")[1]) for address in embedded} == {
        (made.parent / name).read_bytes() for name in figures
    }
    assert all(address.startswith("data:image/png;base64,") for address in embedded)


def test_nothing_is_loaded_and_no_text_becomes_markup(page):
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert sum(tag == "img" for tag, _ in page.tags) == 5
    # title (twice), judge, a setting, a prompt, policy, reason and text of an answer, a certificate
    assert page.text.count(HOSTILE) == 14


def test_table_and_findings_come_first(page):
    text = page.text
    order = [
        text.index("tokens per answer"),
        text.index("careful: reward is"),
        text.index("Reward–tail frontier"),
        text.index("Example answers"),
    ]
    assert order == sorted(order)
    assert "careful meets its budget" in text


def test_all_images_have_words_and_the_page_fits_a_phone(page):
    assert all(attrs["alt"].strip() for tag, attrs in page.tags if tag == "img")
    assert ("html", {"lang": "en"}) in page.tags
    assert any("width=device-width" in attrs.get("content", "") for _, attrs in page.tags)


def test_json_is_the_record(record, made):
    written = json.loads((made.parent / "report.json").read_text(encoding="utf-8"))
    findings = written.pop("findings")
    costs = {name: values.tolist() for name, values in record["costs"].items()}
    assert written.pop("verdict") == ""  # it has no dial
    assert written == record | {"costs": costs}
    assert [f["verdict"] for f in findings] == ["good", "note", "good", "note", "good"]


def test_groups_have_a_table_and_where_they_differ(record, tmp_path):
    text = write_report(record, tmp_path / "groups").read_text(encoding="utf-8")
    assert "Whose tail?" in text
    assert "bears the most" in text
    assert "Show 1 answers on which groups differ most" in text
    without = record | {"rows": [each | {"rater_metrics": {}} for each in record["rows"]]}
    assert "Whose tail?" not in write_report(without, tmp_path / "no").read_text(encoding="utf-8")


def test_same_record_same_bytes(record, made, tmp_path):
    assert write_report(record, tmp_path).read_bytes() == made.read_bytes()


@pytest.mark.parametrize(
    "partial",
    [
        {},
        {"rows": [{"name": "base", "kind": "base"}]},
        {"costs": {"base": [0.0, 1.0]}},
        {"costs": {"base": [1.0, 1.0, float("nan")], "empty": []}},
        {"curves": {"p": [{}, {"multiplier": None}], "q": []}},
        {"frontier": [{"tail_mass": 0.1}]},
        {"examples": [], "certificates": [], "regret": {}, "settings": {}},
    ],
)
def test_whatever_is_missing(partial, tmp_path):
    assert "<h1>Evaluation</h1>" in write_report(partial, tmp_path).read_text(encoding="utf-8")


def test_intervals_with_infinite_ends(record, tmp_path):
    record["rows"][0]["metrics"]["cvar_0.1"] = {"estimate": 1.0, "lower": 0.5, "upper": "inf"}
    path = write_report({"rows": record["rows"]}, tmp_path)
    assert "[0.50, ∞]" in Page(path.read_text(encoding="utf-8")).text


def test_the_tail_is_marked_where_it_is(record):
    values = np.arange(200.0)  # the worst tenth is 180 … 199
    looks = looks_of(record["rows"])
    with styled():
        (panel,) = axes_of(draw_costs({"base": values}, looks))
        (curve,) = axes_of(draw_tails({"base": values}, looks))
    begins, mean = (float(np.unique(line.get_xdata())[0]) for line in panel.lines)
    assert mean == pytest.approx(189.5)
    assert 179 <= begins <= 180
    dark = [patch for patch in panel.patches if patch.get_alpha() is None]
    assert sum(patch.get_height() for patch in dark) == pytest.approx(0.1, abs=0.0051)
    marks = [line for line in curve.lines if line.get_marker() == "s"]
    assert marks[0].get_xdata()[0] == pytest.approx(189.5)
    steps = curve.lines[0]
    above = steps.get_ydata()[steps.get_xdata() == 149.0]
    assert above == pytest.approx([0.25])  # 150 … 199 of 200


def test_frontier_is_drawn_in_order_with_measured_points(record):
    with styled():
        figure = draw_frontier(record["frontier"], record["rows"], looks_of(record["rows"]))
    (panel,) = axes_of(figure)
    planned = panel.lines[0]
    assert list(planned.get_xdata()) == [0.2, 0.5, 0.8]
    assert list(planned.get_ydata()) == [1.2, 1.5, 1.8]
    points = {line.get_label(): line for line in panel.lines}
    assert points["careful"].get_xdata()[0] == 0.2
    assert points["careful"].get_ydata()[0] == 0.6
    dotted = [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"]
    assert dotted == [0.25, 0.1]


def test_a_panel_for_each_metric_and_tail_mass(record):
    looks = looks_of(record["rows"])
    frontier = record["frontier"] + [p | {"tail_mass": 1.0} for p in record["frontier"]]
    with styled():
        titles = [axis.get_title() for axis in axes_of(draw_policies(record["rows"], looks))]
        panels = [
            axis.get_title() for axis in axes_of(draw_frontier(frontier, record["rows"], looks))
        ]
    assert titles == ["reward", "mean cost", "CVaR.1", "unsafe rate (%)"]
    assert panels == ["tail mass 0.1", "mean cost"]


def test_curves_of_one_or_several_constraints():
    curves = {
        "one": [{"multiplier": 0.5, "mean_reward": 1.0}, {"multiplier": 0.7}],
        "two": [{"multiplier_0": 0.1, "multiplier_1": 0.2, "multiplier_extra": 9.0}],
    }
    with styled():
        multiplier, reward = axes_of(draw_training(curves, looks_of([], list(curves))))[:2]
    assert [list(line.get_ydata()) for line in multiplier.lines] == [[0.5, 0.7], [0.1], [0.2]]
    assert list(multiplier.lines[0].get_xdata()) == [0, 1]
    assert reward.get_title() == "mean reward"


def test_every_row_has_a_look_of_its_own(record):
    looks = looks_of(record["rows"], ["careful", "another"])
    assert len({look.colour for look in looks.values()}) == 4
    assert len({looks[name].marker for name in ("base", "careful", "dial ≤0.1")}) == 3
    many = looks_of([row(f"p{i}", "trained", 0, 0) for i in range(30)])
    assert len(many) == 30


def test_figures_leave_no_settings_behind(record):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_figures({"rows": record["rows"]})
    assert dict(mpl.rcParams) == before
