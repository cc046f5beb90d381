"""transformers without its load reports and progress bars, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from transformers.utils import logging as library_logging


@contextmanager
def quiet_transformers() -> Generator[None]:
    """Only errors are logged and no bars drawn inside the block; settings are restored after."""
    library = cast(Any, library_logging)
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
