"""Runs of the chain as a user starts them, and what must hold of their folders."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailguard.artifacts import Manifest, read_json, read_manifest
from tailguard.artifacts.store import payload_hash

TOLERANCE = 1e-6


class ChainError(Exception):
    """What must never be seen was seen."""


@dataclass(frozen=True)
class Chain:
    """A command that fills a folder.

    Attributes:
        program: with its first arguments.
        recipe: path of the recipe.
        overrides: ``key=value`` for ``--set``.
    """

    program: tuple[str, ...]
    recipe: Path
    overrides: tuple[str, ...] = ()

    def start(self, out: Path, stage: str = "run") -> subprocess.Popen[str]:
        """Start it."""
        sets = [part for item in self.overrides for part in ("--set", item)]
        return subprocess.Popen(
            [*self.program, stage, str(self.recipe), *sets, "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, out: Path, stage: str = "run") -> tuple[float, str]:
        """Run it to its end: seconds, and what it printed."""
        started = time.perf_counter()
        with self.start(out, stage) as process:
            printed, said = process.communicate()
        if process.returncode:
            raise ChainError(f"{stage} ended with status {process.returncode}: {said[-2000:]}")
        return time.perf_counter() - started, printed


def read_artifacts(out: Path) -> dict[str, Manifest]:
    """Folder name → manifest of every folder that looks finished.

    Raises:
        ChainError: one is not sealed, or not what it was sealed as; or the run's index names one
            that is not there.
    """
    found: dict[str, Manifest] = {}
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        if not path.is_dir() or path.name.startswith("."):
            continue
        if not (path / "manifest.json").is_file():
            raise ChainError(f"{path}: looks finished but has no manifest")
        found[path.name] = read_manifest(path)
        if found[path.name].payload_hash != payload_hash(path):
            raise ChainError(f"{path}: sealed, but its payload is another")
    index: dict[str, str] = read_json(out / "run.json") if (out / "run.json").is_file() else {}
    for kind, name in index.items():
        if name not in found:
            raise ChainError(f"{out / 'run.json'}: says that {kind} is {name}, which is not sealed")
    return found


def half_written(out: Path) -> list[Path]:
    """Whatever is left of unfinished work."""
    return sorted(out.rglob("*.partial"))


def compare(expected: dict[str, Manifest], found: dict[str, Manifest]) -> dict[str, str]:
    """Folder name → ``same payload`` or ``same figures``.

    Raises:
        ChainError: other artifacts, or figures that differ by more than 1e-6.
    """
    if set(expected) != set(found):
        raise ChainError(f"other artifacts: {sorted(set(expected) ^ set(found))}")
    verdicts: dict[str, str] = {}
    for name, manifest in expected.items():
        if manifest.payload_hash == found[name].payload_hash:
            verdicts[name] = "same payload"
            continue
        difference = _difference(manifest.metrics, found[name].metrics)
        if difference is not None:
            raise ChainError(f"{name}: {difference}")
        verdicts[name] = "same figures"
    return verdicts


def _difference(expected: Any, found: Any, where: str = "metrics") -> str | None:
    """Where two values differ by more than the tolerance, timings aside."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = {key for key in {*expected, *found} if "second" not in str(key)}
        pairs = [(f"{where}.{key}", expected.get(key), found.get(key)) for key in sorted(keys)]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [
            (f"{where}.{k}", *both) for k, both in enumerate(zip(expected, found, strict=True))
        ]
    elif isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        close = abs(expected - found) <= TOLERANCE * max(1.0, abs(expected))
        return None if close else f"{where} is {found}, not {expected}"
    else:
        return None if expected == found else f"{where} is {found}, not {expected}"
    found_differences = (_difference(one, other, name) for name, one, other in pairs)
    return next((found for found in found_differences if found), None)
