"""YAML as recipes need it: ``2e-4`` is a number, no key appears twice, and every error has its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml

from tailguard.errors import InputError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, extended: by itself it reads ``2e-4`` (no decimal point) as text."""


# On a subclass, because a resolver added to SafeLoader would change YAML for the whole process.
cast(Any, _Loader).add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def parse_yaml(text: str) -> tuple[object, yaml.Node | None]:
    """The value of a YAML text, and its tree of nodes, which holds the line numbers.

    Raises:
        yaml.YAMLError: not YAML.
        ValueError: an invalid scalar, e.g. the date 2024-13-45.
    """
    node: yaml.Node | None = cast(Any, yaml).compose(text, Loader=_Loader)
    return yaml.load(text, Loader=_Loader), node


def read_yaml(path: Path) -> tuple[dict[object, object], yaml.Node | None]:
    """The mapping in a YAML file, and its tree of nodes.

    Raises:
        InputError: missing, unreadable, not YAML, not a mapping, or a key appears twice.
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
    if node is not None:  # an empty file has none
        _require_keys_once(path, node)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{path}, line 1: a recipe is a mapping of keys to values")
    return cast("dict[object, object]", value or {}), node


def line_of(node: yaml.Node | None, key: tuple[str | int, ...]) -> int | None:
    """Line of the deepest part of ``key`` that is in the file; None if no part of it is."""
    line = None
    for part in key:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            name, node = found[0]
            line = name.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            item: yaml.Node = node.value[part]
            line, node = item.start_mark.line + 1, item
        else:
            break
    return line


def _require_keys_once(path: Path, node: yaml.Node) -> None:
    """Refuse a repeated key: PyYAML silently keeps the last one."""
    seen_nodes: set[int] = set()
    # A stack, not recursion, and each node once: aliases share nodes and may even form a cycle.
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if id(here) in seen_nodes:
            continue
        seen_nodes.add(id(here))
        if isinstance(here, yaml.SequenceNode):
            waiting += here.value
        if not isinstance(here, yaml.MappingNode):
            continue
        lines: dict[object, int] = {}
        for key, value in here.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                raise InputError(
                    f"{path}, line {line}: key '{key.value}' appears twice (first on line"
                    f" {lines[key.value]}); keep one"
                )
            lines[key.value] = line
            waiting.append(value)
