"""Read preferences and prompts: JSONL (also gzipped), parquet, or a ``datasets`` name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tailguard.data.records import Preference, Prompt
from tailguard.errors import InputError


def read_rows(source: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a file or of a hub dataset, each with where it stands, for messages.

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
    elif path.suffix in {".json", ".csv", ".txt", ".gz"} or path.is_dir():
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
        if kind == "cost" and "safe" in row and "unsafe" in row:
            pair = Preference(
                prompt, _text(where, row, "safe"), _text(where, row, "unsafe"), True, False
            )
        else:
            pair = Preference(
                prompt=prompt,
                chosen=_text(where, row, "chosen"),
                rejected=_text(where, row, "rejected"),
                chosen_safe=_safe(where, row, "chosen"),
                rejected_safe=_safe(where, row, "rejected"),
                annotator=_label(row, "annotator"),
                category=_label(row, "category"),
            )
        preferences.append(pair)
    return preferences


def read_prompts(source: str | Path, only: Mapping[str, str] | None = None) -> list[Prompt]:
    """Prompts of a file whose rows have a field ``prompt``.

    Args:
        source: as for :func:`read_rows`.
        only: keep rows whose fields have these values, e.g. ``{"label": "safe"}``.

    Raises:
        InputError: no prompt, with file and line; or no row is left.
    """
    conditions = dict(only or {})
    prompts = [
        _prompt(where, row)
        for where, row in read_rows(source)
        if all(str(row.get(key)) == value for key, value in conditions.items())
    ]
    if not prompts:
        raise InputError(f"{source}: no row has {conditions}")
    return prompts


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{where}: malformed JSON ({error.msg})") from None
                if not isinstance(row, dict):
                    raise InputError(f"{where}: a JSON object is needed, not {line.strip()[:40]}")
                yield where, cast("dict[str, Any]", row)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path in the recipe") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read it ({error})") from None


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from tailguard.data.table import read_table

    columns = read_table(path)
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield f"{path}, row {number}", dict(zip(columns, values, strict=True))


def _hub(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    identifier, _, split = name.partition(":")
    try:
        rows = cast(Any, datasets).load_dataset(identifier, split=split or "train")
    except Exception as error:  # noqa: BLE001 - the library raises many kinds; all mean: not found
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{name}: neither a file nor a dataset ({reason})") from None
    yield from ((f"{name}, row {number}", dict(row)) for number, row in enumerate(rows, start=1))


def _prompt(where: str, row: Mapping[str, Any]) -> Prompt:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if isinstance(prompt, list) and prompt and all(map(_is_message, cast("list[Any]", prompt))):
        return cast("list[dict[str, str]]", prompt)
    raise InputError(f"{where}: no 'prompt' (a text, or messages with role and content)")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(cast(Any, value).get(key), str) for key in ("role", "content")
    )


def _text(where: str, row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if isinstance(value, list) and value and _is_message(cast(Any, value)[-1]):
        value = cast(Any, value)[-1]["content"]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: no '{field}' (the text of an answer)")
    return value


def _safe(where: str, row: Mapping[str, Any], answer: str) -> bool | None:
    safe, sign = row.get(f"{answer}_safe"), row.get(f"{answer}_sign")
    if safe is None and sign is None:
        return None
    if isinstance(safe, bool):
        return safe
    if safe is None and not isinstance(sign, bool) and sign in (-1, 1):
        return sign == -1
    raise InputError(
        f"{where}: give '{answer}_safe' as true or false, or '{answer}_sign' as -1 (safe) or 1"
        f" (unsafe); it is {sign if safe is None else safe!r}"
    )


def _label(row: Mapping[str, Any], field: str) -> str | None:
    return None if row.get(field) is None else str(row[field])
