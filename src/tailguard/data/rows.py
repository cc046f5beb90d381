"""Rows of a file, a folder or a dataset on the hub, each with its place for messages."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from tailguard.errors import InputError, first_line

# What stands in a row is unknown until it is checked, field by field.
Row: TypeAlias = dict[str, object]

_SHARDS = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves in a folder


def read_rows(source: str | Path) -> list[tuple[str, Row]]:
    """Rows with their places, e.g. ``pairs.jsonl, line 3``.

    Args:
        source: a file that ends in ``.jsonl``, ``.jsonl.gz``, ``.parquet`` or ``.json`` (one array
            of objects); a folder by ``datasets.save_to_disk``, or one laid out as a dataset on the
            hub; otherwise the name of such a dataset, ``owner/name`` or ``owner/name/folder``. A
            folder or a name may end in ``:split`` (default ``train``) or ``:configuration:split``.

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
        raise InputError(f"{path}: give .jsonl, .jsonl.gz or .parquet")
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
        raise InputError(f"{path}: is no array of objects; give .jsonl, .jsonl.gz or .parquet")
    for number, row in enumerate(cast("list[object]", _parsed(str(path), content)), start=1):
        where = f"{path}, item {number}"
        yield where, _object(where, row)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path in the recipe") from None
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
    identifier, *rest = [name] if _is_folder(name) else name.split(":")
    if len(rest) > 2:
        raise InputError(f"{name}: write a dataset as name, name:split or name:configuration:split")
    split = (rest[-1] if rest else "") or "train"
    number = 0
    try:
        for number, row in enumerate(_loaded(identifier, rest[:-1], split), start=1):
            yield f"{name}, row {number}", dict(row)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises many kinds
        reason = first_line(error)
        if number:
            raise InputError(f"{name}, row {number + 1}: cannot read it ({reason})") from None
        if _is_folder(identifier):
            raise InputError(
                f"{name}: cannot read the folder as a dataset ({reason});"
                " give .jsonl, .jsonl.gz or .parquet"
            ) from None
        raise InputError(f"{name}: neither a file nor a dataset ({reason})") from None


def _loaded(
    identifier: str, configuration: list[str], split: str
) -> Iterable[Mapping[str, object]]:
    import datasets  # slow to load, and not needed for files

    library = cast(Any, datasets)
    if _is_folder(identifier):
        if any((Path(identifier) / name).is_file() for name in _SHARDS):
            found = library.load_from_disk(identifier)
            if not isinstance(found, library.DatasetDict):
                return found
            if split not in found:
                raise ValueError(f"no split '{split}'; there are {', '.join(found)}")
            return found[split]
        return library.load_dataset(identifier, *configuration, split=split)
    owner, _, rest = identifier.partition("/")
    repository, _, folder = rest.partition("/")
    options = {"data_dir": folder} if folder else {}
    full = f"{owner}/{repository}" if repository else owner
    return library.load_dataset(full, *configuration, split=split, **options)


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # too long for a name, or NUL in it
        return False
