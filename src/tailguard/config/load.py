"""Read a recipe: YAML plus overrides, checked, with the line and the nearest valid key named."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tailguard.config.recipe import FileData, Recipe, SandboxData
from tailguard.config.yaml_text import line_of, parse_yaml, read_yaml
from tailguard.errors import InputError

Key = tuple[str | int, ...]
Models = list[type[BaseModel]]

_LONGEST_SHOWN = 60
_CLOSE = 0.6  # difflib's own idea of a close match


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file. Relative paths in it, and in overrides, are relative to its folder.
        overrides: ``section.key=value``, the value in YAML; a number is a place in a list.

    Raises:
        InputError: file missing, not YAML, a key twice, an unknown or ill-typed key (with its
            line and the nearest valid key), or an override of no known key.
    """
    fields, node = read_yaml(path)
    for override in overrides:
        _override(fields, override)
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise InputError(_message(error, path, node, overrides)) from None
    return _with_absolute_paths(recipe, path.resolve().parent)


def _override(fields: dict[Any, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {override}: give key=value, e.g. --set bank.num_samples=32")
    *parents, last = key.split(".")
    section: Any = fields
    for depth, parent in enumerate(parents, start=1):
        section = _inside(section, parent)
        if not isinstance(section, (dict, list)):
            name = ".".join(parents[:depth])
            raise InputError(f"--set {override}: '{name}' is not a section of the recipe")
    place: Any = last
    if isinstance(section, list):
        length = len(cast("list[Any]", section))
        if not (last.isdigit() and int(last) < length):
            raise InputError(f"--set {override}: '{last}' is no place in a list of {length}")
        place = int(last)
    try:
        section[place] = parse_yaml(value)[0]
    except (yaml.YAMLError, ValueError):
        raise InputError(f"--set {override}: the value is not YAML") from None


def _inside(section: Any, name: str) -> Any:
    """What stands in a section under a name, made if it is not there; None if there is no such."""
    if isinstance(section, dict):
        known = cast("dict[Any, Any]", section)
        if known.get(name) is None:
            known[name] = {}
        return known[name]
    items = cast("list[Any]", section)
    return items[int(name)] if name.isdigit() and int(name) < len(items) else None


def _message(error: ValidationError, path: Path, node: Any, overrides: Sequence[str]) -> str:
    problems = error.errors()
    # A misspelt key that is required is both unknown and missing; the first says how to mend it.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key, models = _resolve(problem["loc"])
    name = ".".join(str(part) for part in key) or "recipe"
    line = line_of(node, key)
    where = f"{path}, line {line}" if line else f"{path}"
    for override in overrides:
        set_key = override.partition("=")[0] + "."
        if f"{name}.".startswith(set_key) or (not line and set_key.startswith(f"{name}.")):
            where = f"--set {override}"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key '{name}'; the nearest valid key is '{_nearest(key, models)}'"
    found = [_words(p) for p in problems if _resolve(p["loc"])[0] == key]
    return f"{where}: {name}: {_joined(found)}{_given(problem)}"


def _words(problem: Any) -> str:
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "input should be a section of keys and values"
    if problem["type"] == "union_tag_not_found":
        return "say where it comes from: source: sandbox, or source: files"
    message: str = problem["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _joined(messages: list[str]) -> str:
    """What a value may be, of several kinds, as one sentence."""
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(other.removeprefix("input should be ") for other in others)])


def _given(problem: Any) -> str:
    value = problem.get("input")
    if isinstance(value, dict) or problem["type"] == "missing":
        return ""
    shown = repr(value)
    return f" (given: {shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + '…'})"


def _nearest(key: Key, section: Models) -> str:
    """The valid key nearest to an unknown one: of its section, or of its very name elsewhere."""
    last = str(key[-1])
    names = sorted({name for model in section for name in model.model_fields})
    close = difflib.get_close_matches(last, names, n=1, cutoff=_CLOSE)
    elsewhere = [] if close else [name for name in _all_keys(Recipe) if name.endswith(f".{last}")]
    return (close or elsewhere or difflib.get_close_matches(last, names, n=1, cutoff=0.0))[0]


def _resolve(location: tuple[int | str, ...]) -> tuple[Key, Models]:
    """The key that pydantic's location means, and the models that its last part is a field of.

    A location also names the member of a union that was tried; those parts are no keys.
    """
    key: list[str | int] = []
    section: Models = [Recipe]
    inner: Models = [Recipe]
    for part in location:
        tagged = [model for model in inner if part in _tags(model)]
        if tagged:
            inner = tagged
        elif isinstance(part, int):
            key.append(part)
        elif inner:
            key.append(part)
            section = inner
            inner = [m for model in section for m in _models_of(model, part)]
    return tuple(key), section


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    source = model.model_fields.get("source")
    return get_args(source.annotation) if source else ()


def _models_of(model: type[BaseModel], name: str) -> Models:
    return _models_in(model.model_fields[name].annotation) if name in model.model_fields else []


def _models_in(annotation: Any) -> Models:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in model.model_fields:
        yield prefix + name
        for inner in _models_of(model, name):
            yield from _all_keys(inner, f"{prefix}{name}.")


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve what is a path against the recipe's folder; names of hub models stay."""

    def resolve(name: str) -> str:
        is_path = name.startswith((".", "/", "~")) or ("/" in name and (folder / name).exists())
        return str((folder / Path(name).expanduser()).resolve()) if is_path else name

    policy = recipe.policy.model_copy(update={"model": resolve(recipe.policy.model)})
    scorers = recipe.scorers.model_copy(
        update={
            key: resolve(getattr(recipe.scorers, key))
            for key in ("reward_model", "cost_model", "backbone")
        }
    )
    data: SandboxData | FileData = recipe.data
    if isinstance(data, FileData):
        root = (folder / Path(data.root).expanduser()).resolve()
        data = data.model_copy(update={"root": str(root)})
    return recipe.model_copy(update={"policy": policy, "scorers": scorers, "data": data})
