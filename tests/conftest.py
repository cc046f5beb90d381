"""Shared test settings: threads set once, hypothesis without deadlines on shared machines."""

import os
import re
from collections import Counter

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TAILGUARD_CACHE", "")  # what one test found must not reach another
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other cost minutes

from hypothesis import settings

settings.register_profile("tailguard", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("tailguard")

ANNOUNCEMENTS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
_announced: Counter[str] = Counter()


def pytest_configure(config):
    """Make our own warnings errors, whatever module they are blamed on.

    Not in pyproject.toml: the category would be imported before jaxtyping's hook is in place.
    """
    config.addinivalue_line("filterwarnings", "error::tailguard.errors.TailguardWarning")


def pytest_warning_recorded(warning_message):
    """Collect what other libraries announce; with several workers, in the one that reports."""
    if issubclass(warning_message.category, ANNOUNCEMENTS):
        _announced[" ".join(str(warning_message.message).split())] += 1


def pytest_terminal_summary(terminalreporter):
    """List them in one place, with the version in which each bites."""
    if not _announced:
        return
    terminalreporter.section("announced by other libraries (tests/contract/test_deprecations.py)")
    for message, times in _announced.most_common():
        found = re.search(r"\bv(?:ersion )?([0-9]+(?:\.[0-9]+)*)", message)
        bites = found[1] if found else "a version not named"
        terminalreporter.write_line(f"{times}×, bites in {bites}: {message}")
