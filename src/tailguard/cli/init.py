"""The command that writes a first recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SCORER = (
    "a sequence classifier, module:function, or URL#MODEL; by default it is fitted on the pairs"
)


def init(
    model: Annotated[str, typer.Option(help="Folder or hub name of your model, any causal LM.")],
    prompts: Annotated[
        list[Path], typer.Option(help="A file of prompts (rows with 'prompt'); may be repeated.")
    ],
    cost: Annotated[str, typer.Option(help=f"What harm costs: {_SCORER}.")] = "",
    reward: Annotated[str, typer.Option(help=f"What help is worth: {_SCORER}.")] = "",
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of preferences; with safety labels it is for the cost, without for the reward."
            " May be repeated."
        ),
    ] = None,
    evaluation_prompts: Annotated[
        list[Path] | None,
        typer.Option(help="A file of prompts for the report, which nothing is fitted on."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the recipe.")] = False,
) -> None:
    """Write a short recipe for your own model and data; its sizes follow from what is there."""
    from tailguard.errors import InputError

    if out.exists() and not force:
        raise InputError(f"--out {out}: is there already; give another name, or --force")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}; make it first")
    from tailguard.pipeline.first_recipe import Given, first_recipe

    given = Given(model, prompts, reward, cost, pairs or (), evaluation_prompts or ())
    out.write_text(first_recipe(given, out.parent), encoding="utf-8")
    typer.echo(f"wrote {out}; next: tailguard check {out}")
