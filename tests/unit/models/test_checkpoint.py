"""Folders that no library should be let at, and names that may be a hub's."""

from pathlib import Path

import pytest

from tailguard.errors import InputError, first_line
from tailguard.models.checkpoint import require_checkpoint


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_weights_must_be_safetensors_of_the_model(folder):
    with pytest.raises(InputError, match=r"^policy .*: holds no weights"):
        require_checkpoint(folder, "policy")
    (folder / "heads.safetensors").write_bytes(b"")
    require_checkpoint(folder, "policy")
    with pytest.raises(InputError, match="holds no weights"):
        require_checkpoint(folder, "scorer", beside="heads.safetensors")
    for name in ("pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(b"")
        with pytest.raises(InputError, match="only pickled weights"):
            require_checkpoint(folder, "scorer", beside="heads.safetensors")
        require_checkpoint(folder, "scorer", beside="heads.safetensors", allow_pickle=True)
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(b"")
    require_checkpoint(folder, "scorer", beside="heads.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="holds no config"):
        require_checkpoint(folder, "scorer")


@pytest.mark.parametrize("name", ["gpt2", "owner/name"])
def test_names_that_may_be_a_hubs_pass(name):
    require_checkpoint(name, "policy")


@pytest.mark.parametrize("path", ["/no/where", "./nowhere", "../a", "a/b/c", Path("owner/name")])
def test_paths_that_are_not_there_are_refused(path):
    with pytest.raises(InputError, match="no such folder"):
        require_checkpoint(path, "policy")


def test_the_first_line_says_something():
    assert first_line(OSError("\n  not there \nadvice\n")) == "not there"
    assert first_line(KeyError()) == "KeyError"
