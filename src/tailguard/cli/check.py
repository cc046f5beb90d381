"""The command that reads a recipe before it is run, and what `run` says first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tailguard.cli.options import DeviceOption, RecipeArgument, SetOption, with_device

if TYPE_CHECKING:
    from tailguard.config import Recipe
    from tailguard.pipeline.check import CertificateOutlook, Checked
    from tailguard.pipeline.estimate import StageEstimate
    from tailguard.pipeline.inventory import Inventory

_USES = {
    "train": "sampled from, planned and trained on",
    "calibrate": "acceptance levels are chosen on",
    "certify": "certificates are computed on",
    "evaluate": "the report is made on",
    "benign": "refusals are counted on",
}


def check(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="The last stage that will run; by default report, or plan where the recipe trains and"
            " guides nothing."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: DeviceOption = None,
) -> None:
    """Say what a recipe will do, take and need, and what is wrong with it; runs no stage.

    Exit status 0 if it can be run, 2 if it cannot.
    """
    import json
    from dataclasses import asdict

    from tailguard.config import load_recipe
    from tailguard.errors import InputError
    from tailguard.pipeline.check import check_recipe, last_stage
    from tailguard.pipeline.stage_names import STAGE_SUMMARIES, stages_up_to

    loaded = load_recipe(recipe, with_device(overrides, device))
    last = until or last_stage(loaded)
    if last not in STAGE_SUMMARIES:
        raise InputError(f"--until {last}: no such stage; give one of {', '.join(STAGE_SUMMARIES)}")
    stages = stages_up_to(last)
    found = check_recipe(loaded, stages)
    estimates: dict[str, StageEstimate] = {}
    # A model that would be refused is not loaded: that may take minutes.
    if found.inventory is not None and not found.problems:
        estimates = _forecast(loaded, found, stages)
    if as_json:
        content = {
            "runnable": not found.problems,
            "last_stage": last,
            "problems": found.problems,
            "notes": found.notes,
            "prompts": found.inventory and dict(found.inventory.num_prompts),
            "pairs": found.inventory and {k: dict(v) for k, v in found.inventory.num_pairs.items()},
            "certificate": asdict(found.certificate) if found.certificate else None,
            "stages": {name: asdict(estimate) for name, estimate in estimates.items()},
        }
        typer.echo(json.dumps(content, indent=1))
    else:
        _show(loaded, found, estimates)
        if not found.problems:
            command = "run" if last == "report" else last
            typer.echo(f"ready: tailguard {command} {recipe}")
    if found.problems:
        raise typer.Exit(2)


def brief(inventory: Inventory) -> str:
    """What a run starts from, in a line."""
    prompts = ", ".join(f"{num} {name}" for name, num in inventory.num_prompts.items() if num)
    pairs = ", ".join(f"{sum(roles.values())} {k}" for k, roles in inventory.num_pairs.items())
    return f"prompts: {prompts}" + (f"; pairs: {pairs}" if pairs else "")


def brief_estimates(estimates: Mapping[str, StageEstimate]) -> str:
    """What a run will take, in a line."""
    total = _total(estimates.values())
    each = ", ".join(f"{name} {_duration(e.seconds)}" for name, e in estimates.items())
    return f"about {_duration(total.seconds)} and {_size(total.num_bytes)} of memory: {each}"


def _total(estimates: Collection[StageEstimate]) -> StageEstimate:
    """One after the other: seconds and tokens add up, and the largest memory counts."""
    from tailguard.pipeline.estimate import StageEstimate

    return StageEstimate(
        seconds=sum(estimate.seconds for estimate in estimates),
        num_bytes=max(estimate.num_bytes for estimate in estimates),
        num_tokens=sum(estimate.num_tokens for estimate in estimates),
    )


def _forecast(recipe: Recipe, found: Checked, stages: Sequence[str]) -> dict[str, StageEstimate]:
    """Estimates, with what the pairs can show added to ``found``."""
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.forecast import direction_problems, forecast_stages

    assert found.inventory is not None
    quiet_libraries()
    if "fit-scorers" in stages:
        problems, notes = direction_problems(recipe, found.inventory)
        found.problems.extend(problems)
        found.notes.extend(notes)
    return forecast_stages(recipe, found.inventory, stages)


def _show(recipe: Recipe, found: Checked, estimates: Mapping[str, StageEstimate]) -> None:
    from tailguard.cli.show import print_table

    if found.inventory is not None:
        print_table(
            [
                {"split": name, "prompts": num, "what for": _USES[name]}
                for name, num in found.inventory.num_prompts.items()
            ],
            title=recipe.name,
        )
        pairs = found.inventory.num_pairs
        roles = sorted({role for counts in pairs.values() for role in counts})
        rows = [
            {"pairs": kind} | {role: counts.get(role, 0) for role in roles}
            for kind, counts in pairs.items()
        ]
        if rows:
            print_table(rows)
    if estimates:
        print_table(
            [
                {
                    "stage": name,
                    "tokens": f"{estimate.num_tokens:,.0f}",
                    "about": _duration(estimate.seconds),
                    "memory": _size(estimate.num_bytes),
                }
                for name, estimate in [*estimates.items(), ("all", _total(estimates.values()))]
            ]
        )
    # Decoders of one policy at one tail mass share their line.
    certificate = [_certificate(found.certificate)] if found.certificate else []
    for note in dict.fromkeys([*certificate, *found.notes]):
        typer.echo(f"note: {note}")
    for problem in found.problems:
        typer.echo(f"problem: {problem}")


def _certificate(outlook: CertificateOutlook) -> str:
    if outlook.looseness >= 1:
        return (
            f"certificate of the dial: nothing can be certified at α={outlook.tail_mass:g} on"
            f" {outlook.num_prompts} prompts; at confidence {outlook.confidence:.3g} they reach down to"
            f" α={outlook.smallest_tail_mass:.2g}: raise data.num_certification or the tail mass"
        )
    return (
        f"certificate of the dial: {outlook.num_prompts} prompts at confidence"
        f" {outlook.confidence:.3g} can certify CVaR at α ≥ {outlook.smallest_tail_mass:.2g}; at"
        f" α={outlook.tail_mass:g} the bound stands at least {outlook.looseness:.0%} of the way from"
        " the threshold to scorers.cost_bound: a budget nearer to it than that stays uncertified"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
