"""Commands that make artifacts, and the command that shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import typer

from tailguard.cli.check import brief, brief_estimates
from tailguard.cli.options import (
    DeviceOption,
    OutOption,
    RecipeArgument,
    SetOption,
    with_device,
)
from tailguard.pipeline.stage_names import STAGE_SUMMARIES, stages_up_to

_SKIPPED = "The stages that it needs run first; stages whose artifact exists are skipped."
_WITHOUT_MODELS = {"prepare", "plan", "report"}
_SHORT_STAGES = {"prepare", "sample", "bank", "plan"}


def demo(out: OutOption = None, device: DeviceOption = None) -> None:
    """Run the whole chain on the sandbox assistant, in a few minutes on two cores."""
    from importlib.resources import files

    recipe = Path(str(files("tailguard.config") / "demo.yaml"))
    _run(recipe, with_device(None, device), out or Path("out/demo"), "report")


def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Run all stages of a recipe; stages whose artifact exists are skipped."""
    _run(recipe, with_device(overrides, device), out or Path("out") / recipe.stem, "report")


def add_stage_commands(app: typer.Typer) -> None:
    """Add one command per stage; it also runs the stages that it needs."""
    for name, text in STAGE_SUMMARIES.items():
        app.command(name, help=f"{text}\n\n{_SKIPPED}", short_help=text)(_stage_command(name))


def _stage_command(name: str) -> Callable[..., None]:
    def command(
        recipe: RecipeArgument,
        overrides: SetOption = None,
        out: OutOption = None,
        device: DeviceOption = None,
    ) -> None:
        _run(recipe, with_device(overrides, device), out or Path("out") / recipe.stem, name)

    return command


def _run(recipe_path: Path, overrides: list[str], out: Path, until: str) -> None:
    from tailguard.artifacts import read_json
    from tailguard.artifacts.manifest import RUN_INDEX_NAME
    from tailguard.cli.show import print_table, progress_bars
    from tailguard.config import load_recipe
    from tailguard.pipeline.inventory import take_inventory
    from tailguard.pipeline.requirements import check_requirements
    from tailguard.pipeline.workers import warm_up

    # Schema, keys against each other, files and sizes, in this order: whatever is wrong in them is
    # refused before torch is loaded or a worker starts.
    recipe = load_recipe(recipe_path, overrides)
    stages = stages_up_to(until)
    check_requirements(recipe, stages)
    inventory = take_inventory(recipe)
    started = time.perf_counter()
    with progress_bars() as bars:
        bars.line(f"{recipe.name}: {brief(inventory)}")
        bars.line("loading libraries")
        # Worker processes load their libraries while this one loads its own. A command that ends
        # early may need none: there `run_chain` starts them.
        if until not in _SHORT_STAGES:
            warm_up()
        from tailguard.models.quiet import quiet_libraries
        from tailguard.pipeline.chain import STAGES, run_chain
        from tailguard.pipeline.forecast import forecast_stages

        quiet_libraries()
        # What was made for another recipe in this folder counts as made: a guess, until the chain looks.
        index = out / RUN_INDEX_NAME
        there: dict[str, str] = read_json(index) if index.is_file() else {}
        left = [
            name for name, stage in STAGES.items() if name in stages and stage.kind not in there
        ]
        needs_models = set(left) - _WITHOUT_MODELS
        # With given scorers `fit-scorers` runs no policy, so that nothing may be left to tell.
        if needs_models and (estimates := forecast_stages(recipe, inventory, left)):
            bars.line(brief_estimates(estimates))

        def on_stage(name: str, path: Path, skipped: bool) -> None:
            seconds = time.perf_counter() - started
            bars.line(
                f"{seconds:7.1f} s  {name:<12} {path}{' (exists; skipped)' if skipped else ''}"
            )
            for note in _notes(path):
                bars.line(f"           note: {note}")

        made = run_chain(recipe, out, until=until, progress=bars, on_stage=on_stage)
    if until == "plan":
        from tailguard.pipeline.stages.plan import frontier_rows

        print_table(frontier_rows(made["plan"]), title=f"{recipe.name}: reward-tail frontier")
    if until != "report":
        typer.echo(made[until])
        return
    from tailguard.evaluation.report.table import table_rows
    from tailguard.pipeline.stages.report import read_verdict, record_rows

    print_table(table_rows(record_rows(made["evaluate"])), title=recipe.name)
    if said := read_verdict(made["report"]):
        typer.echo(said)
    typer.echo(f"report: {made['report'] / 'report.html'}")
    typer.echo(f"decoder: {made['calibrate']}")


def _notes(directory: Path) -> list[str]:
    """What a user should know of what a stage made, one line each."""
    from tailguard.artifacts.manifest import MANIFEST_NAME, read_manifest

    if not (directory / MANIFEST_NAME).is_file():
        return []
    return read_manifest(directory).metrics.get("notes", [])
