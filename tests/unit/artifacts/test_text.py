"""JSON on disk."""

import errno
import math

import numpy as np
import pytest

from tailguard.artifacts import read_json, write_json
from tailguard.errors import InputError


def test_arrays_and_what_json_cannot_say(tmp_path):
    value = {"a": np.arange(3), "b": np.float64(math.inf), "c": (-math.inf, math.nan), 4: True}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == {
        "a": [0, 1, 2],
        "b": "inf",
        "c": ["-inf", None],
        "4": True,
    }


def test_the_same_value_gives_the_same_bytes(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": {"b": 2, "a": 3}})
    write_json(tmp_path / "b", {"y": {"a": 3, "b": 2}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.open"])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, where):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "x.json", {"old": 1})
    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "x.json", {"new": 2})
    monkeypatch.undo()
    assert read_json(tmp_path / "x.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_what_is_not_json_is_wrong_input(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: not JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match=r"y\.json: no such file"):
        read_json(tmp_path / "y.json")
