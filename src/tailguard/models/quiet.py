"""Other libraries' reports, progress bars and announcements, off: one voice at a time."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from transformers.utils import logging as library_logging

SILENCED = ("`is_gradient_checkpointing`",)
"""Announcements that one library makes to another and that our users can do nothing about.
``tests/contract/test_deprecations.py`` says in which version each bites."""


@contextmanager
def quiet_transformers() -> Generator[None]:
    """Only errors are logged and no bars drawn inside the block; settings are restored after."""
    library = cast(Any, library_logging)
    # Restored after the block: a caller's own settings are not ours to change.
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


@contextmanager
def without_announcements() -> Generator[None]:
    """What is `SILENCED` is not shown inside the block."""
    with warnings.catch_warnings():
        for message in SILENCED:
            warnings.filterwarnings("ignore", message=message)
        yield


def quiet_libraries() -> None:
    """For commands, from now on; a library's user decides for himself."""
    import datasets

    library = cast(Any, library_logging)
    library.set_verbosity_error()
    library.disable_progress_bar()
    cast(Any, datasets).disable_progress_bars()
