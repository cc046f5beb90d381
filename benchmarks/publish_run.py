"""Publish a finished run: its table as JSON and Markdown, and, with --readme, into the README.

    tailguard run recipes/sandbox.yaml --out out/sandbox
    python benchmarks/publish_run.py out/sandbox --readme

Writes ``benchmarks/results/NAME.json`` and ``NAME.md``; with ``--readme`` also
``docs/figures/NAME-dial.png`` and the part of the README between the two results marks.
"""

import argparse
import json
import os
import platform
import shutil
from pathlib import Path

import torch

from tailguard.artifacts import find_artifact, read_json, read_manifest
from tailguard.evaluation.report.dial_part import certificate_table
from tailguard.evaluation.report.table import markdown_table, table_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def main() -> None:
    """Parse the arguments and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the --out folder of a finished run")
    parser.add_argument("--readme", action="store_true", help="also put the table in the README")
    parser.add_argument("--note", default="", help="what the reader must know, above the tables")
    arguments = parser.parse_args()
    report = find_artifact(arguments.run, "Report")
    record = read_json(report / "report.json")
    name = read_manifest(report).config["name"]
    published = {
        "judge": record["judge"],
        "num_prompts": record["num_prompts"],
        "rows": record["rows"],
        "verdict": record["verdict"],
        "findings": record["findings"],
        "certificates": record["certificates"],
        "regret": record["regret"],
        "seconds": _seconds(arguments.run),
        "machine": _machine(),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(published, indent=1) + "\n")
    page = _page(record)
    note = f"> {arguments.note}\n\n" if arguments.note else ""
    (RESULTS / f"{name}.md").write_text(f"# {name}\n\n{note}{page}")
    if arguments.readme:
        figure = ROOT / "docs" / "figures" / f"{name}-dial.png"
        figure.parent.mkdir(exist_ok=True)
        shutil.copy(report / "dial.png", figure)
        _into_readme(record, figure.relative_to(ROOT))
    print(page)


def _page(record: dict) -> str:
    """Tables by the judge and by the training scorers, and the findings."""
    scored = table_rows(record["rows"], metrics="scorer_metrics")
    findings = "\n".join(f"- {_sentence(finding)}" for finding in record["findings"])
    return (
        f"{record['verdict']}\n\n{record['num_prompts']} prompts, one answer each; 95% intervals.\n\n"
        f"Judged by {record['judge']['name']}:\n\n{markdown_table(table_rows(record['rows']))}\n\n"
        f"By the scorers that training and guidance saw:\n\n{markdown_table(scored)}\n\n"
        f"{findings}\n\nCertificates:\n\n{markdown_table(certificate_table(record['certificates']))}\n"
    )


def _sentence(finding: dict | str) -> str:
    return finding if isinstance(finding, str) else str(finding.get("text", finding))


def _into_readme(record: dict, figure: Path) -> None:
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    block = (
        f"{BEGIN}\n![Tail, reward, tokens and share withheld against the budget asked for]({figure})\n\n"
        f"{record['verdict']}\n\n"
        f"{record['num_prompts']} prompts, one answer each, judged by {record['judge']['name']};"
        " 95% intervals. Larger cost is worse.\n\n"
        f"{markdown_table(table_rows(record['rows']))}\n{END}"
    )
    readme.write_text(before + block + after)


def _seconds(run: Path) -> dict[str, float]:
    """Stage → seconds it took, policies of ``train`` included in it."""
    names = [read_json(run / "run.json")[kind] for kind in read_json(run / "run.json")]
    found: dict[str, float] = {
        m.stage: m.metrics["seconds"] for m in (read_manifest(run / name) for name in names)
    }
    return found | {"total": float(round(sum(found.values()), 1))}


def _machine() -> dict[str, str | int | None]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
