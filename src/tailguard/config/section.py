"""What a section of a recipe is, and the kinds of value that its keys take."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]
Confidence = Annotated[
    float, Field(ge=0.5, lt=1)
]  # below that a bound is more often wrong than right
TailMass = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]  # 0 switches the thing off
Sample = Annotated[int, Field(ge=2)]  # one measurement has no spread, so no interval either
# YAML has lists and no tuples, and strict pydantic would refuse a list for a tuple.
Names = Annotated[tuple[str, ...], Field(strict=False)]


class Section(BaseModel):
    """A part of a recipe: frozen, strict about unknown keys and types; numbers are finite."""

    # Strict, because '64' or `yes` where a count belongs is a mistake. Frozen, because the id of an
    # artifact is a hash of the recipe. An infinite or NaN setting would only fail hours later.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
