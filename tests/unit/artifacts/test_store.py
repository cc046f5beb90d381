"""Building artifacts: sealed last, or not there at all."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tailguard.artifacts import (
    Header,
    Manifest,
    build_artifact,
    locked,
    read_json,
    read_manifest,
    store,
)
from tailguard.errors import InputError

HEADER = Header(kind="Numbers", stage="count", version=1, config={"seed": 3})


def write_numbers(directory: Path) -> dict[str, object]:
    (directory / "numbers.txt").write_text("1 2 3\n")
    (directory / "more").mkdir()
    (directory / "more" / "numbers.txt").write_text("4 5 6\n")
    return {"total": 21}


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != ".lock")


def test_built_once_then_found(tmp_path):
    calls: list[Path] = []

    def write(directory: Path) -> dict[str, object]:
        calls.append(directory)
        return write_numbers(directory)

    first, was_there = build_artifact(tmp_path, HEADER, write)
    again, is_there = build_artifact(tmp_path, HEADER, write)
    assert (was_there, is_there, first) == (False, True, again)
    assert len(calls) == 1
    assert calls[0] != first  # never written in place
    assert leftovers(tmp_path) == [f"count-{HEADER.id()}"]


def test_manifest_says_what_it_is(tmp_path):
    parent, _ = build_artifact(tmp_path, HEADER, write_numbers)
    header = Header(
        "Sum", "add", 2, {"seed": 4}, parents={"numbers": parent}, inputs={"data": "ff"}
    )
    path, _ = build_artifact(tmp_path, header, write_numbers)
    manifest = read_manifest(path)
    assert (manifest.kind, manifest.stage, manifest.id) == ("Sum", "add", header.id())
    assert manifest.parents == {"numbers": {"directory": parent.name, "id": HEADER.id()}}
    assert manifest.inputs == {"data": "ff"}
    assert manifest.config == {"seed": 4}
    assert manifest.metrics["total"] == 21
    assert manifest.metrics["seconds"] >= 0
    assert {"python", "tailguard", "numpy"} <= set(manifest.versions)


def test_manifest_is_written_last(tmp_path, monkeypatch):
    seen: list[tuple[list[str], list[str]]] = []
    write_manifest = store.write_manifest

    def spy(directory: Path, manifest: Manifest) -> None:
        inside = [p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()]
        seen.append((sorted(inside), leftovers(tmp_path)))
        write_manifest(directory, manifest)

    monkeypatch.setattr(store, "write_manifest", spy)
    path, _ = build_artifact(tmp_path, HEADER, write_numbers)
    assert seen == [(["more/numbers.txt", "numbers.txt"], [f".{path.name}.partial"])]


def test_payload_hash_depends_on_the_payload_alone(tmp_path):
    later = Header("Numbers", "count", 1, {"seed": 4})
    first, _ = build_artifact(tmp_path, HEADER, write_numbers)
    second, _ = build_artifact(tmp_path, later, write_numbers)
    assert first != second
    assert read_manifest(first).payload_hash == read_manifest(second).payload_hash


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "Letters"},
        {"stage": "recount"},
        {"version": 2},
        {"config": {"seed": 4}},
        {"config": {}},
        {"inputs": {"data": "00"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_anything_changed_is_another_id(changed):
    fields: dict[str, Any] = {
        "kind": "Numbers",
        "stage": "count",
        "version": 1,
        "config": {"seed": 3},
    }
    assert Header(**fields).id() == HEADER.id()
    assert Header(**(fields | changed)).id() != HEADER.id()


def test_another_parent_is_another_id(tmp_path):
    one, _ = build_artifact(tmp_path, HEADER, write_numbers)
    two, _ = build_artifact(tmp_path, Header("Numbers", "count", 2), write_numbers)
    ids = {Header("Sum", "add", 1, parents={"numbers": path}).id() for path in (one, two)}
    assert len(ids) == 2


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_failing_writer_leaves_nothing(tmp_path, error):
    def write(directory: Path) -> dict[str, object]:
        write_numbers(directory)
        raise error

    with pytest.raises(type(error)):
        build_artifact(tmp_path, HEADER, write)
    assert leftovers(tmp_path) == []


def test_a_disk_that_fails_at_the_flush_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build_artifact(tmp_path, HEADER, write_numbers)
    assert leftovers(tmp_path) == []


def test_failing_seal_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):  # metrics that JSON cannot hold
        build_artifact(tmp_path, HEADER, lambda directory: {"total": object()})
    assert leftovers(tmp_path) == []


DYING = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from tailguard.artifacts import Header, Manifest, build_artifact, locked, store

    root, moment = Path(sys.argv[1]), sys.argv[2]

    def die(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    def write(directory):
        (directory / "numbers.txt").write_text("1 2 3")
        if moment == "write":
            die()
        return {}

    if moment in ("payload_hash", "write_manifest", "_flush"):
        setattr(store, moment, die)
    if moment == "rename":
        Path.rename = die
    if moment == "replace":  # the manifest is on disk under its temporary name
        Path.replace = die
    with locked(root):
        build_artifact(root, Header("Numbers", "count", 1, {"seed": int(sys.argv[3])}), write)
""")


def die_at(moment: str, root: Path, seed: int = 3) -> int:
    command = [sys.executable, "-c", DYING, str(root), moment, str(seed)]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize(
    "moment", ["write", "_flush", "payload_hash", "write_manifest", "replace", "rename"]
)
def test_killed_at(tmp_path, moment):
    assert die_at(moment, tmp_path) == -signal.SIGKILL
    assert leftovers(tmp_path) == [f".count-{HEADER.id()}.partial"]
    with locked(tmp_path):
        path, was_there = build_artifact(tmp_path, HEADER, write_numbers)
    assert not was_there
    assert read_manifest(path).payload_hash == store.payload_hash(path)
    assert leftovers(tmp_path) == [path.name]


def test_what_was_killed_under_another_recipe_is_swept_away(tmp_path):
    assert die_at("write", tmp_path, seed=99) == -signal.SIGKILL
    (tmp_path / ".run.json.partial").write_text("{")
    with locked(tmp_path):
        path, _ = build_artifact(tmp_path, HEADER, write_numbers)
    assert leftovers(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda path: (path / "numbers.txt").write_text("1 2 4\n"),
        lambda path: (path / "numbers.txt").unlink(),
        lambda path: (path / "more" / "added").write_text(""),
        lambda path: (path / "numbers.txt").rename(path / "figures.txt"),
        lambda path: (path / "manifest.json").unlink(),
    ],
    ids=["edited", "removed", "added", "renamed", "unsealed"],
)
def test_tampered_payload_is_refused(tmp_path, tamper):
    path, _ = build_artifact(tmp_path, HEADER, write_numbers)
    tamper(path)
    with pytest.raises(InputError, match=r"not those it was sealed with; delete the folder"):
        build_artifact(tmp_path, HEADER, write_numbers)


def test_a_folder_held_by_another_process_is_refused(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tailguard.artifacts import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        partial = tmp_path / ".count-1.partial"
        partial.mkdir()
        with pytest.raises(InputError, match="another tailguard is writing"), locked(tmp_path):
            pytest.fail("two processes hold the folder")
        assert partial.is_dir()  # the holder's work in hand
        holder.kill()
    with locked(tmp_path):  # the lock died with its holder
        assert not partial.exists()


def test_a_folder_that_cannot_be_made_is_wrong_input(tmp_path):
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "run"
    with pytest.raises(InputError, match=r"--out .*file/run: cannot write there"), locked(root):
        pytest.fail("the folder cannot be there")


def test_a_full_disk_is_not_wrong_input(tmp_path, monkeypatch):
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space") as caught, locked(tmp_path):
        pass
    assert not isinstance(caught.value, InputError)


def test_seconds_are_recorded_beside_the_figures(tmp_path):
    path, _ = build_artifact(tmp_path, HEADER, write_numbers)
    assert set(read_json(path / "manifest.json")["metrics"]) == {"total", "seconds"}
