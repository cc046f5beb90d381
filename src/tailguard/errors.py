"""The errors users see: one clear line each, and the exit status it ends the command with."""

from __future__ import annotations

import math


class TailguardWarning(UserWarning):
    """Every warning of our own is one, so that the tests can make all of them errors."""


class InputWarning(TailguardWarning):
    """Input that is taken but may not be what was meant. A command shows it as one line."""


class TailguardError(Exception):
    """Something went wrong that the user should read about; ends a command with status 1."""

    exit_status = 1


class InputError(TailguardError, ValueError):
    """Wrong input: the message says what, where and how to mend it. Exit status 2.

    Attributes:
        parameter: the one at fault, where the raiser knows; whoever took it from a request or a
            command line can then say how it is written there.
    """

    exit_status = 2

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


def first_line(error: BaseException) -> str:
    """The first line of another library's message that says something, for messages of our own.

    Libraries write whole paragraphs of advice, while ours are one line.
    """
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


class ScoreError(InputError):
    """A scorer gave NaN, an infinity or a wrong shape. Safety code stops rather than guess."""


class InfeasibleError(TailguardError):
    """Nothing reachable meets the budget. Exit status 3.

    Attributes:
        smallest_reachable_risk: the smallest risk that the bank or the decoder can reach.
    """

    exit_status = 3

    def __init__(self, message: str, smallest_reachable_risk: float = math.inf) -> None:
        super().__init__(message)
        self.smallest_reachable_risk = smallest_reachable_risk
