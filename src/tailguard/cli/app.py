"""The commands, and the exit status of each kind of error."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tailguard import __version__
from tailguard.cli.answer import certify, generate, profiles, serve
from tailguard.cli.check import check
from tailguard.cli.init import init
from tailguard.cli.inspect import inspect
from tailguard.cli.run import add_stage_commands, demo, run
from tailguard.errors import InputWarning, TailguardError

_INTERRUPTED = 130  # what typer returns after Ctrl-C

app = typer.Typer(
    name="tailguard",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Risk-constrained alignment and decoding of language models.",
)


def _show_version(value: bool) -> bool:
    if value:
        typer.echo(__version__)
        raise typer.Exit
    return value


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback if there is an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Bound the rare, severe harm of a language model, not only its average."""


app.command()(demo)
app.command()(init)
app.command()(check)
app.command()(run)
add_stage_commands(app)
app.command()(generate)
app.command()(profiles)
app.command()(serve)
app.command()(certify)
app.command()(inspect)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 wrong input, 3 infeasible, 1 anything else."""
    sys.exit(_exit_status(list(sys.argv[1:] if arguments is None else arguments)))


def _exit_status(arguments: list[str]) -> int:
    # Accepted anywhere, also behind the command, where typer would not know it.
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    # Tokenizers warn when a process forks after using threads, and workers are forked.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with warnings.catch_warnings():
            _show_input_warnings()
            result = app(args=arguments, prog_name="tailguard", standalone_mode=False)
    except typer.Abort:
        result = _INTERRUPTED
    except typer.TyperException as error:
        return _say(error.format_message(), 2)
    except TailguardError as error:
        return _fail(error, str(error), error.exit_status, debug=debug)
    except Exception as error:  # noqa: BLE001 - the outermost call: one line for users, the traceback with --debug
        return _fail(error, _unexpected(error), 1, debug=debug)
    if result == _INTERRUPTED:
        return _say("interrupted; run the same command again to continue where it stopped", 1)
    return result if isinstance(result, int) else 0


def _show_input_warnings() -> None:
    """Say what a user should know of his input in one line, instead of Python's two."""
    show = warnings.showwarning

    def show_input(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, InputWarning):
            _say(f"warning: {message}", 0)
        else:
            show(message, category, *place)

    warnings.simplefilter("always", InputWarning)
    warnings.showwarning = show_input


def _fail(error: BaseException, message: str, status: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    return _say(message, status)


def _say(message: str, status: int) -> int:
    # Messages of libraries may have several lines; programs that call us read one.
    sys.stderr.write(f"tailguard: {' '.join(message.split())}\n")
    return status


def _unexpected(error: Exception) -> str:
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    if _is_disk_full(error):
        return f"{where}the disk is full; free some space and run the same command again"
    if isinstance(error, OSError):
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {error} (this is a fault of tailguard; run again with --debug for the traceback)"


def _is_disk_full(error: Exception) -> bool:
    # safetensors wraps the system's error in one of its own that keeps only the text.
    numbers = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in numbers or os.strerror(errno.ENOSPC) in str(error)
