"""Tensors in one safetensors file, with text metadata: the typed seam to the library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
from torch import Tensor

from tailguard.errors import InputError

_METADATA = "tailguard"


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and metadata to one file; the same ones give the same bytes."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # The library writes the header's entries in random order: one entry has but one.
    header = {_METADATA: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    cast(Any, safetensors.torch).save_file(plain, str(path), header)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file.

    Raises:
        InputError: missing, or not a safetensors file.
    """
    library = cast(Any, safetensors)
    try:
        with library.safe_open(str(path), framework="pt") as file:
            tensors = {str(name): file.get_tensor(name) for name in list(file.keys())}
            header: dict[str, str] = file.metadata() or {}
            return tensors, json.loads(header[_METADATA]) if _METADATA in header else header
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
