"""Read preferences and prompts: JSONL (also gzipped), parquet, or a ``datasets`` name."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeGuard, cast

from tailguard.data.records import Preference, Prompt
from tailguard.errors import InputError, first_line

# What stands in a row is unknown until it is checked, field by field, below.
Row: TypeAlias = dict[str, object]


def read_rows(source: str | Path) -> list[tuple[str, Row]]:
    """Rows of a file or of a hub dataset, each with its place (file and line) for messages.

    Args:
        source: path ending in ``.jsonl``, ``.jsonl.gz`` or ``.parquet``; otherwise the name of
            a dataset, optionally with ``:split`` (default ``train``).

    Raises:
        InputError: missing, empty, or malformed, with the line number.
    """
    path = Path(source)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = list(_jsonl(path))
    elif path.suffix == ".parquet":
        rows = list(_parquet(path))
    # A misspelt path must not be looked up on the hub, so what looks like a file is taken for one.
    elif path.suffix in {".json", ".csv", ".txt", ".gz"} or path.exists():
        raise InputError(f"{path}: give .jsonl, .jsonl.gz or .parquet")
    else:
        rows = list(_hub(str(source)))
    if not rows:
        raise InputError(f"{source}: is empty; at least one row is needed")
    return rows


def read_preferences(source: str | Path, kind: str) -> list[Preference]:
    """Pairs of answers.

    A row has ``prompt``, ``chosen`` and ``rejected`` (text or chat messages), for cost also
    ``chosen_safe`` and ``rejected_safe`` (booleans), or ``chosen_sign`` and ``rejected_sign``
    (−1 safe, +1 unsafe), and optionally ``annotator`` and ``category``. A cost row may instead
    have ``safe`` and ``unsafe``: the two answers themselves.

    Args:
        source: as for :func:`read_rows`.
        kind: ``reward`` or ``cost``.

    Raises:
        InputError: a field is missing, empty or of the wrong type, with file and line.
    """
    preferences: list[Preference] = []
    for where, row in read_rows(source):
        prompt = _prompt(where, row)
        # Two answers named by their safety are a comparison and two signs in one.
        by_safety = kind == "cost" and "safe" in row and "unsafe" in row
        chosen, rejected = ("safe", "unsafe") if by_safety else ("chosen", "rejected")
        preferences.append(
            Preference(
                prompt=prompt,
                chosen=_text(where, row, chosen),
                rejected=_text(where, row, rejected),
                chosen_safe=True if by_safety else _safe(where, row, chosen),
                rejected_safe=False if by_safety else _safe(where, row, rejected),
                annotator=_label(row, "annotator"),
                category=_label(row, "category"),
            )
        )
    return preferences


def read_prompts(source: str | Path, only: Mapping[str, str] | None = None) -> list[Prompt]:
    """Prompts of a file whose rows have a field ``prompt``.

    Args:
        source: as for :func:`read_rows`.
        only: keep rows whose fields have these values, e.g. ``{"label": "safe"}``,
            or ``{"is_safe": "true"}``; case is ignored.

    Raises:
        InputError: no prompt, with file and line; or no row is left.
    """
    conditions = dict(only or {})
    prompts = [
        _prompt(where, row)
        for where, row in read_rows(source)
        if all(str(row.get(key)).lower() == value.lower() for key, value in conditions.items())
    ]
    if not prompts:
        raise InputError(f"{source}: no row has {conditions}")
    return prompts


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _parsed(where, line)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path in the recipe") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read it ({error})") from None


def _parsed(where: str, line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))  # some editors put a byte order mark first
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: malformed JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # bad UTF-8, huge numbers, deep nesting
        raise InputError(f"{where}: cannot read it ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: a JSON object is needed, not {json.dumps(row)[:40]}")
    return cast(Row, row)


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    from tailguard.data.table import read_table

    columns = read_table(path)
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield f"{path}, row {number}", dict(zip(columns, values, strict=True))


def _hub(name: str) -> Iterator[tuple[str, Row]]:
    import datasets  # slow to load, and not needed for files

    identifier, _, split = name.partition(":")
    try:
        found: object = datasets.load_dataset(identifier, split=split or "train")  # pyright: ignore[reportUnknownMemberType]
        rows = cast("Iterable[Row]", found)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds; all mean: not found
        reason = first_line(error)
        raise InputError(f"{name}: neither a file nor a dataset ({reason})") from None
    yield from ((f"{name}, row {number}", dict(row)) for number, row in enumerate(rows, start=1))


def _prompt(where: str, row: Row) -> Prompt:
    prompt = row.get("prompt")
    if _is_text(prompt) or _is_chat(prompt):
        return prompt
    raise InputError(f"{where}: no 'prompt' (a text, or messages with role and content)")


def _text(where: str, row: Row, field: str) -> str:
    value = row.get(field)
    if _is_chat(value):
        value = value[-1]["content"]
    if not _is_text(value):
        raise InputError(f"{where}: no '{field}' (the text of an answer)")
    return value


def _is_chat(value: object) -> TypeGuard[list[dict[str, str]]]:
    """Whether it is messages, the last of them with something in it."""
    messages = cast("list[object]", value) if isinstance(value, list) else []
    well_formed = bool(messages) and all(map(_is_message, messages))
    return well_formed and _is_text(cast(Row, messages[-1])["content"])


def _is_message(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    message = cast(Row, value)
    content = message.get("content")
    # An assistant's turn may be empty, for example before a tool is called; the last one may not.
    return isinstance(message.get("role"), str) and (_is_text(content) or content == "")


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is text with something in it, and can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()  # JSON can spell half of a surrogate pair, which no tokenizer reads
    except UnicodeEncodeError:
        return False
    return True


def _safe(where: str, row: Row, answer: str) -> bool | None:
    safe, sign = row.get(f"{answer}_safe"), row.get(f"{answer}_sign")
    if safe is None and sign is None:
        return None
    if isinstance(safe, bool):
        return safe
    # True == 1 in Python, so a boolean in place of a sign would pass for "unsafe".
    if safe is None and not isinstance(sign, bool) and sign in (-1, 1):
        return sign == -1
    raise InputError(
        f"{where}: give '{answer}_safe' as true or false, or '{answer}_sign' as -1 (safe) or 1"
        f" (unsafe); it is {sign if safe is None else safe!r}"
    )


def _label(row: Row, field: str) -> str | None:
    return None if row.get(field) is None else str(row[field])
