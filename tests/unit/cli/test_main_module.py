"""``python -m tailguard`` is the command line."""

import subprocess
import sys

from tailguard import __version__


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tailguard", *arguments], capture_output=True, text=True, check=False
    )


def test_it_runs_a_command():
    done = run_module("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_it_ends_with_the_commands_exit_status(tmp_path):
    done = run_module("prepare", str(tmp_path / "none.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "none.yaml: no such recipe" in done.stderr.splitlines()[-1]
