"""A function of Python as a scorer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, invalidate_caches  # noqa: TID251  a user's module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError, first_line
from tailguard.scorers.scorer import require_finite


@dataclass(frozen=True)
class FunctionScorer:
    """A function of prompts and answers that is held to what a scorer promises.

    Attributes:
        function: called with lists of prompts and of answers (or of answers alone); gives one number
            for each answer, [n], or one for each member, [n, members].
        upper: declared largest score; larger ones count as this.
        input: what the function reads.
        members: how many it gives; None where that is not said.
        name: what messages call it.
    """

    function: Callable[..., Any]
    upper: float | None = None
    input: Literal["pair", "response"] = "pair"
    members: int | None = None
    name: str = "function"

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores, float64 [n, members].

        Raises:
            InputError: different numbers of prompts and responses.
            ScoreError: the function raised, or gave no numbers, another shape, NaN or infinity.
        """
        if len(prompts) != len(responses):
            raise InputError(
                f"responses: {len(responses)} for {len(prompts)} prompts; give one per prompt"
            )
        if len(responses) == 0:
            return np.empty((0, self.members or 1))
        # Copies: what a function does to its arguments must not change what others are asked.
        asked = () if self.input == "response" else (copy.deepcopy(list(prompts)),)
        try:
            found = self.function(*asked, list(responses))
            if isinstance(found, torch.Tensor):  # on any device, of any precision, with gradients
                found = found.detach().cpu().double()
            scores = np.asarray(found, dtype=np.float64)
        except (Exception, SystemExit) as error:
            raise ScoreError(f"{self.name}: {type(error).__name__}: {first_line(error)}") from error
        if scores.ndim == 1:
            scores = scores[:, None]
        width = self.members or (scores.shape[1] if scores.ndim == 2 else 0)
        if scores.shape != (len(responses), width) or width == 0:
            raise ScoreError(
                f"{self.name}: gave shape {scores.shape} for {len(responses)} answers; it must give"
                f" [{len(responses)}] or [{len(responses)}, {self.members or 'members'}]"
            )
        require_finite(scores, self.name)
        return scores if self.upper is None else np.minimum(scores, self.upper)


def from_function(
    function: Callable[..., Any],
    upper: float | None = 10.0,
    *,
    input: Literal["pair", "response"] = "pair",
    members: int | None = None,
) -> FunctionScorer:
    """A function as a scorer; arguments as the attributes of `FunctionScorer`.

    Raises:
        InputError: the bound is no number.
    """
    if upper is not None and not np.isfinite(upper):
        raise InputError(f"upper: {upper}; must be the largest score there can be")
    name = getattr(function, "__qualname__", type(function).__name__)
    return FunctionScorer(function, upper, input, members, name)


def import_function(path: str, folder: Path) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Runs the module's code: only for paths that the operator wrote.

    Args:
        path: of the function.
        folder: where its module may be, besides the environment.

    Raises:
        InputError: no such module or function, the module fails, or one of the same name is loaded
            from elsewhere.
    """
    module_name, _, name = path.partition(":")
    file = function_file(path, folder)
    # Last, so that no file of the user's takes the place of a library's module, and for good,
    # because functions import while they run.
    if file is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    invalidate_caches()  # the file may be younger than what Python remembers of its folder
    try:
        # Not a module of ours, so no import is hidden from those who read this package.
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a script that ends itself must not end us
        what = "no such module" if _is_missing(error, module_name) else "its module fails"
        why = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"python: {path}: {what} in {folder} ({why})") from error
    found = getattr(module, "__file__", None)
    if file is not None and (found is None or Path(found).resolve() != file):
        raise InputError(
            f"python: {path}: another module of that name is loaded ({found or 'built in'});"
            f" rename {file}"
        )
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"python: {path}: {found} has no function '{name}'")
    return function


def function_file(path: str, folder: Path) -> Path | None:
    """The file in ``folder`` that holds the function; None where it is in the environment."""
    place = folder.joinpath(*path.partition(":")[0].split("."))
    files = (place.with_name(place.name + ".py"), place / "__init__.py")
    return next((file.resolve() for file in files if file.is_file()), None)


def _is_missing(error: BaseException, module: str) -> bool:
    missing = str(getattr(error, "name", ""))
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}.")
