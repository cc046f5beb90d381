"""What other libraries announce, and in which version each change bites.

The whole list stands here. Nothing on it fails the suite by itself; what fails is a bound in
pyproject.toml that lets in a version in which an entry bites. The end of every test run shows what
was announced meanwhile (``tests/conftest.py``): what is new there belongs here.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tailguard.models.quiet import SILENCED

ROOT = Path(__file__).parents[2]


class Announcement(NamedTuple):
    """A change that is coming.

    Attributes:
        library: whose change.
        message: what its warning begins with or holds.
        caller: who still does it the old way.
        bites_in: the first version in which the old way fails.
    """

    library: str
    message: str
    caller: str
    bites_in: str


KNOWN = (
    Announcement(
        "transformers",
        "`past_key_values` is deprecated",
        "nobody here: the name comes from the signature",
        "5.40",
    ),
    Announcement("transformers", "`is_gradient_checkpointing`", "peft 0.21, TRL 1.16", "6"),
)


def upper_bound(library: str) -> tuple[int, ...]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = [
        match[1]
        for requirement in project["dependencies"]
        if (match := re.fullmatch(rf"{library}>=[0-9.]+,<([0-9.]+)", requirement))
    ]
    return version(found)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.message)
def test_no_version_is_allowed_in_which_a_known_change_bites(known):
    assert upper_bound(known.library) <= version(known.bites_in)


def test_what_is_silenced_for_users_is_listed():
    assert set(SILENCED) <= {known.message for known in KNOWN}


def run_tests(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """pytest under this project's settings on one test file."""
    test = folder / "test_one.py"
    test.write_text(body)
    settings = [
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(ROOT),
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "-p", "tests_conftest", str(test)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(folder), "PATH": "", "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tests_conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "elsewhere.py").write_text(
        "import warnings\n"
        "def ask(category=FutureWarning):\n"
        "    warnings.warn('`old` is deprecated and will be removed in version 9.1.', category)\n"
    )
    return tmp_path


def test_announcements_of_others_are_shown_and_fail_nothing(folder):
    done = run_tests(folder, "import elsewhere\ndef test_it():\n    elsewhere.ask()\n")
    assert done.returncode == 0, done.stdout
    assert "bites in 9.1: `old` is deprecated" in done.stdout


@pytest.mark.parametrize(
    "body",
    [
        "from tailguard.risk import CVaR\ndef test_it():\n    CVaR(0.01).value([0.0, 1.0])\n",
        "import numpy as np\ndef test_it():\n    np.log(np.zeros(1))\n",
    ],
    ids=["our own", "arithmetic"],
)
def test_our_own_warnings_fail(folder, body):
    done = run_tests(folder, body)
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout
