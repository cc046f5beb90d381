"""Ways to spoil a text, a nested value, or a table; for `fuzz_inputs.py`."""

from __future__ import annotations

import copy
import datetime
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np

from tailguard.data.table import write_table

WORDS = (
    *(
        "",
        "~",
        "null",
        "yes",
        "-1",
        "0",
        "1e400",
        "-.inf",
        ".nan",
        "010",
        "1:30",
        "9" * 40,
        "9" * 5000,
    ),
    *("!!bool x", "!!timestamp x", "!!int x", "!!binary x", "!!python/name:os.system", "!!set {a}"),
    *("*a", "&a [*a]", "<<: 3", "? [a]", "{}", "[]", "- x", "'", '"', "{", "]", "%", "---", "..."),
    *(
        '"\\0"',
        '"\\ud800"',
        "\0",
        "\x1b",
        "\u2028",
        "é" * 300,
        "~nobody/x",
        "../" * 2000,
        "%s",
        "${x}",
    ),
    *(
        "true: 4",
        "1: 2",
        "a: b: c",
        "\t",
        "#",
        "|",
        ">",
        "!",
        "@",
        "`",
        "2024-13-45",
        "x" * 100_000,
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**21, 10**400, 1.5, 1e300, -1e300, 1e-300),
    *(
        float("inf"),
        float("nan"),
        "",
        " ",
        "\0",
        "\ud800",
        "\u200b",
        "x" * 5000,
        "a/b",
        "~nobody/x",
    ),
    *([], {}, [[]], [None], {"": 1}, {"a": {"b": 1}}, ["x"] * 1000, "sandbox", "files", "1", "nan"),
    *([{"role": "user", "content": "a"}], [{"role": "user"}], [{"role": 3, "content": None}]),
    *([{"role": "tool", "content": "a"}], {"role": "user", "content": "a"}, b"\xff", [0.1] * 200),
)
COLUMN_VALUES: tuple[Any, ...] = (
    *(datetime.datetime(2024, 1, 1), datetime.date(1, 1, 1), datetime.timedelta(1), Decimal("1.5")),
    *(b"text", np.float16(1), [b"\xff"], {"role": "user", "content": ["a"]}),
)


def mutated_text(text: bytes, generator: random.Random) -> bytes:
    """A text with some bytes, lines or words that are not as they were."""
    for _ in range(generator.randint(1, 3)):
        text = generator.choice((_bytes, _lines, _words))(text, generator)
    return text


def _bytes(text: bytes, generator: random.Random) -> bytes:
    content = bytearray(text)
    place = generator.randrange(len(content) + 1)
    kind = generator.randrange(4)
    if kind == 0:
        content[place : place + 1] = generator.randbytes(1)
    elif kind == 1:
        content[place:place] = generator.randbytes(generator.randint(1, 8))
    elif kind == 2:
        del content[place : place + generator.randint(1, 40)]
    else:
        del content[place:]
    return bytes(content)


def _lines(text: bytes, generator: random.Random) -> bytes:
    lines = text.split(b"\n")
    one, other = generator.randrange(len(lines)), generator.randrange(len(lines))
    kind = generator.randrange(4)
    if kind == 0:
        lines.insert(other, lines[one])
    elif kind == 1:
        del lines[one]
    elif kind == 2:
        lines[one] = b"  " * generator.randrange(4) + lines[one].lstrip()
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _words(text: bytes, generator: random.Random) -> bytes:
    word = generator.choice(WORDS).encode("utf-8", "surrogatepass")
    lines = text.split(b"\n")
    one = generator.randrange(len(lines))
    key, colon, _ = lines[one].partition(b": ")
    lines[one] = key + colon + word if colon and generator.random() < 0.7 else lines[one] + word
    return b"\n".join(lines)


def mutated_value(value: Any, generator: random.Random) -> Any:
    """A nested value with some parts replaced, deleted, repeated, renamed or wrapped."""
    value = copy.deepcopy(value)
    for _ in range(generator.randint(1, 3)):
        places = list(_places(value))
        if not places:
            break
        container, key = generator.choice(places)
        kind = generator.randrange(6)
        if kind <= 2:
            container[key] = copy.deepcopy(generator.choice(VALUES))
        elif kind == 3:
            del container[key]
        elif kind == 4:
            container[key] = [container[key]] * generator.randint(1, 3)
        elif isinstance(container, dict):
            renamed = str(generator.choice(VALUES))[:300]
            container[renamed] = cast(Any, container).pop(key)
        else:
            container.append(container[key])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = list(cast(Any, value)) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def write_columns(path: Path, rows: list[Any], generator: random.Random | None) -> None:
    """Rows as parquet, mutated where a generator is given.

    A column has one type, so it is mutated as a whole.
    """
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    for _ in range(generator.randint(1, 2) if generator else 0):
        assert generator is not None
        name = generator.choice(list(columns))
        kind = generator.randrange(4)
        if kind <= 1:
            columns[name] = [generator.choice((*VALUES, *COLUMN_VALUES))] * len(rows)
        elif kind == 2 and len(columns) > 1:
            del columns[name]
        else:
            columns[name] = [None if generator.random() < 0.2 else x for x in columns[name]]
    try:
        write_table(path, columns)
    except Exception:  # noqa: BLE001 - whatever pyarrow cannot hold: no parquet then
        path.write_text(repr(columns)[:5000], errors="backslashreplace")
