"""Other libraries' progress bars and log lines, off: one voice at a time."""

from __future__ import annotations

from typing import Any, cast


def quiet_libraries() -> None:
    """For commands; a library's user decides for himself."""
    import datasets
    from transformers.utils import logging

    library = cast(Any, logging)
    library.set_verbosity_error()
    library.disable_progress_bar()
    cast(Any, datasets).disable_progress_bars()
