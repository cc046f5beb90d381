"""Runs of the chain as a user starts them, and what must hold of their folders."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

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

    def start(self, out: Path, stage: str = "run") -> Running:
        """Start it."""
        sets = [part for item in self.overrides for part in ("--set", item)]
        command = [*self.program, stage, str(self.recipe), *sets, "--out", str(out)]
        return Running(command, out.with_name(f"{out.name}.{stage}"))

    def finish(self, out: Path, stage: str = "run") -> str:
        """Run it to its end, and give what it printed."""
        return self.start(out, stage).end()


class Running:
    """A started command; what it prints goes to files, so that it never waits for us."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._printed, self._said = log.with_suffix(".out"), log.with_suffix(".err")
        self._began = time.perf_counter()
        with self._printed.open("w") as out, self._said.open("w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._began

    def spent_seconds(self) -> float:
        """Of processor time, which other programs do not stretch; where unknown, of the clock."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return self.seconds()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def poll(self) -> Iterator[float]:
        """Processor time every few milliseconds, as long as it runs."""
        while self.process.returncode is None:
            yield self.spent_seconds()
            time.sleep(0.02)
            self.process.poll()

    def end(self) -> str:
        """What it printed, once it is over.

        Raises:
            ChainError: it failed.
        """
        status = self.process.wait()
        if status:
            said = self._said.read_text()[-2000:]
            raise ChainError(f"{self.process.args} ended with status {status}: {said}")
        return self._printed.read_text()

    def kill(self) -> None:
        """Kill it as the system does when memory is short."""
        self.process.kill()
        self.process.wait()


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
        one, other = cast("dict[str, Any]", expected), cast("dict[str, Any]", found)
        keys = sorted(key for key in {*one, *other} if "second" not in key)
        pairs = [(f"{where}.{key}", one.get(key), other.get(key)) for key in keys]
    elif isinstance(expected, list) and isinstance(found, list):
        ones, others = cast("list[Any]", expected), cast("list[Any]", found)
        both = zip_longest(ones, others)
        pairs = [(f"{where}.{place}", *values) for place, values in enumerate(both)]
    elif isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        close = abs(expected - found) <= TOLERANCE * max(1.0, abs(expected))
        return None if close else f"{where} is {found}, not {expected}"
    else:
        return None if expected == found else f"{where} is {found}, not {expected}"
    found_differences = (_difference(one, other, name) for name, one, other in pairs)
    return next((found for found in found_differences if found), None)
