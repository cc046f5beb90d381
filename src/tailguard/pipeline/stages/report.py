"""``report``: EvalRecord → HTML, JSON and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailguard.artifacts import read_json
from tailguard.config import Recipe
from tailguard.data.table import read_table
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.evaluate import COSTS_NAME, read_record
from tailguard.pipeline.stages.plan import read_plan
from tailguard.pipeline.stages.portfolio import PORTFOLIO_NAME
from tailguard.pipeline.stages.train import CURVES_NAME, policy_directories

REPORT_NAME = "report.html"


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"name": recipe.name}


def _build(work: Work) -> dict[str, Any]:
    from tailguard.evaluation.report.page import write_report  # loads what draws figures

    plan, _ = read_plan(work.parents["plan"])
    write_report(
        {
            **read_record(work.parents["evaluate"]),
            "title": work.recipe.name,
            "settings": _settings(work.recipe),
            "costs": read_table(work.parents["evaluate"] / COSTS_NAME),
            "frontier": plan["frontier"],
            "curves": {
                name: read_json(directory / CURVES_NAME).get("rloo", [])
                for name, directory in policy_directories(work.parents["train"]).items()
            },
            "regret": _regret(work.parents["portfolio"]),
        },
        work.directory,
    )
    return {}


STAGE = Stage(
    "report",
    "Report",
    2,
    ("plan", "train", "portfolio", "evaluate"),
    _config,
    lambda recipe: {},
    _build,
)


def record_rows(evaluation: Path) -> list[dict[str, Any]]:
    """The rows of an EvalRecord, one a policy or decoder."""
    return read_record(evaluation)["rows"]


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {
        "reference policy": Path(recipe.policy.model).name,
        "data": recipe.data.source,
        "price of a nat (β)": recipe.plan.kl_coef,
        "answers a prompt in the bank": recipe.bank.num_samples,
        "candidates a block": recipe.decoding.max_candidates,
        "tokens a block": recipe.decoding.block_tokens,
        "seed": recipe.seed,
    }


def _regret(portfolio: Path) -> dict[str, Any]:
    content = read_json(portfolio / PORTFOLIO_NAME)
    return {"members": content["members"], "held-out mean regret": content["held_out_regret"]}
