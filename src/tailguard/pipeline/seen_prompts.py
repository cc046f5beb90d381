"""The prompts that a decoder was fitted on, kept beside it: no certificate is made on them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tailguard.data.identity import IDENTITY_VERSION
from tailguard.data.table import read_table, write_table
from tailguard.errors import InputError

SEEN_NAME = "seen_prompts.parquet"
_COLUMN = f"prompt_id_{IDENTITY_VERSION}"


def write_seen_prompts(directory: Path, ids: Collection[str]) -> None:
    """Write the ids into a decoder's folder."""
    write_table(directory / SEEN_NAME, {_COLUMN: sorted(ids)})


def read_seen_prompts(directory: Path) -> set[str]:
    """The ids in a decoder's folder.

    Raises:
        InputError: they were made when a prompt had another id, so that none would be recognised.
    """
    columns = read_table(directory / SEEN_NAME)
    if _COLUMN not in columns:
        raise InputError(
            f"{directory}: an earlier version told prompts apart by other rules, so that those it was"
            " trained on cannot be recognised; run its recipe again"
        )
    return set(columns[_COLUMN])
