"""What a stage is: which part of the recipe it reads, what it makes from what."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from pydantic import BaseModel

from tailguard.artifacts import Header, Json, build_artifact
from tailguard.config import Recipe


@runtime_checkable
class Progress(Protocol):
    """Shows that something is under way. Calls are cheap enough to make at every step."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps of ``what`` are done."""
        ...


Settings = TypeVar("Settings")


def settings_of(kind: Callable[..., Settings], section: BaseModel, **given: object) -> Settings:
    """A settings class of an algorithm, filled from the recipe's keys of the same names.

    So an option reaches its effect in two files: the recipe's section, and the class whose field of
    that name is used. Keys that the class does not have are not for it.

    Args:
        kind: the class, such as `RLOOSettings`.
        section: of the recipe.
        **given: fields that the section has under other names, or not at all.
    """
    shared = inspect.signature(kind).parameters.keys() & type(section).model_fields.keys()
    return kind(**{name: getattr(section, name) for name in shared} | given)


def numpy_generator(recipe: Recipe, purpose: str) -> np.random.Generator:
    """Randomness for one purpose, decided by the recipe's seed and nothing else."""
    # A stream for each purpose: a draw added for one leaves the others as they were. CRC-32 and not
    # hash(), which differs from process to process.
    return np.random.default_rng([recipe.seed, zlib.crc32(purpose.encode())])


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True)
class Work:
    """Everything a stage is given.

    Attributes:
        recipe: checked.
        root: the run's folder, where artifacts made on the way are put.
        directory: the empty folder to write the payload to.
        parents: stage name → directory of what it made.
        progress: where to say how far it is.
    """

    recipe: Recipe
    root: Path
    directory: Path
    parents: Mapping[str, Path]
    progress: Progress

    def numpy_generator(self, purpose: str) -> np.random.Generator:
        """Randomness for one purpose, decided by the recipe's seed and nothing else."""
        return numpy_generator(self.recipe, purpose)

    def seed(self, purpose: str) -> int:
        """A seed for libraries that take an integer."""
        return int(self.numpy_generator(purpose).integers(2**31))

    def steps(self, what: str) -> Callable[[int, int], None]:
        """Progress of one named thing, as (done, total)."""
        return lambda done, total: self.progress(what, done, total)


@dataclass(frozen=True)
class Stage:
    """One link of the chain.

    Attributes:
        name: its command.
        kind: what it makes.
        version: raised whenever the same inputs would give another payload.
        parents: the stages whose artifacts it reads.
        config: the part of the recipe that it reads; nothing else may change what it makes.
        inputs: label → content hash of raw files that it reads.
        build: makes the payload and returns the metrics.
    """

    name: str
    kind: str
    version: int
    parents: tuple[str, ...]
    config: Callable[[Recipe], dict[str, Json]]
    inputs: Callable[[Recipe], dict[str, str]]
    build: Callable[[Work], dict[str, Json]]

    def run(
        self, recipe: Recipe, root: Path, made: Mapping[str, Path], progress: Progress
    ) -> tuple[Path, bool]:
        """Make the artifact unless it exists: its directory, and whether it existed already."""
        parents = {name: made[name] for name in self.parents}
        header = Header(
            kind=self.kind,
            stage=self.name,
            version=self.version,
            config={"seed": recipe.seed, **self.config(recipe)},  # every stage may draw
            parents=parents,
            inputs=self.inputs(recipe),
        )
        return build_artifact(
            root,
            header,
            lambda directory: self.build(Work(recipe, root, directory, parents, progress)),
        )
