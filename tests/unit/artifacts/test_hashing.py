"""Hashes of values, files and folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailguard.artifacts import content_hash, hash_of
from tailguard.errors import InputError


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"bytes of {name}".encode())
    return folder


def test_file_hash_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # the test vector of FIPS 180-4
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(tmp_path / "a") == expected


def test_folder_hash_ignores_times_order_of_making_and_hidden_files(tmp_path):
    names = ["model.safetensors", "config.json", "onnx/weights.bin"]
    first = fill(tmp_path / "first", names)
    second = fill(tmp_path / "second", names[::-1])
    fill(second, [".cache/lock", ".DS_Store"])
    os.utime(second / "config.json", (0, 0))
    assert content_hash(first) == content_hash(second)


def test_folder_under_a_hidden_folder_counts(tmp_path):
    # Hub models lie under ~/.cache.
    first, second = tmp_path / ".cache" / "first", tmp_path / ".cache" / "second"
    fill(first, ["a"])
    fill(second, ["b"])
    assert content_hash(first) != content_hash(second)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a").write_bytes(b"bytes of A"),
        lambda folder: (folder / "a").rename(folder / "b"),
        lambda folder: (folder / "new").write_bytes(b""),
        lambda folder: (folder / "sub" / "c").unlink(),
        lambda folder: (folder / "sub" / "c").rename(folder / "c"),
    ],
    ids=["byte", "renamed", "added", "removed", "moved"],
)
def test_folder_hash_changes_with(tmp_path, change):
    folder = fill(tmp_path, ["a", "sub/c"])
    before = content_hash(folder)
    change(folder)
    assert content_hash(folder) != before


def test_folder_hash_follows_links_to_files(tmp_path):
    blob = fill(tmp_path, ["blobs/x"]) / "blobs" / "x"
    linked, plain = tmp_path / "linked", tmp_path / "plain"
    linked.mkdir()
    plain.mkdir()
    (linked / "model").symlink_to(blob)
    (plain / "model").write_bytes(blob.read_bytes())
    assert content_hash(linked) == content_hash(plain)


def test_missing_path_is_wrong_input(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        content_hash(tmp_path / "nowhere")


def test_value_hash_is_the_same_in_another_process():
    program = "from tailguard.artifacts import hash_of; print(hash_of({'b': [1, 2.5], 'a': None}))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    ).stdout.strip()
    assert found == hash_of({"a": None, "b": [1, 2.5]})


@pytest.mark.parametrize("value", [{"a", "b"}, object(), {"path": Path("a")}])
def test_values_without_one_spelling_are_refused(value):
    with pytest.raises(TypeError):
        hash_of(value)
