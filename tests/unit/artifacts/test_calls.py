"""The record of calls: it grows, it is not sealed, and nothing is done where it cannot be kept."""

import os
import threading
from pathlib import Path

import pytest

from tailguard.artifacts import (
    Header,
    build_artifact,
    read_calls,
    record_call,
    require_recordable,
    require_sealed,
)
from tailguard.artifacts.manifest import CALLS_NAME
from tailguard.errors import InputError


@pytest.fixture
def artifact(tmp_path) -> Path:
    return build_artifact(tmp_path, Header("Decoder", "calibrate", 1), lambda directory: {})[0]


def test_calls_follow_one_another_and_leave_the_seal_whole(artifact):
    assert read_calls(artifact) == []
    require_recordable(artifact)
    assert read_calls(artifact) == []
    for seed in range(3):
        record_call(artifact, {"seed": seed, "certified": False})
    assert [call["seed"] for call in read_calls(artifact)] == [0, 1, 2]
    require_sealed(artifact)
    (artifact / "added").write_text("")  # but nothing else may be added
    with pytest.raises(InputError, match="not those it was sealed with"):
        require_sealed(artifact)


def test_calls_side_by_side_are_all_there(artifact):
    def work(number: int) -> None:
        for _ in range(20):
            record_call(artifact, {"number": number, "text": "x" * 500})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(call["number"] for call in read_calls(artifact)) == sorted([0, 1, 2, 3] * 20)


@pytest.mark.parametrize("fault", ["link", "pipe", "folder", "gone"])
def test_where_no_record_can_be_kept(artifact, tmp_path, fault):
    place = artifact / CALLS_NAME
    if fault == "link":
        place.symlink_to(tmp_path / "elsewhere")
    elif fault == "pipe":
        os.mkfifo(place)
    elif fault == "folder":
        place.mkdir()
    else:
        artifact.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="the record of calls"):
        require_recordable(artifact)
    with pytest.raises(InputError, match="the record of calls"):
        record_call(artifact, {})
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("text", ["{}\n{", "[]\n", "\xff", "[" * 100_000])
def test_a_record_that_was_edited_is_named(artifact, text):
    (artifact / CALLS_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=rf"{CALLS_NAME}, line \d: not a call"):
        read_calls(artifact)
