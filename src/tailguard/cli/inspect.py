"""The command that shows an artifact or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="An artifact, or the folder of a run.")
    ],
) -> None:
    """Show what an artifact is, what it was made from, and its figures; printed as JSON.

    Of a decoder, also every certificate that was ever asked for.
    """
    import json
    from dataclasses import asdict

    from tailguard.artifacts import Json, read_calls, read_index, read_manifest
    from tailguard.artifacts.manifest import RUN_INDEX_NAME

    index = artifact / RUN_INDEX_NAME
    shown: dict[str, Json] = (
        dict(read_index(artifact)) if index.is_file() else asdict(read_manifest(artifact))
    )
    # In a run's folder, of its decoder.
    decoder = artifact / shown["Decoder"] if "Decoder" in shown else artifact
    if calls := read_calls(decoder):
        shown |= {"num_calls": len(calls), "calls": calls}
    typer.echo(json.dumps(shown, indent=1))
