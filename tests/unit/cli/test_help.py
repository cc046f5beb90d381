"""Help: of every command, and quickly."""

import json
import subprocess
import sys

import pytest

from tailguard.cli import main
from tailguard.cli.app import app

STAGES = "prepare fit-scorers sample bank plan train portfolio calibrate evaluate report"
COMMANDS = [
    "demo",
    "init",
    "check",
    "run",
    "generate",
    "serve",
    "certify",
    "inspect",
    "profiles",
    *STAGES.split(),
]
HELP = "from tailguard.cli import main; main(['--help'])"


def read(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert (caught.value.code, err) == (0, "")
    return out


def test_the_commands_are_those_of_the_contract():
    names = {
        found.name or getattr(found.callback, "__name__", "") for found in app.registered_commands
    }
    assert names == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    out = read(capsys, command, "--help")
    assert f"Usage: tailguard {command}" in out
    assert len(out.splitlines()) > 5


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--debug"]])
def test_the_top_level_lists_them(capsys, arguments):
    out = read(capsys, *arguments)
    for command in COMMANDS:
        assert f" {command} " in out


def test_version(capsys):
    assert read(capsys, "--version").count(".") == 2


def test_help_loads_no_heavy_library():
    program = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n" + HELP
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stderr))
    assert "typer" in loaded
    heavy = {"torch", "transformers", "numpy", "scipy", "pydantic", "pyarrow", "matplotlib"}
    assert not heavy & loaded
