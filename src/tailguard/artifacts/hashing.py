"""SHA-256 of values, files and folders: the same content gives the same hash anywhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tailguard.errors import InputError

_CHUNK_BYTES = 1 << 20  # a model's weights may not fit into memory at once


def hash_of(value: object) -> str:
    """Hex SHA-256 of a JSON-able value; the order of its keys does not matter.

    Raises:
        TypeError: it is not; a set or an object would hash differently in every process.
    """
    # Sorted and without blanks: ids must not depend on how a recipe was written down.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, or of a folder's relative file names and bytes.

    Hidden files do not count, so that an editor's or a downloader's leavings change nothing.

    Raises:
        InputError: the path is not there.
    """
    if path.is_file():
        return _file_hash(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; check the path in the recipe or --set")
    # Names count as well as bytes: two files that change places are another model.
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    return hash_of([[file.relative_to(path).as_posix(), _file_hash(file)] for file in files])


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
