"""Is the function there that a recipe names? Answered from its source, without running it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path


def missing_function(path: str, folder: Path) -> str | None:
    """What is wrong with ``package.module:function``; None if it seems to be there.

    Its module is read and not imported: that would run the user's code, and load what it imports,
    before the rest of the recipe is checked. The stage that needs the function imports it.

    Args:
        path: of the function.
        folder: where its module may be, besides the environment.
    """
    module, _, name = path.partition(":")
    place = folder.joinpath(*module.split("."))
    files = (place.with_name(place.name + ".py"), place / "__init__.py")
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        package = module.partition(".")[0]
        known = (folder / package).is_dir() or importlib.util.find_spec(package) is not None
        return None if known else f"python: {path}: no module {module} in {folder}"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        return f"python: {path}: {file} cannot be read ({error})"
    except SyntaxError as error:
        return f"python: {path}: {file}, line {error.lineno}: {error.msg}"
    names = {found for node in ast.walk(tree) for found in _bound(node)}
    # `from x import *` may bind anything.
    return None if name in names or "*" in names else f"python: {path}: {file} has no '{name}'"


def _bound(node: ast.AST) -> list[str]:
    """The names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    return []
