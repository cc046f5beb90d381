"""The page of `certificates.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def page(found: Mapping[str, Any]) -> str:
    """All tables in Markdown."""
    settings = found["settings"]
    lines = [
        "# Certificates",
        "",
        "`python benchmarks/certificates.py --run out/sandbox`:"
        f" {settings['prompts']} prompts x {settings['draws']} draws, 600 to calibrate,"
        f" {settings['repetitions']} repetitions, confidence .95. Written by the program.",
        "",
        "## Coverage and looseness",
        "",
        "Looseness: (bound − true)/(true − mean). *Ours* takes its thresholds from the costs before;"
        " *fixed threshold* from the calibration prompts. Strict, middle and loose are places of the"
        " dial.",
        "",
    ]
    lines += table(
        ["entry", "α", "n", "bound", "true CVaR", "mean of bounds", "coverage", "looseness"],
        [
            [row["entry"], f"{row['alpha']:g}", row["n"], row["way"], f"{row['true']:.2f}",
             f"{row['bound']:.2f}", f"{row['coverage']:.1%}", f"{row['looseness']:.2f}"]
            for row in found["bounds"]
        ],
    )  # fmt: skip
    lines += [
        "",
        "## Fixed sequence over the dial",
        "",
        "Five entries from strict to loose, certified on the same prompts; asked just below the true"
        " risk of each. The claim is for one request: at most 5%. *At any* counts a repetition in"
        " which some request of the five would be shown something false.",
        "",
    ]
    lines += table(
        ["by", "n", "false at the worst limit", "at any", "some bound wrong",
         "shown at its own budget, strict to loose"],
        [
            [row["by"], row["n"], f"{row['wrong_at_worst_limit']:.1%}",
             f"{row['wrong_at_any_limit']:.1%}", f"{row['any_bound_wrong']:.1%}",
             ", ".join(f"{share:.0%}" for share in row["shown_at_own_budget"])]
            for row in found["sequence"]
        ],
    )  # fmt: skip
    lines += [
        "",
        "## End to end",
        "",
        f"{settings['runs']} times: calibrate on 600 prompts, answer a limit on CVaR(.1), certify on"
        " others. *Margin*: standard errors that are added to a measured risk (`dial.margin`). *Shown*:"
        " the bound is within d (by the scorer `bounded`, by the judge `certified`). *Broken*: its risk"
        " over all prompts that did not calibrate is above d.",
        "",
    ]
    lines += table(
        ["by", "d", "n", "margin", "within reach", "shown", "covers", "withheld", "broken", "reward"],
        [
            [row["by"], f"{row['budget']:g}", row["n"], f"{row['margin']:g}",
             *(f"{row[key]:.1%}" for key in ("reached", "shown", "covers", "withheld", "broken")),
             f"{row['reward']:.2f}"]
            for row in found["end_to_end"]
        ],
    )  # fmt: skip
    if "labels" in found:
        lines += labels(found["labels"])
    return "\n".join(lines) + "\n"


FLOOR = (
    "500 labels are not worth 2,000, wherever they are drawn. Harm of mass p among answers that are"
    " labelled with probability q goes unseen with probability (1 − pq)ⁿ, so *every* valid bound has the"
    " floor (B − ν)/α · log(1/δ)/(n · min q), and n · min q is at most the number of labels. At a range"
    " of 10 that floor is the looseness; drawing labels elsewhere raises it. Where the range is small"
    " enough for variance to decide, a choice by doubt gains a part of the way."
)


def labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The part on dear labels."""
    head = ["entry", "judge's range", "labels", "true CVaR", "mean of bounds", "coverage", "looseness"]  # fmt: skip
    return ["", "## Fewer labels", "", *table(head, [
        [row["entry"], f"{row['range']:g}", row["way"], f"{row['true']:.2f}", f"{row['bound']:.2f}",
         f"{row['coverage']:.1%}", f"{row['looseness']:.2f}"]
        for row in rows
    ]), "", FLOOR]  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table in Markdown."""
    body = [f"| {' | '.join(map(str, row))} |" for row in [head, *rows]]
    return [body[0], "|" + "---|" * len(head), *body[1:]]
