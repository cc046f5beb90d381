"""YAML as recipes need it: plain values under keys that are text, and every error has its line.

Of YAML 1.1, PyYAML's dialect, what surprises is left out: ``2e-4`` is a number, ``010`` and ``1:30``
are none, and a date is text. What only misleads or attacks is refused: keys twice, keys that are no
text, tags, control characters, aliases that multiply, a depth or size that no recipe has.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any, cast

import yaml

from tailguard.errors import InputError, first_line

_MOST_CHARACTERS = 1 << 18  # PyYAML reads about as many in two seconds; recipes have some thousands
_MOST_VALUES = 10_000  # after aliases: ten lines of them can stand for more than any memory holds
_MOST_LEVELS = 20  # a recipe has five
_LONGEST_SHOWN = 60  # characters of what is wrong: the message stays on one line of a terminal
_LONGEST_NUMBER = 40  # Python itself refuses to read whole numbers of thousands of digits

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_PLAIN = {_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with its own idea of what is a number.

    A subclass, because a resolver changed on SafeLoader would change YAML for the whole process.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class's attribute, not one of instances
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.removeprefix(_TAG) not in (*_NUMBERS, "timestamp", "value")
        ]
        for first, resolvers in cast(Any, yaml.SafeLoader).yaml_implicit_resolvers.items()
    }


for _kind, _pattern in _NUMBERS.items():
    cast(Any, _Loader).add_implicit_resolver(
        _TAG + _kind, re.compile(rf"(?:{_pattern})$"), "-+.0123456789"
    )


def shortened(text: str) -> str:
    """A text as messages show it: cut where it would not fit on a line."""
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


class YamlError(Exception):
    """What is wrong with a YAML text, and on which line; the reader says of which file or option."""

    def __init__(self, line: int | None, problem: str) -> None:
        super().__init__(problem)
        self.line = line

    def said_of(self, where: str) -> InputError:
        """The error to raise."""
        return InputError(f"{where}, line {self.line}: {self}" if self.line else f"{where}: {self}")


def parse_yaml(text: str) -> tuple[object, yaml.Node | None]:
    """The value of a YAML text, and its tree of nodes, which holds the line numbers.

    Raises:
        YamlError: not YAML, or not plain values under keys that are text.
    """
    if len(text) > _MOST_CHARACTERS:
        raise YamlError(None, f"has {len(text)} characters; at most {_MOST_CHARACTERS} are read")
    try:
        loader: Any = _Loader(text)
        node: yaml.Node | None = loader.get_single_node()
        if node is None:  # nothing but comments
            return None, None
        _require_plain(node, loader)
        # A copy, so that an override of a key leaves those alone that share its value by an alias.
        return _copied(loader.construct_document(node)), node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlError(line, f"not YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        shown = ascii(chr(error.character))
        raise YamlError(line, f"not YAML: the character {shown} is not allowed") from None
    except RecursionError:
        raise YamlError(None, "not YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(None, f"not YAML: {first_line(error)}") from None


def read_yaml(path: Path) -> tuple[dict[object, object], yaml.Node | None]:
    """The mapping in a YAML file, and its tree of nodes.

    Raises:
        InputError: missing, not a file, unreadable, not YAML, or not a mapping.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would keep us waiting
            raise InputError(f"{path}: cannot read it (not a file)")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot read it (not UTF-8 text: {error.reason})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read it ({error.strerror})") from None
    try:
        value, node = parse_yaml(text)
    except YamlError as problem:
        raise problem.said_of(str(path)) from None
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
            name, node = found[-1]  # the first may have come from a merge, which it overrides
            line = name.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            item: yaml.Node = node.value[part]
            line, node = item.start_mark.line + 1, item
        else:
            break
    return line


def _require_plain(root: yaml.Node, loader: Any) -> None:
    """Refuse what is not plain values under keys that are text, each once."""
    # Aliases are followed each time they are met, as whoever reads the values will: it is how many
    # there are that ends a cycle of them.
    waiting: list[tuple[tuple[str, ...], yaml.Node]] = [((), root)]  # the last one is next
    for _ in range(_MOST_VALUES):
        if not waiting:
            return
        key, node = waiting.pop()
        if len(key) > _MOST_LEVELS:
            raise _refused(node, key[:3], f"nested more than {_MOST_LEVELS} levels deep")
        if node.tag not in _PLAIN:
            raise _refused(node, key, f"the tag {_shown(node.tag)} has no place in a recipe")
        if isinstance(node, yaml.ScalarNode):
            _require_plain_scalar(node, key, loader)
        elif isinstance(node, yaml.SequenceNode):
            items = [(str(number), item) for number, item in enumerate(node.value)]
            waiting += [((*key, name), item) for name, item in reversed(items)]
        elif isinstance(node, yaml.MappingNode):
            items = _items(node, key)
            waiting += [((*key, name), item) for name, item in reversed(items)]
    raise _refused(root, (), f"has more than {_MOST_VALUES} values, aliases followed")


def _items(node: yaml.MappingNode, key: tuple[str, ...]) -> list[tuple[str, yaml.Node]]:
    """The keys of a mapping and their values. PyYAML silently keeps the last of a repeated key."""
    found: dict[str, tuple[int, yaml.Node]] = {}
    for name, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
        if name.tag not in (_TAG + "str", _MERGE) or not isinstance(name, yaml.ScalarNode):
            shown: str = name.value if isinstance(name, yaml.ScalarNode) else "[…]"
            problem = (
                f"the key {shortened(shown)!r} is no text ({_shown(name.tag)}); put it in quotes"
            )
            raise _refused(name, key, problem)
        if (odd := _odd_character(name.value, "")) is not None:
            raise _refused(
                name, key, f"the key {shortened(name.value)!a} holds the character {odd!a}"
            )
        line = name.start_mark.line + 1
        if name.value in found:
            first = found[name.value][0]
            problem = (
                f"key '{shortened(name.value)}' appears twice (first on line {first}); keep one"
            )
            raise YamlError(line, problem)
        found[name.value] = (line, value)
    return [(name, value) for name, (_, value) in found.items()]


def _require_plain_scalar(node: yaml.ScalarNode, key: tuple[str, ...], loader: Any) -> None:
    value: str = node.value
    if (odd := _odd_character(value, "\t\n\r")) is not None:
        raise _refused(node, key, f"holds the character {odd!a}")
    if node.tag == _TAG + "str":
        return
    # Written with a tag, as in `!!bool x`, a value need not be what it is called.
    if loader.resolve(yaml.ScalarNode, value, (True, False)) != node.tag:
        raise _refused(node, key, f"{shortened(value)!r} is no {_shown(node.tag)}")
    if len(value) > _LONGEST_NUMBER:
        raise _refused(node, key, f"a number of {len(value)} characters; give a shorter one")


def _odd_character(text: str, allowed: str) -> str | None:
    """The first control character or half of a surrogate pair: no file has such a name."""
    odd = (c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in allowed)
    return next(odd, None)


def _refused(node: yaml.Node, key: tuple[str, ...], problem: str) -> YamlError:
    name = f"{shortened('.'.join(key))}: " if key else ""
    return YamlError(node.start_mark.line + 1, name + problem)


def _shown(tag: str) -> str:
    return shortened(tag.replace(_TAG, "!!"))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_copied(item) for item in cast("list[Any]", value)]
    return value
