"""Columns to parquet and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow
import pyarrow.parquet as pq

from tailguard.errors import InputError

# pyarrow ships no types. A cell is what its writer put in: readers know which column holds what.
Cell: TypeAlias = Any
_arrow = cast(Cell, pyarrow)
_parquet = cast(Cell, pq)


def write_table(path: Path, columns: Mapping[str, Sequence[Cell] | np.ndarray]) -> None:
    """Write equally long columns (lists or 1-D arrays) as a parquet file."""
    _parquet.write_table(_arrow.table(dict(columns)), path)


def read_table(path: Path) -> dict[str, list[Cell]]:
    """Columns of a parquet file, as lists.

    Raises:
        InputError: it is not there or is not parquet.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path in the recipe")
    try:
        return _parquet.read_table(path).to_pydict()
    except (_arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not parquet ({error})") from None
