"""What was done with an artifact since it was sealed: one line of JSON for each call, never rewritten.

The record lies in the artifact's folder, so that it goes where the artifact goes, but is not part of
what is sealed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tailguard.artifacts.manifest import CALLS_NAME
from tailguard.artifacts.text import Json
from tailguard.errors import InputError


def require_recordable(directory: Path) -> None:
    """Refuse a place where no record can be kept, before the work that it would tell of.

    Raises:
        InputError: nothing can be added to the record, or what is there is none.
    """
    os.close(_open(directory))
    read_calls(directory)


def record_call(directory: Path, call: Mapping[str, Json]) -> None:
    """Add a call to the record, in one write that reaches the disk before this returns.

    Raises:
        InputError: as `require_recordable`.
        OSError: the disk is full.
    """
    line = (json.dumps(dict(call), sort_keys=True) + "\n").encode()
    handle = _open(directory)
    try:
        # O_APPEND: lines of calls side by side follow one another.
        if os.write(handle, line) < len(line):
            raise OSError(f"{directory / CALLS_NAME}: only a part was written; is the disk full?")
        os.fsync(handle)
    finally:
        os.close(handle)


def read_calls(directory: Path) -> list[dict[str, Json]]:
    """The calls recorded so far, the oldest first; none where there is no record.

    Raises:
        InputError: the record cannot be read.
    """
    path = directory / CALLS_NAME
    if not path.is_symlink() and not path.exists():
        return []
    calls: list[dict[str, Json]] = []
    handle = _open(directory, reading=True)
    with os.fdopen(handle, encoding="utf-8") as file:
        try:
            for line in file:
                call: Json = json.loads(line)
                # A line that was cut off would take the next call into itself.
                if not (isinstance(call, dict) and line.endswith("\n")):
                    raise ValueError("not a whole call")
                calls.append(cast("dict[str, Json]", call))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {len(calls) + 1}: not a call ({error})") from None
    return calls


def _open(directory: Path, *, reading: bool = False) -> int:
    path = directory / CALLS_NAME
    # Neither through a link nor into a pipe: the folder may be another's.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    flags |= os.O_RDONLY if reading else os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        raise InputError(
            f"{path}: the record of calls cannot be opened ({error.strerror}); it must be a file in a"
            " folder that can be written to"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: the record of calls is not a file; remove it")
    return handle
