"""JSON on disk: sorted, strict about NaN, replaced in one step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from tailguard.errors import InputError

# What a JSON file holds is known only where it is read, so this stays unchecked; readers say with
# a TypedDict or a dataclass what they expect.
Json: TypeAlias = Any


@runtime_checkable
class _Listable(Protocol):
    """NumPy arrays and scalars, and torch tensors, without importing either."""

    def tolist(self) -> Json: ...


def write_json(path: Path, value: object) -> None:
    """Write ``value`` so that a reader sees the old file or the new one, never half of it.

    Infinities become the strings ``"inf"`` and ``"-inf"``, NaN becomes null.
    """
    text = json.dumps(_plain(value), indent=1, sort_keys=True, allow_nan=False)
    partial = path.with_name(f".{path.name}.partial")  # hidden: no reader takes it for the file
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Renaming within a folder is atomic on POSIX: a reader sees the old file or the new one.
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Json:
    """Read a JSON file.

    Raises:
        InputError: it is not there or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read it ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # nested by the thousand, or no UTF-8
        raise InputError(f"{path}: not JSON ({error})") from None


def _plain(value: object) -> Json:
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): _plain(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("Iterable[object]", value)]
    if isinstance(value, _Listable):
        return _plain(value.tolist())
    # Strict JSON has no infinities and no NaN; other tools refuse a file with Python's spelling.
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
