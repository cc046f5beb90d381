"""``report``: EvalRecord → HTML, JSON and PNG."""

from __future__ import annotations

from pathlib import Path

from tailguard.artifacts import Json, read_json
from tailguard.config import Recipe
from tailguard.data.table import read_table
from tailguard.evaluation.record import Record, Row
from tailguard.evaluation.report.page import NUMBERS_NAME, write_report
from tailguard.pipeline.plan_artifact import read_plan
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.evaluate import COSTS_NAME, read_record
from tailguard.pipeline.stages.portfolio import PORTFOLIO_NAME
from tailguard.pipeline.stages.train import CURVES_NAME, ROUNDS_NAME, policy_directories

REPORT_NAME = "report.html"


def _config(recipe: Recipe) -> dict[str, Json]:
    return {"name": recipe.name}


def _build(work: Work) -> dict[str, Json]:
    plan = read_plan(work.parents["plan"])
    record: Record = {
        **read_record(work.parents["evaluate"]),
        "title": work.recipe.name,
        "settings": _settings(work.recipe),
        "costs": read_table(work.parents["evaluate"] / COSTS_NAME),
        "frontier": plan.frontier,
        "reference": plan.reference,
        "curves": {
            name: read_json(directory / CURVES_NAME).get("rloo", [])
            for name, directory in policy_directories(work.parents["train"]).items()
        },
        "regret": _regret(work.parents["portfolio"]) | _rounds(work.parents["train"]),
    }
    write_report(record, work.directory)
    return {}


STAGE = Stage(
    "report",
    "Report",
    6,
    ("plan", "train", "portfolio", "evaluate"),
    _config,
    lambda recipe: {},
    _build,
)


def read_verdict(report: Path) -> str:
    """The two sentences that a report opens with; empty where nothing is served."""
    return str(read_json(report / NUMBERS_NAME)["verdict"])


def record_rows(evaluation: Path) -> list[Row]:
    """The rows of an EvalRecord, one per policy or decoder."""
    return list(read_record(evaluation).get("rows") or ())


def _settings(recipe: Recipe) -> dict[str, Json]:
    """What a reader of the page wants to know of the recipe; all of it is in the manifests."""
    return {
        "reference policy": Path(recipe.policy.model).name,
        "data": recipe.data.source,
        "price of a nat (β)": recipe.plan.kl_coef,
        "answers per prompt in the bank": recipe.bank.num_samples,
        "draws per prompt of the dial": recipe.dial.num_draws,
        "seed": recipe.seed,
    }


def _regret(portfolio: Path) -> dict[str, Json]:
    content = read_json(portfolio / PORTFOLIO_NAME)
    heads = content["heads"] or {"why_none": "dial.heads is false"}
    told = heads.get("why_none") or f"after {', '.join(map(str, heads['checkpoints']))} tokens"
    return {
        "members": content["members"],
        "points measured": len(content["points"]),
        "process heads": told,
    }


def _rounds(policy_set: Path) -> dict[str, Json]:
    found = read_json(policy_set / ROUNDS_NAME)
    if not found:
        return {}
    kept = [each["member"] for each in found["rounds"] if each["kept"]]
    return {
        "rounds of training on": f"{len(found['rounds'])}, kept {', '.join(kept) or 'none'}",
        "held-out regret, before and after": f"{found['first_regret']:.2f} → {found['regret']:.2f}",
    }
