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

    Hidden files do not count, so that an editor's or a downloader's leavings change nothing. Links
    to files count by what is in the file, as in the hub's folders.

    Raises:
        InputError: the path is not there, or as `files_below`.
    """
    if path.is_file():
        return _file_hash(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; check the path in the recipe or --set")
    # Names count as well as bytes: two files that change places are another model.
    files = [
        file
        for file in files_below(path)
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    return hash_of([[file.relative_to(path).as_posix(), _file_hash(file)] for file in files])


def files_below(folder: Path, *, links: bool = True) -> list[Path]:
    """Every file in a folder and the folders in it, sorted.

    Args:
        folder: where to look.
        links: whether links to files count as files.

    Raises:
        InputError: something there would be read and not be hashed: a link to a folder or to
            nothing, a pipe or a device; or a link to a file where none may be.
    """
    files: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not (links and path.is_file()):
            raise InputError(
                f"{folder}: {path.name!r} in it is a link; put what it points to in its place"
            )
        if path.is_file():
            files.append(path)
        elif not path.is_dir():
            raise InputError(f"{folder}: {path.name!r} in it is neither a file nor a folder")
    return files


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
