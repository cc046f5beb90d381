"""Read a recipe: YAML plus overrides, checked, with the line and the nearest valid key named."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tailguard.config.data_sections import FileData
from tailguard.config.recipe import Recipe
from tailguard.config.scorer_source import ScorerSource
from tailguard.config.yaml_text import YamlError, line_of, parse_yaml, read_yaml, shortened
from tailguard.errors import InputError, first_line

Key = tuple[str | int, ...]
Models = list[type[BaseModel]]

_LONGEST_KEY = 60  # difflib takes the square of it
_CLOSE = 0.6  # difflib's default for a close match


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file. Paths in it, and in overrides, are relative to its folder.
        overrides: ``section.key=value``, the value in YAML; a number is an index into a list.

    Raises:
        InputError: the file is missing or not YAML, a key appears twice, a key is unknown or has a
            value of the wrong type (with its line and the nearest valid key), or an override names
            an unknown key.
    """
    fields, node = read_yaml(path)
    for override in overrides:
        _override(fields, override)
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise InputError(_message(error, path, node, overrides)) from None
    return _with_absolute_paths(recipe, path, node)


def _override(fields: dict[object, object], override: str) -> None:
    # Overrides are written into the YAML's values before the schema sees them, so that a wrong
    # override gives the same messages as a wrong key of the file.
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"{_option(override)}: give key=value, e.g. --set bank.num_samples=32")
    *parents, last = key.split(".")
    section: object = fields
    for depth, parent in enumerate(parents, start=1):
        found = _inside(section, parent)
        if not isinstance(found, (dict, list)):
            name = ".".join(parents[:depth])
            raise InputError(
                f"{_option(override)}: '{shortened(name)}' is not a section of the recipe"
            )
        section = cast(object, found)
    try:
        given = parse_yaml(value)[0]
    except YamlError as problem:
        raise InputError(f"{_option(override)}: {problem}") from None
    if isinstance(section, list):
        items = cast("list[object]", section)
        if (place := _index(last, items)) is None:
            raise InputError(
                f"{_option(override)}: '{shortened(last)}' is not an index into a list of {len(items)}"
            )
        items[place] = given
    else:
        cast("dict[object, object]", section)[last] = given


def _option(override: str) -> str:
    return f"--set {shortened(override)}"


def _inside(section: object, name: str) -> object:
    """The value of a key or an index in a section; a missing key gets an empty section.

    Returns:
        None if the section is a list without this index.
    """
    if isinstance(section, dict):
        known = cast("dict[object, object]", section)
        if known.get(name) is None:  # also a key without a value: `bank:` alone is null in YAML
            known[name] = {}
        return known[name]
    items = cast("list[object]", section)
    place = _index(name, items)
    return None if place is None else items[place]


def _index(name: str, items: list[object]) -> int | None:
    # As text, because int() refuses thousands of digits and takes those of other scripts.
    return int(name) if name in map(str, range(len(items))) else None


def _message(
    error: ValidationError, path: Path, node: yaml.Node | None, overrides: Sequence[str]
) -> str:
    """One line: where, which key, what is wrong, and the nearest valid key or what was given."""
    problems = error.errors()
    # A misspelt key that is required is both unknown and missing; "unknown" says how to fix it.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key, models = _resolve(problem["loc"])
    told = _words(problem)
    if not key:  # a rule about several sections, whose message begins with the key at fault
        parts = told.partition(":")[0].split(".")
        key = tuple(int(part) if part.isdecimal() else part for part in parts)
    name = ".".join(str(part) for part in key)
    line = line_of(node, key)
    where = f"{path}, line {line}" if line else f"{path}"
    # The last override of the key, or of a section around it, is what the user must change.
    for override in overrides:
        set_key = override.partition("=")[0] + "."
        if f"{name}.".startswith(set_key) or (not line and set_key.startswith(f"{name}.")):
            where = _option(override)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key '{shortened(name)}'; the nearest valid key is '{_nearest(key, models)}'"
    if told.startswith(f"{name}: "):
        return f"{where}: {told}"
    found = [_words(p) for p in problems if _resolve(p["loc"])[0] == key]
    return f"{where}: {name}: {_joined(found)}{_given(problem)}"


def _words(problem: ErrorDetails) -> str:
    """Pydantic's message, or a plainer one where it speaks of Python's types."""
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "input should be a section of keys and values"
    if problem["type"] == "tuple_type":
        return "input should be a list"
    if problem["type"] == "union_tag_not_found":
        return "give source: sandbox, or source: files"
    message = problem["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _joined(messages: list[str]) -> str:
    """One sentence from the messages of a union, of which each member gives its own."""
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(other.removeprefix("input should be ") for other in others)])


def _given(problem: ErrorDetails) -> str:
    value: object = problem.get("input")
    if isinstance(value, dict) or problem["type"] == "missing":
        return ""
    return f" (given: {shortened(repr(value))})"


def _nearest(key: Key, section: Models) -> str:
    """The valid key nearest to an unknown one.

    A close match in its section; else a key of exactly this name in another section; else the least
    distant key of its section.
    """
    last = str(key[-1])[:_LONGEST_KEY]
    names = sorted({name for model in section for name in model.model_fields})
    close = difflib.get_close_matches(last, names, n=1, cutoff=_CLOSE)
    elsewhere = [] if close else [name for name in _all_keys(Recipe) if name.endswith(f".{last}")]
    return (close or elsewhere or difflib.get_close_matches(last, names, n=1, cutoff=0.0))[0]


def _resolve(location: tuple[int | str, ...]) -> tuple[Key, Models]:
    """The key of a pydantic location, and the models that its last part is a field of.

    A location also names the member of a union that was tried; those parts are not keys.
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
    """The values of ``source`` that select this model in the union of `Recipe.data`."""
    source = model.model_fields.get("source")
    return get_args(source.annotation) if source else ()


def _models_of(model: type[BaseModel], name: str) -> Models:
    return _models_in(model.model_fields[name].annotation) if name in model.model_fields else []


def _models_in(annotation: object) -> Models:
    """The models in an annotation, through unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in model.model_fields:
        yield prefix + name
        for inner in _models_of(model, name):
            yield from _all_keys(inner, f"{prefix}{name}.")


def _with_absolute_paths(recipe: Recipe, path: Path, node: yaml.Node | None) -> Recipe:
    """Resolve paths against the recipe's folder; names of hub models stay as they are."""
    folder = path.resolve().parent

    def resolved(name: str, key: Key, *, is_path: bool = False) -> str:
        try:
            # "owner/model" is a hub name unless the recipe's folder has such a path.
            is_path |= name.startswith((".", "/", "~")) or (
                "/" in name and (folder / name).exists()
            )
            return str((folder / Path(name).expanduser()).resolve()) if is_path else name
        except (OSError, RuntimeError) as error:  # links in a circle, folders that are closed to us
            line = line_of(node, key)
            where = f"{path}, line {line}" if line else f"{path}"
            named = ".".join(map(str, key))
            raise InputError(f"{where}: {named}: {first_line(error)}") from None

    policy, scorers, data = recipe.policy, recipe.scorers, recipe.data
    policy = policy.model_copy(update={"model": resolved(policy.model, ("policy", "model"))})
    paths: dict[str, object] = {"backbone": resolved(scorers.backbone, ("scorers", "backbone"))}
    for name in ("reward_model", "cost_model"):
        source: ScorerSource | None = getattr(scorers, name)
        if source is not None:
            key = ("scorers", name)
            # The name of a model behind an endpoint is no path.
            inside: dict[str, str] = {}
            if source.kind == "model":
                inside = {"model": resolved(source.model, key)}
            if source.kind == "python":
                inside = {"folder": resolved(source.folder, (*key, "folder"), is_path=True)}
            paths[name] = source.model_copy(update=inside)
    scorers = scorers.model_copy(update=paths)
    if isinstance(data, FileData):
        root = resolved(data.root, ("data", "root"), is_path=True)
        data = data.model_copy(update={"root": root})
    return recipe.model_copy(update={"policy": policy, "scorers": scorers, "data": data})
