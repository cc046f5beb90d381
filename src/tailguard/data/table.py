"""Columns to parquet and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet as pq

from tailguard.errors import InputError, first_line

# pyarrow ships no types. A cell is what its writer put in: readers know which column holds what.
Cell: TypeAlias = Any
_arrow = cast(Cell, pyarrow)
_parquet = cast(Cell, pq)
_ipc = cast(Cell, pyarrow.ipc)


def write_table(path: Path, columns: Mapping[str, Sequence[Cell] | np.ndarray]) -> None:
    """Write equally long columns (lists or 1-D arrays) as a parquet file."""
    _parquet.write_table(_arrow.table(dict(columns)), path)


def read_table(path: Path) -> dict[str, list[Cell]]:
    """Columns of a parquet file, as lists.

    Raises:
        InputError: it is not there, is not parquet, or holds what cannot be read, with its row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        # Of this file alone: `read_table` would also take columns from the names of its folders.
        with _parquet.ParquetFile(path) as file:
            table = file.read()
        names: list[str] = table.column_names
    except (_arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: not parquet ({first_line(error)})") from None
    return _columns(path, names, table)


def read_arrow_stream(path: Path) -> dict[str, list[Cell]]:
    """Columns of a shard by ``datasets.save_to_disk``, as lists.

    Raises:
        InputError: it is not there, or is damaged.
    """
    try:
        # Through memory, and checked in full: a damaged file that is mapped ends the process.
        with _ipc.open_stream(path.read_bytes()) as stream:
            table = stream.read_all()
        table.validate(full=True)
        names: list[str] = table.column_names
    except (_arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: cannot read it ({first_line(error)})") from None
    return _columns(path, names, table)


def _columns(path: Path, names: Sequence[str], table: Cell) -> dict[str, list[Cell]]:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two columns are called '{name}'; keep one")
    return {name: _cells(path, name, table[name]) for name in names}


def _cells(path: Path, name: str, column: Cell) -> list[Cell]:
    try:
        return column.to_pylist()
    # Bytes that are no UTF-8 in a column of text, dates out of range.
    except (_arrow.ArrowException, ValueError, OverflowError, NotImplementedError):
        pass
    for row, cell in enumerate(column, start=1):
        try:
            cell.as_py()
        except (_arrow.ArrowException, ValueError, OverflowError, NotImplementedError) as error:
            reason = first_line(error)
            raise InputError(f"{path}, row {row}: cannot read '{name}' ({reason})") from None
    raise InputError(f"{path}: cannot read '{name}'; its type is {column.type}")
