"""Parts of a stage in processes of their own: the same results, the same errors, no orphans."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from tailguard.config import Recipe
from tailguard.errors import InfeasibleError, TailguardError
from tailguard.pipeline.stage import Work, silent
from tailguard.pipeline.workers import map_side_by_side


def _square(work, part):
    work.progress("squares", part, 3)
    return part * part + work.recipe.seed, os.getpid(), torch.get_num_threads()


def _fail(work, part):
    if part == "infeasible":
        raise InfeasibleError(f"{part}: nothing reaches it", 0.25)
    if part == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait(600)  # the other part would take long


def _wait_for_ever(work, part):
    (work.root / f"{part}.pid").write_text(str(os.getpid()))
    threading.Event().wait(600)


def run_for_ever(root):
    torch.get_num_threads = lambda: 2
    work = Work(Recipe(), Path(root), Path(root), {}, silent)
    map_side_by_side(_wait_for_ever, work, ["a", "b"])


@pytest.fixture
def seen():
    return []


@pytest.fixture
def work(tmp_path, seen):
    return Work(
        Recipe(seed=7),
        tmp_path,
        tmp_path,
        {},
        lambda what, done, total: seen.append((what, done, total)),
    )


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_results_come_in_order_from_processes_of_one_thread_each(work, seen, two_threads):
    made = map_side_by_side(_square, work, [1, 2, 3])
    assert [value for value, _, _ in made] == [8, 11, 16]
    assert os.getpid() not in {process for _, process, _ in made}
    assert {threads for _, _, threads in made} == {1}
    assert sorted(seen) == [("squares", part, 3) for part in (1, 2, 3)]


def test_one_thread_needs_no_processes(work, seen, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert [process for _, process, _ in map_side_by_side(_square, work, [1, 2])] == [
        os.getpid()
    ] * 2
    assert len(seen) == 2


@pytest.mark.parametrize("parts", [["infeasible", "slow"], ["slow", "infeasible"]])
def test_an_error_comes_back_whole_and_stops_the_other_part(work, two_threads, parts):
    with pytest.raises(InfeasibleError, match="infeasible: nothing reaches it") as caught:
        map_side_by_side(_fail, work, parts)
    assert caught.value.smallest_reachable_risk == 0.25


def test_a_killed_process_is_told_in_a_line(work, two_threads):
    with pytest.raises(TailguardError, match="worker process was killed"):
        map_side_by_side(_fail, work, ["killed", "slow"])


def test_a_process_that_starts_late_is_seen_to_be_killed(work, two_threads, monkeypatch):
    spawn = ProcessPoolExecutor._spawn_process  # pyright: ignore[reportAttributeAccessIssue]

    def slowly(pool):
        time.sleep(0.5)
        spawn(pool)

    monkeypatch.setattr(ProcessPoolExecutor, "_spawn_process", slowly)
    with pytest.raises(TailguardError, match="worker process was killed"):
        map_side_by_side(_fail, work, ["slow", "killed"])


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def _is_running(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_processes_die_with_a_parent_that_is_killed(tmp_path):
    folder = str(Path(__file__).parent)
    program = (
        f"import sys; sys.path.insert(0, {folder!r}); import test_workers as t\n"
        f"if __name__ == '__main__': t.run_for_ever({str(tmp_path)!r})"
    )
    file = tmp_path / "program.py"
    file.write_text(program)
    with subprocess.Popen([sys.executable, str(file)]) as parent:
        assert _until(lambda: len(list(tmp_path.glob("?.pid"))) == 2)
        workers = [int(path.read_text()) for path in tmp_path.glob("?.pid")]
        assert all(map(_is_running, workers))
        parent.kill()
    assert _until(lambda: not any(map(_is_running, workers)), 20)
