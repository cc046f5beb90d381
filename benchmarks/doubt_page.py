"""The page of `doubt.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def page(found: dict[str, Any]) -> str:
    """As Markdown."""
    errors_, lines = found["errors"], ["# Doubt and shift", ""]
    lines += [
        f"`python benchmarks/doubt.py`. **Errors**: {errors_['pairs']:,} pairs of {errors_['prompts']}"
        " prompts, each judged by heads that saw no answer to its prompt; AUROC for wrong verdicts, with 95%"
        " intervals from resampled prompts.",
        "",
        "| heads | accuracy | ECE | entropy of the mean | −\\|mean margin\\| | spread | entropy less margin |"
        " entropy less spread |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("ours", "RewardUQ, MLP heads"):
        row = errors_[name]
        areas, less = row["auroc"], row["entropy less"]
        cells = [_interval(areas[k]) for k in ("entropy of the mean", "−|mean margin|", "spread")]
        cells += [_interval(less[k]) for k in ("−|mean margin|", "spread")]
        lines.append(f"| {name} | {row['accuracy']:.3f} | {row['ece']:.3f} | {' | '.join(cells)} |")
    lines += [
        "",
        "**Shift**: AUROC against usual answers, and the share that a limit flags which may flag",
    ]
    lines += [
        f"{found['rate']:.0%} of usual ones (set on half of these; the first row of each is the rest).",
        "",
    ]
    lines += ["| fitted on | asked about | answers | AUROC | flagged |", "|---|---|---|---|---|"]
    tables = {"Jigsaw comments": found["jigsaw"]}
    tables |= {f"sandbox without some domains, {k + 1}": t for k, t in enumerate(found["sandbox"])}
    for fitted, table in tables.items():
        for name, row in table.items():
            area = f"{row['auroc']:.3f} ± {row['error']:.3f}" if "auroc" in row else "–"
            number = row.get("answers", "–")
            lines.append(f"| {fitted} | {name} | {number} | {area} | {row['flagged']:.1%} |")
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"
