"""Rows of a file, a folder or a dataset on the hub, each with its place for messages."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from tailguard.errors import InputError, first_line

# What stands in a row is unknown until it is checked, field by field.
Row: TypeAlias = dict[str, object]

# What `save_to_disk` leaves in a folder: the names of the splits, and of the files of one.
_SPLITS, _STATE = "dataset_dict.json", "state.json"
_COLON = re.compile(r":(?![^\[]*\])")  # but not the one of a slice, as in name:train[:10%]


def read_rows(source: str | Path) -> list[tuple[str, Row]]:
    """Rows with their places, e.g. ``pairs.jsonl, line 3``.

    Args:
        source: a file that ends in ``.jsonl``, ``.jsonl.gz``, ``.parquet`` or ``.json`` (one array
            of objects); a folder by ``datasets.save_to_disk``, or one laid out as a dataset on the
            hub; otherwise the name of such a dataset, ``owner/name`` or ``owner/name/folder``. A
            folder or a name may end in ``:split`` (default ``train``; a part of one as
            ``train[:10%]``) or ``:configuration:split``.

    Raises:
        InputError: missing, empty, or malformed, with the line or row.
    """
    path = Path(source)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = list(_jsonl(path))
    elif path.suffix == ".parquet":
        rows = list(_parquet(path))
    elif path.suffix == ".json":
        rows = list(_json_array(path))
    # A misspelt path must not be looked up on the hub, so what looks like a file is taken for one.
    elif path.suffix in {".csv", ".txt", ".gz"} or path.is_file():
        raise InputError(f"{path}: give .jsonl, .jsonl.gz, .json or .parquet")
    else:
        rows = list(_dataset(str(source)))
    if not rows:
        raise InputError(f"{source}: is empty; at least one row is needed")
    return rows


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _object(where, _parsed(where, line))


def _json_array(path: Path) -> Iterator[tuple[str, Row]]:
    content = b"".join(_lines(path))
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise InputError(
            f"{path}: is no array of objects; give .jsonl, .jsonl.gz, .json or .parquet"
        )
    for number, row in enumerate(cast("list[object]", _parsed(str(path), content)), start=1):
        where = f"{path}, item {number}"
        yield where, _object(where, row)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        if (
            path.exists() and not path.is_file()
        ):  # a pipe would keep us waiting, a device fill memory
            raise InputError(f"{path}: is not a file; give .jsonl, .jsonl.gz, .json or .parquet")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot read it ({error})") from None


def _parsed(where: str, text: bytes) -> object:
    try:  # some editors put a byte order mark first
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: malformed JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # bad UTF-8, huge numbers, deep nesting
        raise InputError(f"{where}: cannot read it ({error})") from None


def _without_repeats(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {repeated!a} appears twice")
    return row


def _object(where: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object is needed, not {json.dumps(value)[:40]}")
    return cast(Row, value)


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    from tailguard.data.table import read_table

    columns = read_table(path)
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield f"{path}, row {number}", dict(zip(columns, values, strict=True))


def _dataset(name: str) -> Iterator[tuple[str, Row]]:
    identifier, *rest = [name] if _is_folder(name) else _COLON.split(name)
    if len(rest) > 2:
        raise InputError(f"{name}: write a dataset as name, name:split or name:configuration:split")
    split = (rest[-1] if rest else "") or "train"
    folder = Path(identifier)
    if _is_folder(identifier) and ((folder / _SPLITS).exists() or (folder / _STATE).exists()):
        rows = _saved(folder, split)
    elif not _is_folder(identifier) and identifier.startswith(
        ("/", ".", "~")
    ):  # no name of the hub
        raise InputError(f"{name}: neither a file nor a folder; check the path")
    else:
        rows = _loaded(name, identifier, rest[:-1], split)
    yield from ((f"{name}, row {number}", dict(row)) for number, row in enumerate(rows, start=1))


def _saved(folder: Path, split: str) -> Iterator[Row]:
    """Rows of what ``datasets.save_to_disk`` wrote."""
    from tailguard.data.table import read_arrow_stream

    if (folder / _SPLITS).exists():
        splits = _field(folder / _SPLITS, "splits")
        if split not in splits:
            raise InputError(
                f"{folder}: no split '{split}'; there are {', '.join(map(str, splits))}"
            )
        folder = folder / split
    elif split not in ("train", _content(folder / _STATE).get("_split")):
        raise InputError(f"{folder}: holds one split and no '{split}'; leave out ':{split}'")
    for shard in _field(folder / _STATE, "_data_files"):
        name = cast(Row, shard).get("filename") if isinstance(shard, dict) else None
        if not isinstance(name, str) or name != Path(name).name:
            raise InputError(f"{folder / _STATE}: names no file of this folder; save it again")
        columns = read_arrow_stream(folder / name)
        yield from (
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        )


def _content(path: Path) -> Row:
    return _object(str(path), _parsed(str(path), b"".join(_lines(path))))


def _field(path: Path, name: str) -> list[object]:
    content = _content(path).get(name)
    if not isinstance(content, list):
        raise InputError(f"{path}: has no list '{name}'; save the dataset again")
    return cast("list[object]", content)


def _loaded(
    name: str, identifier: str, configuration: list[str], split: str
) -> Iterator[Mapping[str, object]]:
    import datasets  # slow to load, and not needed for files

    number, options = 0, {}
    if not _is_folder(identifier):
        owner, *rest = identifier.split("/", 2)
        identifier = "/".join([owner, *rest[:1]])
        options = {"data_dir": rest[1]} if rest[1:] else {}
    try:
        load = cast(Any, datasets).load_dataset
        rows = cast(Iterable[Row], load(identifier, *configuration, split=split, **options))
        for row in rows:
            yield row
            number += 1
    except Exception as error:  # noqa: BLE001 - the library raises many kinds
        reason = first_line(error)
        if number:
            raise InputError(f"{name}, row {number + 1}: cannot read it ({reason})") from None
        if _is_folder(identifier):
            raise InputError(
                f"{name}: cannot read the folder as a dataset ({reason});"
                " give .jsonl, .jsonl.gz, .json or .parquet"
            ) from None
        raise InputError(f"{name}: neither a file nor a dataset ({reason})") from None


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # too long for a name, or NUL in it
        return False
