"""What a lower layer may call in a higher one; set by ``tailguard/__init__``.

Imports point down. Where a method of a lower package must reach up, it calls the function that is
set here, so that the exception is in one place and no import is hidden from the linter.
"""

from __future__ import annotations

from collections.abc import Callable

load_decoder: Callable[..., object]
"""`tailguard.load_decoder`, for `Decoder.from_pretrained`. Set before any submodule can run,
because Python imports the package itself first."""
