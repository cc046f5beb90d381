"""What a section of a recipe is, and the kinds of value that its keys take."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_LONGEST_PART = 255  # bytes, on every file system in use
_LONGEST_PATH = 4096  # bytes, Linux's limit

# What is listed or done one after the other: prompts, pairs, steps. More than a machine holds or a
# life lasts is a slip of the hand, and would only be found by running out of memory.
MOST = 10_000_000
# What each of those has several of, or what is held at once: samples, members, rows of a batch.
MOST_EACH = 100_000

# What is planned, trained, decoded or shown by itself: targets, budgets, decoders.
MOST_LISTED = 100
MOST_SEED = 2**32 - 1  # NumPy's and transformers' largest
# Beyond these, arithmetic overflows: a slip of the exponent.
_SMALLEST, LARGEST = 1e-9, 1e9


def _not_tiny(value: float) -> float:
    if value < _SMALLEST:
        raise ValueError(f"input should be at least {_SMALLEST:g}")
    return value


Fraction = Annotated[float, Field(gt=0, lt=1)]
# Below one half, a bound may be wrong more often than it is right.
Confidence = Annotated[float, Field(ge=0.5, lt=1)]
TailMass = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=LARGEST), AfterValidator(_not_tiny)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]  # 0 switches the thing off
# One measurement has no spread, so no interval either.
Sample = Annotated[int, Field(ge=2, le=MOST)]
CountEach = Annotated[int, Field(ge=1, le=MOST_EACH)]
SampleEach = Annotated[int, Field(ge=2, le=MOST_EACH)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


def possible_path(name: str) -> str:
    """The same name, if the system can have such a path; raises ``ValueError`` where not."""
    if "\0" in name:
        raise ValueError("holds the character '\\x00', which no path has")
    if len(os.fsencode(name)) > _LONGEST_PATH or any(
        len(os.fsencode(part)) > _LONGEST_PART for part in Path(name).parts
    ):
        raise ValueError("is longer than a path can be")
    try:
        Path(name).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no user {Path(name).parts[0].removeprefix('~')!r}") from None
    return name


def _not_empty(name: str) -> str:
    if not name:  # which would be the folder that names are relative to
        raise ValueError("is empty; give a path or a name")
    return name


# A path, or a name on the hub.
PathName = Annotated[str, AfterValidator(possible_path)]
GivenPath = Annotated[PathName, AfterValidator(_not_empty)]


def _device_name(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise ValueError(f"{name!r} is no device; give auto, cpu, cuda, cuda:N or mps")
    return name


# Left out of what stages' ids are made of: a run that goes on elsewhere uses what it has made.
Device = Annotated[str, Field(exclude=True), AfterValidator(_device_name)]
# YAML has lists and no tuples, and strict pydantic would refuse a list for a tuple.
Names = Annotated[tuple[GivenPath, ...], Field(strict=False)]


class Section(BaseModel):
    """A part of a recipe: frozen, strict about unknown keys and types; numbers are finite."""

    # Strict, because '64' or `yes` where a count belongs is a mistake. Frozen, because the id of an
    # artifact is a hash of the recipe. An infinite or NaN setting would only fail hours later.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
