"""What a model folder must hold before a library opens it: policies, scorers and backbones."""

from __future__ import annotations

from pathlib import Path

from tailguard.errors import InputError


def require_checkpoint(
    path: str | Path, kind: str, *, beside: str = "", allow_pickle: bool = False
) -> None:
    """Refuse a local path that is not a transformers folder with safetensors weights.

    Libraries report the same in many lines, or read pickled weights, which can run code. Names
    that may be those of hub models pass.

    Args:
        path: a folder, or the name of a hub model.
        kind: what messages call it, such as ``policy``.
        beside: a safetensors file of our own, which is not the model's weights.
        allow_pickle: let a folder with pickled weights pass.

    Raises:
        InputError: it is not one; a single line that names the path.
    """
    folder = Path(path)
    if not folder.is_dir():
        if isinstance(path, Path) or not _may_be_a_hub_name(str(path)):
            raise InputError(f"{kind} {path}: no such folder; give a model folder or a hub name")
        return
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                f"{kind} {path}: holds an adapter alone; give the model that it was trained on"
            )
        raise InputError(f"{kind} {path}: holds no config.json; give a transformers model folder")
    weights = [file for file in folder.glob("*.safetensors") if file.name != beside]
    if not weights and not allow_pickle:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        found = "only pickled weights, which can run code when read" if pickled else "no weights"
        if any(folder.glob("*.gguf")):
            found = "only GGUF weights, which are for other programs"
        raise InputError(f"{kind} {path}: holds {found}; save it again with safetensors")


def _may_be_a_hub_name(name: str) -> bool:
    """``name`` or ``owner/name``; anything else can only be a path."""
    return not (Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1)
