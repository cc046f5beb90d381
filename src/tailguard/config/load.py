"""Read a recipe: YAML plus overrides, checked, with the line and the nearest valid key named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tailguard.config.recipe import FileData, Recipe, SandboxData
from tailguard.errors import InputError

Key = tuple[str | int, ...]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file. Relative paths in it are relative to its folder.
        overrides: ``section.key=value``, the value in YAML.

    Raises:
        InputError: file missing, not YAML, an unknown or ill-typed key (with its line and the
            nearest valid key), or an override of no known key.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read it ({error})") from None
    try:
        node: Any = cast(Any, yaml).compose(text, Loader=yaml.SafeLoader)
        fields: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        raise InputError(f"{path}, line 1: a recipe is a mapping of keys to values")
    for override in overrides:
        _override(cast(Any, fields), override)
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise InputError(_first_line(error, path, node, overrides)) from None
    return _with_absolute_paths(recipe, path.resolve().parent)


def _override(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: give key=value, e.g. --set bank.num_samples=32")
    *parents, last = key.split(".")
    section: Any = fields
    for parent in parents:
        section = cast(Any, section).setdefault(parent, {}) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        raise InputError(f"--set {override}: '{'.'.join(parents)}' is not a section of the recipe")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {override}: the value is not YAML") from None


def _first_line(error: ValidationError, path: Path, node: Any, overrides: Iterable[str]) -> str:
    problem = error.errors()[0]
    key: Key = tuple(part for part in problem["loc"] if part not in ("sandbox", "files"))
    name = ".".join(str(part) for part in key) or "recipe"
    line = _line_of(node, key)
    where = f"{path}, line {line}" if line else f"{path}"
    overridden = [item for item in overrides if item.split("=")[0] == name]
    if overridden:
        where = f"--set {overridden[0]}"
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(key[-1]), _valid_keys(key[:-1]), n=1, cutoff=0.0)
        return f"{where}: unknown key '{name}'; the nearest valid key is '{nearest[0]}'"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {name}: {message[0].lower() + message[1:]}{_given(problem)}"


def _given(problem: Any) -> str:
    value = problem.get("input")
    return "" if isinstance(value, dict) else f" (given: {value!r})"


def _line_of(node: Any, key: Key) -> int | None:
    """Line of the deepest part of ``key`` that stands in the file."""
    line = None
    for part in key:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _valid_keys(section: Key) -> list[str]:
    """Names of the fields of a section of the recipe."""
    models: list[type[BaseModel]] = [Recipe]
    for part in section:
        if isinstance(part, int):
            continue
        inner = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [model for annotation in inner for model in _models_in(annotation)]
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve what looks like a path against the recipe's folder; hub names stay."""

    def resolve(name: str) -> str:
        looks_local = name.startswith((".", "/", "~"))
        return str((folder / Path(name).expanduser()).resolve()) if looks_local else name

    policy = recipe.policy.model_copy(update={"model": resolve(recipe.policy.model)})
    scorers = recipe.scorers.model_copy(
        update={
            key: resolve(getattr(recipe.scorers, key))
            for key in ("reward_model", "cost_model", "backbone")
        }
    )
    data: SandboxData | FileData = recipe.data
    if isinstance(data, FileData):
        data = data.model_copy(update={"root": str((folder / data.root).resolve())})
    return recipe.model_copy(update={"policy": policy, "scorers": scorers, "data": data})
