"""The whole program on one page: the stages in order, and how they are run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tailguard.artifacts import locked, read_index, write_json
from tailguard.artifacts.manifest import RUN_INDEX_NAME
from tailguard.config import Recipe
from tailguard.errors import InputError
from tailguard.pipeline.requirements import check_requirements
from tailguard.pipeline.stage import Progress, Stage, silent
from tailguard.pipeline.stages import (
    bank,
    calibrate,
    evaluate,
    fit_scorers,
    plan,
    portfolio,
    prepare,
    report,
    sample,
    train,
)
from tailguard.pipeline.workers import warm_up

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        prepare.STAGE,
        fit_scorers.STAGE,
        sample.STAGE,
        bank.STAGE,
        plan.STAGE,
        train.STAGE,
        portfolio.STAGE,
        calibrate.STAGE,
        evaluate.STAGE,
        report.STAGE,
    )
}


def run_chain(
    recipe: Recipe,
    root: Path,
    *,
    until: str = "report",
    progress: Progress = silent,
    on_stage: Callable[[str, Path, bool], None] = lambda name, path, skipped: None,
) -> dict[str, Path]:
    """Run the stages up to one of them; what exists already is not made again.

    Args:
        recipe: checked.
        root: folder of the run.
        until: the last stage to run; only what it needs is run.
        progress: told of every step.
        on_stage: told of every finished stage: name, directory, and whether it existed already.

    Returns:
        Stage name → directory of its artifact.

    Raises:
        InputError: wrong input, or another process writes to ``root``.
        InfeasibleError: a budget that nothing reachable meets.
    """
    if until not in STAGES:
        raise InputError(f"no stage '{until}'; there are {', '.join(STAGES)}")
    made: dict[str, Path] = {}
    needed = _ancestors(until)
    check_requirements(recipe, needed)  # before hours of work that the last stage would refuse
    # These use worker processes, which load their libraries while the stages before them run.
    if needed & {"fit-scorers", "train"}:
        warm_up()
    with locked(root):
        for name, stage in STAGES.items():
            if name not in needed:
                continue
            made[name], skipped = stage.run(recipe, root, made, progress)
            _update_index(root, stage.kind, made[name])
            on_stage(name, made[name], skipped)
    return made


def _ancestors(name: str) -> set[str]:
    found = {name}
    for parent in STAGES[name].parents:
        found |= _ancestors(parent)
    return found


def _update_index(root: Path, kind: str, directory: Path) -> None:
    index = root / RUN_INDEX_NAME
    names = read_index(root) if index.is_file() else {}
    write_json(index, names | {kind: directory.name})
