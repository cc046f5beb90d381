"""YAML as recipes need it: ``2e-4`` is a number, no key twice, and every error has its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml

from tailguard.errors import InputError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself reads ``2e-4`` (no point) as text."""


cast(Any, _Loader).add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def parse_yaml(text: str) -> tuple[Any, Any]:
    """The value of a YAML text, and its tree of nodes, which knows the lines.

    Raises:
        yaml.YAMLError: not YAML.
        ValueError: a scalar that is no value, e.g. the 40th of May.
    """
    node: Any = cast(Any, yaml).compose(text, Loader=_Loader)
    return yaml.load(text, Loader=_Loader), node


def read_yaml(path: Path) -> tuple[dict[Any, Any], Any]:
    """The mapping in a YAML file, and its tree of nodes.

    Raises:
        InputError: missing, unreadable, not YAML, not a mapping, or a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read it ({error})") from None
    try:
        value, node = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {error}") from None
    _require_keys_once(path, node)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{path}, line 1: a recipe is a mapping of keys to values")
    return cast("dict[Any, Any]", value or {}), node


def line_of(node: Any, key: tuple[str | int, ...]) -> int | None:
    """Line of the deepest part of ``key`` that stands in the file."""
    line = None
    for part in key:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _require_keys_once(path: Path, node: Any) -> None:
    """PyYAML silently keeps the last of two equal keys; a recipe must not."""
    seen_nodes: set[int] = set()
    waiting = [node]
    while waiting:
        here: Any = waiting.pop()
        if id(here) in seen_nodes:  # an alias
            continue
        seen_nodes.add(id(here))
        if isinstance(here, yaml.SequenceNode):
            waiting += here.value
        if not isinstance(here, yaml.MappingNode):
            continue
        lines: dict[Any, int] = {}
        for key, value in here.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                raise InputError(
                    f"{path}, line {line}: key '{key.value}' stands twice (first on line"
                    f" {lines[key.value]}); keep one"
                )
            lines[key.value] = line
            waiting.append(value)
