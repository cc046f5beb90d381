"""The manifest: what an artifact is, what it was made from, what it measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tailguard.artifacts.text import Json, read_json, write_json
from tailguard.errors import InputError

SCHEMA_VERSION = 1  # of the manifest's layout; a stage's own version is in its Stage
MANIFEST_NAME = "manifest.json"
RUN_INDEX_NAME = "run.json"
CALLS_NAME = "calls.jsonl"  # what was done with an artifact since it was sealed


@dataclass(frozen=True)
class Manifest:
    """What is in ``manifest.json``.

    Attributes:
        kind: what the artifact is, e.g. ``SampleBank``.
        stage: the command that made it.
        id: hash of config, parents, inputs and stage version; the same id means the same payload.
        payload_hash: hash of every payload file's name and bytes.
        parents: role → directory name and id of the artifacts that it was made from.
        inputs: label → content hash of the raw files that it was made from.
        config: the part of the recipe that the stage read.
        versions: library versions, for the record; they do not enter the id.
        metrics: figures, timings included.
        schema: version of this layout.
    """

    kind: str
    stage: str
    id: str
    payload_hash: str
    parents: dict[str, dict[str, str]] = field(default_factory=lambda: {})
    inputs: dict[str, str] = field(default_factory=lambda: {})
    config: dict[str, Json] = field(default_factory=lambda: {})
    versions: dict[str, str] = field(default_factory=lambda: {})
    metrics: dict[str, Json] = field(default_factory=lambda: {})
    schema: int = SCHEMA_VERSION

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


_manifest = TypeAdapter(Manifest)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, atomically."""
    write_json(directory / MANIFEST_NAME, asdict(manifest))


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of an artifact.

    Raises:
        InputError: no manifest (half-written or not an artifact) or one of another schema.
    """
    if not (directory / MANIFEST_NAME).is_file():
        raise InputError(
            f"{directory}: not an artifact (no {MANIFEST_NAME}); give a folder made by tailguard"
        )
    fields = read_json(directory / MANIFEST_NAME)
    if (
        not isinstance(fields, dict)
        or cast("dict[str, Json]", fields).get("schema") != SCHEMA_VERSION
    ):
        raise InputError(
            f"{directory / MANIFEST_NAME}: not a manifest of schema {SCHEMA_VERSION};"
            " make the artifact again with this version of tailguard"
        )
    try:
        return _manifest.validate_python(fields)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise InputError(f"{directory / MANIFEST_NAME}: {where}: {found['msg']}") from None


def read_index(root: Path) -> dict[str, str]:
    """Kind → folder name of the latest artifact of that kind in a run's folder.

    Raises:
        InputError: no index, or one that names anything but a folder beside it.
    """
    names = read_json(root / RUN_INDEX_NAME)
    if not isinstance(names, dict):
        raise InputError(f"{root / RUN_INDEX_NAME}: not a run's index; run the recipe again")
    for kind, name in cast("dict[str, Json]", names).items():
        # A downloaded run must not send us elsewhere.
        inside = isinstance(name, str) and Path(name).name == name and name not in ("", "..")
        if not inside or "\0" in name:
            raise InputError(
                f"{root / RUN_INDEX_NAME}: {kind}: {name!r} is not a folder beside it; run the recipe"
                " again"
            )
    return cast("dict[str, str]", names)


def find_artifact(path: Path, kind: str) -> Path:
    """The directory of an artifact of this kind: ``path`` itself, or the one in a run's folder.

    Raises:
        InputError: there is none, or it is of another kind.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a {kind} or the --out folder of a run")
    # A run's folder keeps artifacts of earlier recipes too; the index names those of the last run.
    index = path / RUN_INDEX_NAME
    if index.is_file() and not (path / MANIFEST_NAME).is_file():
        names = read_index(path)
        if kind not in names:
            raise InputError(f"{path}: this run has no {kind} yet; finish it with `tailguard run`")
        path = path / names[kind]
    manifest = read_manifest(path)
    if manifest.kind != kind:
        raise InputError(f"{path}: is a {manifest.kind}, but a {kind} is needed here")
    return path
