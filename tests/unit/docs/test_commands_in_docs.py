"""Every command that the pages show is one: its name, its options, its arguments."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from tailguard.cli.app import app

ROOT = Path(__file__).parents[3]


def parse_tailguard(arguments: list[str]) -> None:
    """Parse a command line without running it; what is wrong with it raises."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("tailguard", list(arguments))
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, list(rest), parent=context)


def options_of(script: str) -> set[str]:
    return set(re.findall(r'"(--[a-z-]+)"', (ROOT / script).read_text()))


def check_command(line: str) -> None:
    """Assert that a line of a shell would be understood."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # a variable for this command
        del words[0]
    name, rest = words[0], words[1:]
    if "/bin/" in name or name == "python3.11":  # of a virtual environment, or bare
        name = Path(name).name.removesuffix("3.11")
    options = {word.partition("=")[0] for word in rest if word.startswith("--")}
    if name == "python" and rest[:2] == ["-m", "tailguard"]:
        name, rest = "tailguard", rest[2:]
    if name == "tailguard":
        parse_tailguard(rest)
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif name == "python" and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file()
        assert options <= options_of(rest[0])
    elif name == "python" and rest[:2] == ["-m", "tailguard.lab.sandbox.build"]:
        assert options <= options_of("src/tailguard/lab/sandbox/build.py")
    else:
        assert name in {"python", "pre-commit", "git", ".ci/run"}


@pytest.fixture(scope="module")
def console_lines(blocks):
    return [
        (str(block), line[2:])
        for block in blocks
        if block.language == "console"
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.startswith("$ ")
    ]


def test_every_line_of_a_console_is_understood(console_lines):
    assert len(console_lines) >= 8
    for where, line in console_lines:
        try:
            check_command(line)
        except Exception as error:
            raise AssertionError(f"{where}: {line}: {error}") from error


def test_commands_within_sentences_exist(prose):
    """A span such as `tailguard serve DECODER [--port]`: its command and options are there."""
    group: Any = typer.main.get_command(app)
    commands = group.commands
    count = 0
    for page, text in prose.items():
        for span in re.findall(r"`(?:python -m )?tailguard ([^`]+)`", text):
            name = span.split()[0]
            if name in ("COMMAND", "--help"):
                continue
            assert name in commands, f"{page}: tailguard {span}"
            known = {option for parameter in commands[name].params for option in parameter.opts}
            asked = set(re.findall(r"--[a-z-]+", span))
            assert asked <= known | {"--help"}, f"{page}: tailguard {span}"
            count += 1
    assert count > 10


def test_scripts_within_sentences_exist(prose):
    count = 0
    for page, text in prose.items():
        for span in re.findall(r"`((?:\.venv/bin/)?python (?:benchmarks|docs|tools)/[^`]+)`", text):
            try:
                check_command(span)
            except Exception as error:
                raise AssertionError(f"{page}: {span}: {error}") from error
            count += 1
        for span in re.findall(r"`(make [^`]+)`", text):
            try:
                check_command(span)
            except Exception as error:
                raise AssertionError(f"{page}: {span}: {error}") from error
    assert count >= 2


@pytest.mark.parametrize(
    "line",
    [
        "tailguard plan frontier.yaml --outt out",
        "tailguard plan",
        "tailguard paint x.yaml",
        "make toast",
        "python benchmarks/none.py",
        "python benchmarks/planning.py --repetition 3",
        "curl x",
    ],
)
def test_a_wrong_line_is_noticed(line):
    with pytest.raises(Exception):  # noqa: B017, PT011 - the parser's and our own alike
        check_command(line)
