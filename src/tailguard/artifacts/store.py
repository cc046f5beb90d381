"""Build an artifact in a hidden folder, hash it, seal it with its manifest, move it in place."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tailguard.artifacts.hashing import content_hash, files_below, hash_of
from tailguard.artifacts.manifest import (
    CALLS_NAME,
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    write_manifest,
)
from tailguard.artifacts.text import Json
from tailguard.errors import InputError

_LIBRARIES = ("tailguard", "numpy", "scipy", "torch", "transformers", "trl", "peft")


@dataclass(frozen=True)
class Header:
    """What an artifact is made from, known before it is made.

    Attributes:
        kind: what it is.
        stage: the command that makes it.
        version: the stage's code version: raised when its output changes.
        config: the part of the recipe that the stage reads.
        parents: role → manifest and directory of the artifacts that it reads.
        inputs: label → content hash of the raw files that it reads.
    """

    kind: str
    stage: str
    version: int
    config: dict[str, Json] = field(default_factory=lambda: {})
    parents: dict[str, Path] = field(default_factory=lambda: {})
    inputs: dict[str, str] = field(default_factory=lambda: {})

    def parent_ids(self) -> dict[str, str]:
        """Role → id of each parent."""
        return {role: read_manifest(path).id for role, path in self.parents.items()}

    def id(self) -> str:
        """Hash of everything that decides the payload."""
        return hash_of(
            [self.kind, self.stage, self.version, self.config, self.parent_ids(), self.inputs]
        )[:16]  # 64 bits: short enough for a folder's name, and no two of a run's will collide


def build_artifact(
    root: Path, header: Header, write: Callable[[Path], dict[str, Json]]
) -> tuple[Path, bool]:
    """Make the artifact under ``root`` unless the same one is there already.

    Args:
        root: the run's folder.
        header: what it is made from.
        write: fills an empty folder with the payload and returns the metrics.

    Returns:
        Its directory, and whether it was there already. If ``write`` fails, or the process
        dies, no directory of that name appears.

    Raises:
        InputError: the artifact is there, but its files were changed since.
    """
    identity = header.id()
    final = root / f"{header.stage}-{identity}"
    if final.is_dir():
        require_sealed(final)
        return final, True
    # Hidden, so that no reader takes it for an artifact; the rename at the end is one step.
    partial = root / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        started = time.perf_counter()
        metrics = write(partial)
        metrics["seconds"] = round(time.perf_counter() - started, 2)
        _flush(partial)
        manifest = Manifest(
            kind=header.kind,
            stage=header.stage,
            id=identity,
            payload_hash=payload_hash(partial),
            parents={
                role: {"directory": path.name, "id": read_manifest(path).id}
                for role, path in header.parents.items()
            },
            inputs=header.inputs,
            config=header.config,
            versions=_versions(),
            metrics=metrics,
        )
        write_manifest(partial, manifest)  # last: a folder without one is never read
        partial.rename(final)
    except BaseException:  # Ctrl-C too must not leave half an artifact
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final, False


def require_sealed(directory: Path) -> None:
    """Refuse an artifact whose files are not those that its manifest was written for.

    Raises:
        InputError: a file was changed, added or taken away, or there is no manifest.
    """
    sealed = (directory / MANIFEST_NAME).is_file()
    if not sealed or read_manifest(directory).payload_hash != payload_hash(directory):
        raise InputError(
            f"{directory}: its files are not those it was sealed with; delete the folder and run the"
            " same command again"
        )


def payload_hash(directory: Path) -> str:
    """Hash of every file of an artifact but its manifest and the record of calls.

    Raises:
        InputError: there are links in it: what they point to can change, or be elsewhere.
    """
    unsealed = (directory / MANIFEST_NAME, directory / CALLS_NAME)
    names = sorted(
        path.relative_to(directory).as_posix()
        for path in files_below(directory, links=False)
        if path not in unsealed
    )
    return hash_of([[name, content_hash(directory / name)] for name in names])


@contextmanager
def locked(root: Path) -> Generator[None]:
    """Hold the run's folder for this process alone; the lock dies with the process.

    What a process that was killed left half-written there is removed.

    Raises:
        InputError: another process holds it, or the folder cannot be made.
        OSError: the disk is full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / ".lock", os.O_CREAT | os.O_RDWR)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = error.strerror if isinstance(error, OSError) else error  # ValueError: a null byte
        raise InputError(f"--out {root}: cannot write there ({reason})") from None
    # The kernel drops this lock when the process ends however it ends: no stale lock files.
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"--out {root}: another tailguard is writing there; wait for it or give another --out"
        ) from None
    try:
        _sweep(root)
        yield
    finally:
        os.close(handle)


def _sweep(root: Path) -> None:
    """Remove half-written artifacts and files; nobody else writes here while we hold the lock."""
    for path in root.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _flush(directory: Path) -> None:
    """Force the payload to disk, so that a full or failing one reports its error before the manifest is written."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
