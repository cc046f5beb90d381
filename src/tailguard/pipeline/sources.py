"""Where the reference policy and raw files come from, and their content hashes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tailguard.artifacts import content_hash, files_below
from tailguard.config import FileData, Recipe
from tailguard.errors import InputError

if TYPE_CHECKING:
    from tailguard.models.policy import Policy

SANDBOX_MODEL = "sandbox"
_FILES = (".jsonl", ".gz", ".parquet", ".json", ".csv", ".txt")


def policy_path(recipe: Recipe) -> str:
    """Folder or hub name of the reference policy."""
    return model_path(recipe.policy.model)


def model_path(name: str) -> str:
    """Folder or hub name of a model; ``sandbox`` is the one that ships with us."""
    if name != SANDBOX_MODEL:
        return name
    from tailguard.lab.sandbox import base_policy_path

    return str(base_policy_path())


def load_reference(recipe: Recipe, adapter: Path | None = None) -> Policy:
    """The recipe's policy where the recipe puts it, with an adapter merged into it."""
    from tailguard.models.policy import load_policy

    return load_policy(
        policy_path(recipe),
        adapter,
        trust_remote_code=recipe.policy.trust_remote_code,
        device=recipe.policy.device,
        dtype=recipe.policy.dtype,
    )


def policy_input(recipe: Recipe) -> dict[str, str]:
    """The reference policy's content hash: the raw input of stages that load it."""
    return {"policy": _model_hash(recipe.policy.model)}


def model_hashes(names: Iterable[str]) -> dict[str, str]:
    """Content hash of each model; a hub name stands for itself."""
    return {name: _model_hash(name) for name in names if name}


def _model_hash(name: str) -> str:
    path = Path(model_path(name))
    local = name == SANDBOX_MODEL or path.exists() or path.is_absolute()
    if not local:
        return f"hub:{name}"
    files = files_below(path)
    looks = tuple((str(f), s.st_size, s.st_mtime_ns) for f in files for s in [f.stat()])
    return _content_hash(path, looks)


# Reading a model takes seconds and several stages ask for the same one.
@cache
def _content_hash(path: Path, looks: tuple[tuple[str, int, int], ...]) -> str:
    """Of files that look like this: a model is read again only if its files were touched."""
    return content_hash(path)


def file_hashes(recipe: Recipe) -> dict[str, str]:
    """Content hash of every raw data file that the recipe names."""
    data = recipe.data
    if not isinstance(data, FileData):
        return {}
    names = {
        *data.reward_pairs,
        *data.cost_pairs,
        *data.prompts,
        *data.evaluation_prompts,
        *data.benign_prompts,
    }
    found = {name: _local(data, name) for name in sorted(names)}
    return {
        name: f"hub:{name.partition('?')[0]}" if local is None else content_hash(local[0])
        for name, local in found.items()
    }


def data_path(data: FileData, name: str) -> Path | str:
    """A data file or folder, relative to the data's root, or the name of a hub dataset.

    A ``?field=value`` at the end is not part of the name. A folder may be followed by ``:split``.

    Raises:
        InputError: no file can have this name; or it is a folder where the command runs, not in root.
    """
    local = _local(data, name)
    return name.partition("?")[0] if local is None else Path(f"{local[0]}{local[1]}")


def _local(data: FileData, name: str) -> tuple[Path, str] | None:
    """The file or folder, and the split written behind it; None for a name of the hub."""
    file = name.partition("?")[0]
    folder, colon, split = file.partition(":")
    root = Path(data.root)
    file, folder = (str(Path(given).expanduser()) for given in (file, folder))
    try:
        if (root / file).exists() or Path(file).suffix in _FILES:
            return root / file, ""
        if colon and (root / folder).is_dir():
            return root / folder, colon + split
        # What stands for a dataset of the hub is neither hashed nor moves with the recipe. The library
        # that loads one takes a folder of its name first.
        if (here := Path(*Path(folder).parts[:2])).is_dir() and not here.is_absolute():
            raise InputError(
                f"data: '{name[:60]}': is not in {root}, to which names are relative, but '{here}' is"
                " in the working directory; give the path to it"
            )
        return None
    except OSError as error:
        raise InputError(f"data: '{name[:60]}': {error.strerror}; give another name") from None
