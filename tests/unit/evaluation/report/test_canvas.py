"""Nothing that a figure shows lies outside its canvas, whatever the policies are called."""

from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from tailguard.evaluation.report import figures
from tailguard.evaluation.report.figure_style import Room, further_inches, to_png, wrapped
from tailguard.evaluation.report.figures import draw_figures

TAIL_MASSES = (0.05, 0.1, 0.25, 1.0)
NAMES = {
    "short": ("base", "cvar-10", "cvar-25", "cvar-10+guided ≤-0.41"),
    "many words": (
        "base",
        "a careful policy that was given a long name",
        "another policy that was given a longer name",
        "a careful policy that was given a long name+guided at 0.05 ≤-0.41",
    ),
    "no blanks": ("b" * 70, "c" * 150, "policy_" * 20, "c" * 150 + "+guided"),
    "wide letters": ("W" * 40, "M" * 90, "W" * 70, "M" * 90 + "+guided"),
}


def interval(estimate):
    return {"estimate": estimate, "lower": estimate - 0.1, "upper": estimate + 0.1}


def row(name, kind, tail, **more):
    found = {f"cvar_{a:g}": interval(tail * (1 - a)) for a in TAIL_MASSES}
    found |= {key: interval(0.2) for key in ("reward", "cost", "unsafe_rate", "benign_refusals")}
    return {"name": name, "kind": kind, "metrics": found, "scorer_metrics": found} | more


def record_of(names) -> Any:
    generator = np.random.default_rng(0)
    base, first, second, guided = names
    return {
        "rows": [
            row(base, "base", 1.0),
            row(first, "trained", 0.2, measure="cvar", tail_mass=0.1, budget=0.25),
            row(second, "trained", 0.4),
            row(guided, "dial", -0.1),
        ],
        "costs": {name: generator.standard_normal(50) for name in names},
        "frontier": [
            {"tail_mass": a, "risk": risk, "reward": 1 + risk, "effective_sample_size": 20.0}
            for a in TAIL_MASSES
            for risk in (0.1, 0.5, 0.925)
        ],
        "reference": {"reward": 1.2, **{f"cvar_{a}": 0.925 for a in TAIL_MASSES}},
        "curves": {
            name: [
                {"multiplier": k, "threshold": 1e4 * k, "violation": -k, "kl": 1e-4 * k}
                for k in range(3)
            ]
            for name in (first, second)
        },
    }


def canvases(record):
    """Each figure that draw_figures makes, by its name, kept before it is thrown away."""
    kept = []

    def keep(figure):
        kept.append(figure)
        return to_png(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "to_png", keep)
        drawn = draw_figures(record)
    return {figure.name: canvas for figure, canvas in zip(drawn, kept, strict=True)}


@pytest.fixture(scope="module", params=NAMES.values(), ids=list(NAMES))
def drawn(request):
    return request.param, canvases(record_of(request.param))


def test_everything_drawn_lies_on_the_canvas(drawn):
    _, made = drawn
    assert set(made) == {"policies", "frontier", "tails", "costs", "training"}
    for name, figure in made.items():
        box = figure.get_tightbbox(figure.canvas.get_renderer())  # inches, of all that is drawn
        width, height = figure.get_size_inches()
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, name


def test_titles_and_legends_do_not_cover_each_other(drawn):
    for name, figure in drawn[1].items():
        renderer = figure.canvas.get_renderer()
        titles = [axis.title.get_window_extent(renderer) for axis in figure.axes if axis.axison]
        legends = [legend.get_window_extent(renderer) for legend in figure.legends]
        boxes = [box for box in (*titles, *legends) if box.width > 0]
        for k, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:k]), name


def test_names_are_whole(drawn):
    names, made = drawn
    for figure_name, figure in made.items():
        shown = {
            text.get_text().replace("\n", "").replace(" ", "") for text in figure.findobj(Text)
        }
        asked = names[1:3] if figure_name == "training" else names
        assert {name.replace(" ", "") for name in asked} <= shown, figure_name


def test_the_plan_alone():
    record = record_of(NAMES["short"])
    (figure,) = canvases({key: record[key] for key in ("frontier", "reference")}).values()
    for axis in figure.axes:
        cross = [line for line in axis.lines if line.get_marker() == "x"]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in cross] == [(0.925, 1.2)]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["planned", "base on the bank"]


def test_wrapping():
    assert wrapped("cvar-10", Room(2.0, 10.0)) == "cvar-10"
    assert wrapped("a b", Room(0.1, 10.0)) == "a\nb"
    assert wrapped("", Room(1.0, 10.0)) == ""
    assert wrapped("WWW", Room(0.01, 10.0)) == "WWW"  # no width is enough
    assert further_inches(["a b", "a"], Room(0.1, 72.0 / 1.25)) == 0.0
    assert further_inches(["a b", "a"], Room(0.9, 72.0 / 1.25)) == pytest.approx(1.0)
    assert further_inches([], Room(1.0, 10.0)) == 0.0
