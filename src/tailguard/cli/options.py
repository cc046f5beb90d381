"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe of the run.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe, e.g. bank.num_samples=32; may be repeated.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="auto (a GPU where CUDA has one, else the CPU), cpu, cuda, cuda:N or mps; for a recipe, "
        "in place of policy.device and scorers.device."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of the run; by default out/NAME."),
]


def with_device(overrides: list[str] | None, device: str | None) -> list[str]:
    """The overrides of a recipe, with ``--device`` as the last of them."""
    keys = () if device is None else ("policy.device", "scorers.device")
    return [*(overrides or []), *(f"{key}={device}" for key in keys)]
